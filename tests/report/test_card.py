"""The model card and the STAC item beside a promoted version."""

from __future__ import annotations

from pathlib import Path

import pystac
import pytest
import torch
from pystac.extensions.mlm import MLMExtension
from safetensors.torch import save_file
from torch import nn

from tests.contracts import make_contract
from tests.judged_run import HOSTILE
from ununennium import pipeline
from ununennium.checkpoints.artifact import load_artifact, write_artifact
from ununennium.checkpoints.registry import Registry
from ununennium.errors import CheckpointError
from ununennium.files import write_json
from ununennium.runs.directory import read_json

CONTRACT = make_contract(
    classes=["ground", HOSTILE], band_names=["pan"], statistics={"mean": [4.0], "std": [2.0]}, resolution=[0.5, 0.5],
    crs="EPSG:32616", chip_size=64, tta=True, temperature=1.5, git_commit="c", versions={"torch": torch.__version__},
    metrics={"IoU": {"mean": 0.5, HOSTILE: None}, "kappa": 0.25}, run_id="r", created="2026-01-02T03:04:05.000+00:00",
)  # fmt: skip


@pytest.fixture
def promoted(judged):
    """The folder of a version that was promoted, with a card of which one field is filled in."""
    model, chip = nn.Conv2d(1, 2, 1), torch.randn(1, 1, 64, 64)
    write_artifact(judged.artifact_folder, model.state_dict(), CONTRACT)
    save_file({"chip": chip, "logits": model(chip).detach()}, judged.probe_file)
    write_json(judged.gate_file, {**read_json(judged.gate_file), "verdict": "promoted", "generation": 0})
    record = judged.record()
    record.config["card"] = {"intended_use": f"roofs, {HOSTILE}", "licence": "MIT"}
    write_json(judged.run_file, record)
    version = pipeline.promote(judged, actor="test").version
    return Path(Registry(judged.storage, "roads").version_url(version))


@pytest.mark.slow
def test_a_promoted_version_has_a_card_and_is_still_what_it_was(promoted):
    assert sorted(file.name for file in promoted.iterdir()) == [
        "README.md", "contract.json", "model.safetensors", "stac.json"
    ]  # fmt: skip
    model, contract = load_artifact(str(promoted))
    assert isinstance(model, nn.Conv2d)
    text = (promoted / "README.md").read_text()
    assert 'license: "MIT"' in text
    assert "| kappa | 0.2500 |" in text
    assert contract["weights_sha256"] in text
    assert "set `card.limits`" in text
    assert "<script" not in text.replace("\\<script", "")
    assert "roofs, \\<script" in text


@pytest.mark.slow
def test_the_stac_item_is_read_by_the_extensions_own_library(promoted):
    file = promoted / "stac.json"
    item = pystac.Item.from_file(str(file))
    model = MLMExtension.ext(item)
    assert model.mlm_name == "roads"
    assert [str(getattr(task, "value", task)) for task in model.tasks] == ["semantic-segmentation"]
    (given,), (result,) = model.input, model.output
    assert [band if isinstance(band, str) else band.name for band in given.bands] == ["pan"]
    assert given.input.shape == [-1, 1, 64, 64]
    # One scaling per band, as the extension's text says; its library reads one for all.
    assert given.properties["value_scaling"] == [{"type": "z-score", "mean": 4.0, "stddev": 2.0}]
    assert [each.name for each in result.classes] == ["ground", HOSTILE]
    assert item.properties["license"] == "MIT"
    weights = item.assets["model"]
    assert "mlm:model" in weights.roles
    assert Path(weights.href.removeprefix("file://")) == promoted / "model.safetensors"
    assert item.assets["card"].href == "README.md"


def test_no_description_takes_the_place_of_the_model(judged):
    with pytest.raises(CheckpointError, match=r"contract\.json is a part of the version"):
        Registry(judged.storage, "roads").describe("0" * 16, [Path("contract.json")])

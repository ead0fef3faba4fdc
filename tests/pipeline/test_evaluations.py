"""Any checkpoint of a run, and any version of a model, can be measured; nothing is decided by that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ununennium import pipeline
from ununennium.cli import run as command
from ununennium.config import RunConfig
from ununennium.errors import CheckpointError
from ununennium.pipeline.evaluations import find_checkpoint, measure_checkpoint, measure_version
from ununennium.pipeline.sessions import open_run
from ununennium.runs.directory import RunDirectory, read_json

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CHANGES = (
    "model.kwargs={base_channels: 4, depth: 2}", "data.chip_size=64", "data.chips_per_epoch=8", "data.batch_size=4",
    "trainer.epochs=3", "trainer.device=cpu", "trainer.mixed_precision=false", "early_stopping=null",
    "checkpoints.save_top_k=-1", "checkpoints.resume=false", "gate.floors={}", "gate.first=any",
    "inference.tta=false",
)  # fmt: skip


@pytest.fixture(scope="module")
def promoted(atlanta: Path, tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A real run of three epochs, each of which has a checkpoint, and whose best one was promoted."""
    place = tmp_path_factory.mktemp("measured")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNUNENNIUM_WORK", str(place / "work"))
        config = RunConfig.load(atlanta.parent / "run.yaml", [*CHANGES, f"storage={place / 'storage'}"])
        with open_run(config) as run:
            pipeline.prepare(run)
            pipeline.train(run).require_usable()
            assert pipeline.evaluate_and_promote(run, actor="test").verdict == "promoted"
    return run


def files(run: RunDirectory) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in run.work.rglob("*") if file.is_file()}


def test_the_best_checkpoint_and_the_promoted_version_measure_what_the_gate_saw(promoted: RunDirectory) -> None:
    judged, before = read_json(promoted.evaluation_file), files(promoted)
    manifest, found = measure_checkpoint(promoted, "best")
    assert manifest.epoch == judged["epoch"]
    assert found.to_json() == judged["challenger"]
    version = read_json(promoted.promotion_file)["version"]
    config = promoted.config()
    assert measure_version(config, promoted.storage, version).to_json()["metrics"] == judged["challenger"]["metrics"]
    assert files(promoted) == before


def test_another_epoch_is_another_model(promoted: RunDirectory, capsys: pytest.CaptureFixture[str]) -> None:
    judged = read_json(promoted.evaluation_file)
    other = next(epoch for epoch in (1, 2, 3) if epoch != judged["epoch"])
    words = ["evaluate", promoted.run_id, "--storage", promoted.storage, "--checkpoint", str(other), "--json"]
    assert command(words) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["epoch"] == other
    assert printed["evaluation"]["num_pixels"] == judged["challenger"]["num_pixels"]
    assert printed["evaluation"]["calibration"] != judged["challenger"]["calibration"]


def test_a_checkpoint_that_is_not_there_is_named_with_those_that_are(promoted: RunDirectory) -> None:
    assert find_checkpoint(promoted.checkpoints_url, "last").epoch == 3
    with pytest.raises(CheckpointError, match=r"no checkpoint '7'.*\(there: 1, 2, 3\)"):
        find_checkpoint(promoted.checkpoints_url, "7")


def test_the_command_measures_the_champion_on_the_data_of_a_configuration(
    promoted: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(json.dumps(promoted.config().model_dump(mode="json")))
    assert command(["registry", "evaluate", str(file), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["version"] == read_json(promoted.promotion_file)["version"]
    expected = read_json(promoted.evaluation_file)["challenger"]["metrics"]
    assert printed["evaluation"]["metrics"] == expected

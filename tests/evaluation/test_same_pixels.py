"""Challenger and champion are counted on the same pixels, whatever bands each of them reads."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import rasterio
import torch
from torch import nn

from tests.contracts import make_contract
from tests.evaluation.counts import confused
from tests.rasters import write_raster
from ununennium.checkpoints.artifact import write_artifact
from ununennium.checkpoints.registry import Registry
from ununennium.checkpoints.store import CheckpointStore
from ununennium.config import GateConfig, RunConfig
from ununennium.data import build_index, compute_statistics
from ununennium.data.splits.splits import HOLDOUT
from ununennium.errors import GateError
from ununennium.evaluation.evaluate import evaluate
from ununennium.evaluation.evaluation import Evaluation
from ununennium.evaluation.gate import decide
from ununennium.files import write_json
from ununennium.runs.directory import RunDirectory
from ununennium.workers.evaluate import evaluate_run

SIZE, NODATA = 128, 9
MODEL = {"target": "torch.nn:Conv2d", "kwargs": {"out_channels": 2, "kernel_size": 1}}


def write(path, array, transform) -> str:
    names = tuple(f"band{number}" for number in range(1, len(array) + 1))
    return write_raster(path, array, names=names, transform=transform)


def holed(folder, dates: int):
    """Scenes of three bands, of which the second and the third have a hole each, easy pixels in the second's."""
    scenes, valid, labels = [], {}, {}
    for place, name in enumerate(("north", "south")):
        rng = np.random.default_rng(place)
        label = (np.indices((SIZE, SIZE)).sum(0) // 24 % 2).astype(np.uint8)
        label[rng.random((SIZE, SIZE)) < 0.1] = 255
        noise = rng.normal(0, 60, (SIZE, SIZE))
        noise[:, 50:] = 0  # what lies in the hole of band 2 is easy
        transform = rasterio.Affine(10, 0, 500000, 0, -10, 5000000 - 100000 * place)
        images = []
        seen = np.ones((3, SIZE, SIZE), bool)
        for date in range(dates):
            image = np.clip(100 + 50 * (label == 1) + noise, 20, 250).astype(np.uint8)[None].repeat(3, 0)
            image[1, :, 53 + date :] = NODATA
            image[2, : 37 + date] = NODATA
            seen &= image != NODATA
            images.append(write(folder / f"{name}_{date}.tif", image, transform))
        valid[name], labels[name] = seen, label
        label_file = write(folder / f"{name}_label.tif", label[None], transform)
        scenes.append({"name": name, "image": images if dates > 1 else images[0], "label": label_file})
    return scenes, valid, labels


def weights(channels: int) -> nn.Module:
    """Bright pixels of the first band are of the second class; other bands say nothing."""
    model = nn.Conv2d(channels, 2, 1)
    with torch.no_grad():
        model.weight.zero_()
        model.weight[:, 0, 0, 0] = torch.tensor([-1.0, 1.0])
        model.bias.zero_()
    return model


def champion_of(folder, bands: list[int | str], dates: int) -> None:
    """Promote a model that reads ``bands``."""
    channels = len(bands) * dates
    contract = make_contract(
        model={**MODEL, "in_channels": channels, "num_classes": 2}, classes=["dark", "bright"], bands=bands,
        statistics={"mean": [130.0] * len(bands), "std": [50.0] * len(bands)}, nodata=NODATA, resolution=[10.0, 10.0],
        num_dates=dates, run_id="r",
    )  # fmt: skip
    write_artifact(folder / "artifact", weights(channels).state_dict(), contract)
    registry = Registry(str(folder / "storage"), "holed")
    version = registry.add_version(folder / "artifact")
    registry.promote(version, expected_generation=0, gate={"verdict": "promoted"}, actor="test", run_id="r", token="t")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ours", "theirs", "dates"),
    [([1], [1, 2], 1), ([1, 2], [1], 1), ([1, 3], [1, 2], 1), (["band1"], [1, 3], 1), ([1], [1, 2], 2), ([1], [1], 1)],
)
def test_both_models_are_counted_on_what_both_can_see(tmp_path, monkeypatch, ours, theirs, dates):
    """correctness 98: through the evaluation of a run; a hole in a band that only one of them reads counts for none."""
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    scenes, valid, labels = holed(tmp_path, dates)
    data = {
        "scenes": scenes, "classes": ["dark", "bright"], "nodata": NODATA, "chip_size": 32, "bands": ours,
        "split": {"block_size": 32, "buffer": 0, "validation": 0.2, "holdout": 0.5},
    }  # fmt: skip
    settings = {"name": "holed", "storage": str(tmp_path / "storage"), "data": data, "model": MODEL,
                "trainer": {"device": "cpu"}}  # fmt: skip
    run = RunDirectory.create(RunConfig.parse(settings))
    index = build_index(run.config().data)
    index.save(run.index_file)
    compute_statistics(index).save(run.statistics_file)
    state = weights(len(ours) * dates).state_dict()
    CheckpointStore(run.checkpoints_url).save({"model": state}, epoch=1, step=1, monitor="val_loss", score=0.1)
    write_json(run.result_file, {"history": {"train_loss": [0.1]}})
    champion_of(tmp_path, theirs, dates)
    measured = evaluate_run(run)
    one, other = (Evaluation.from_json(measured[side]) for side in ("challenger", "champion"))
    expected = np.zeros(2, int)
    read = {int(str(band)[-1]) - 1 for band in (*ours, *theirs)}
    for scene in index.scenes:
        shown = valid[scene.name][sorted(read)].all(0) & (labels[scene.name] != 255)
        shown &= index.split.folds(scene, 0, 0, SIZE, SIZE) == HOLDOUT
        expected += np.bincount(labels[scene.name][shown], minlength=2)
    for side in (one, other):
        assert np.sum(side.confusion, 1).tolist() == expected.tolist()
    assert one.holdout_sha256 == other.holdout_sha256
    decision = decide(one, other, GateConfig(max_class_drop=None))
    assert decision.verdict == "not_promoted"  # it is the same model
    assert (one.left_out > 0) == (not set(theirs) <= set(ours) and theirs != ours)
    assert any("labelled pixels that only the new model has data for" in note for note in decision.notes) == bool(
        one.left_out
    )


def test_the_hash_of_a_holdout_covers_what_is_valid(two_scenes):
    """correctness 98: labels are the same, pixels that count are not."""
    config, index, statistics = two_scenes
    model = nn.Conv2d(1, 2, 1)
    before = evaluate(model, index, statistics, config)
    assert evaluate(model, index, statistics, config).holdout_sha256 == before.holdout_sha256
    with rasterio.open(index.scenes[0].images[0], "r+") as dataset:
        pixels = dataset.read(1)
        held_out = index.split.folds(index.scenes[0], 0, 0, *pixels.shape) == HOLDOUT
        row, col = np.argwhere(held_out & (pixels != config.nodata))[0]
        dataset.write(np.array([[[config.nodata]]], pixels.dtype), window=rasterio.windows.Window(col, row, 1, 1))
    assert evaluate(model, index, statistics, config).holdout_sha256 != before.holdout_sha256


@pytest.mark.parametrize("moved", ["fewer", "elsewhere", "another label"])
def test_counts_of_other_pixels_are_refused_with_the_remedy(moved):
    """correctness 98: also where hashes agree, and where the sums of all blocks agree."""
    matrices = np.array([[[50, 10], [10, 50]]] * 8)
    changed = matrices.copy()
    if moved == "fewer":
        changed[3] //= 2
    elif moved == "elsewhere":
        changed[3, 0, 0] -= 5
        changed[4, 0, 0] += 5
    else:
        changed[3] += [[-5, 0], [5, 0]]
    ours, theirs = (confused(each, ["a", "b"]) for each in (matrices, changed))
    with pytest.raises(GateError, match=r"champion's counts rest on other pixels .*blocks.* measure both anew"):
        decide(ours, theirs, GateConfig())


def test_an_evaluation_of_an_earlier_version_loads_and_is_said_to_be_measured_anew():
    """correctness 98: it has no hash of valid pixels and no blocks."""
    now = confused(np.array([[[50, 10], [10, 50]]] * 8), ["a", "b"])
    stored = {name: now.to_json()[name] for name in ("classes", "confusion", "metrics", "num_pixels")}
    old = Evaluation.from_json({**stored, "split_sha256": "s", "data_sha256": "d"})
    assert old.metric("IoU.a") == now.metric("IoU.a")
    with pytest.raises(GateError, match=r"another set of labels and valid pixels.*evaluate it"):
        decide(now, old, GateConfig())
    unhashed = dataclasses.replace(now, holdout_sha256="")
    fewer = dataclasses.replace(old, num_pixels=old.num_pixels - 1)
    with pytest.raises(GateError, match="measure both anew"):
        decide(unhashed, fewer, GateConfig())

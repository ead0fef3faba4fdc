"""Two dates and stacks of more: read, normalised, turned and mapped as one, and judged end to end."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import torch

from ununennium.checkpoints.artifact import load_artifact
from ununennium.checkpoints.contract import ModelContract
from ununennium.checkpoints.registry import Registry
from ununennium.config import AugmentConfig, DataConfig
from ununennium.data import GridChips, TrainingChips, build_index, build_loaders, compute_statistics
from ununennium.data.splits.splits import HOLDOUT, TRAIN, VALIDATION
from ununennium.errors import ConfigError, DataError
from ununennium.evaluation.promoted import check_comparable
from ununennium.inference.scene import map_scene
from ununennium.models import SiameseUNet

SPLIT = {"block_size": 32, "buffer": 4, "validation": 0.2, "holdout": 0.2}
CLASSES = ["same", "changed"]


def configure(*scenes, **settings):
    values = {"scenes": list(scenes), "classes": CLASSES, "task": "change", "chip_size": 32, "split": SPLIT}
    return DataConfig.model_validate({**values, **settings})


def dates_of(scene):
    """(dates, bands, rows, columns), read by rasterio."""
    pixels = []
    for path in scene["image"]:
        with rasterio.open(path) as dataset:
            pixels.append(dataset.read())
    return np.stack(pixels).astype(np.float64)


def test_statistics_are_per_band_over_all_dates(scenes):
    scene = scenes.change()
    index = build_index(configure(scene))
    statistics = compute_statistics(index)
    trains = index.split.folds(index.scenes[0], 0, 0, 160, 160) == TRAIN
    pixels = dates_of(scene)[:, :, trains]
    np.testing.assert_allclose(statistics.mean, pixels.mean((0, 2)))
    np.testing.assert_allclose(statistics.std, pixels.std((0, 2)))
    assert statistics.num_pixels == pixels[:, 0].size


@pytest.mark.parametrize(("task", "num_dates"), [("change", 2), ("segmentation", 1)])
def test_classes_of_a_scene_are_refused_where_pixels_have_the_classes(scenes, task, num_dates):
    """They were taken by a change task without a word, and meant nothing."""
    scene = {**scenes.change(num_dates=max(2, num_dates)), "classes": ["changed"]}
    scene["image"] = scene["image"][:num_dates] if num_dates > 1 else scene["image"][0]
    with pytest.raises(ConfigError, match=r"data\.scenes\.0\.classes.*leave them out"):
        build_index(configure(scene, task=task))


@pytest.mark.parametrize(("layout", "shape"), [("channels", (6, 32, 32)), ("stack", (3, 2, 32, 32))])
def test_chips_of_a_stack_are_the_dates_in_their_order(scenes, layout, shape):
    scene = scenes.change(num_dates=3)
    index = build_index(configure(scene, task="segmentation", layout=layout))
    statistics = compute_statistics(index)
    pixels = dates_of(scene) - np.array(statistics.mean)[:, None, None]
    pixels /= np.array(statistics.std)[:, None, None]
    grid = GridChips(index, statistics, chip_size=32, fold=VALIDATION)
    assert len(grid) > 1
    for number, (_, row, col) in enumerate(grid._chips):
        image, _ = grid[number]
        assert image.shape == shape
        expected = pixels[:, :, row : row + 32, col : col + 32].reshape(shape)
        np.testing.assert_allclose(image.numpy(), expected, atol=1e-4)
    loaders = build_loaders(
        configure(scene, task="segmentation", layout=layout, batch_size=4), index, statistics, seed=0
    )
    batch, target = next(iter(loaders.train))
    assert (batch.shape, target.shape) == ((4, *shape), (4, 32, 32))


def test_all_dates_are_turned_and_mirrored_alike(scenes):
    """Both dates show the same pixels, so that a chip whose dates differ was changed date by date."""
    scene = scenes.change()
    scene["image"] = [scene["image"][0]] * 2
    index = build_index(configure(scene, layout="stack"))
    chips = TrainingChips(
        index,
        compute_statistics(index),
        chip_size=32,
        num_chips=16,
        seed=0,
        augmentation=AugmentConfig(brightness=0.1, contrast=0.1),
    )
    seen = set()
    for number in range(16):
        image, _ = chips[0, number]
        assert torch.equal(image[0], image[1])
        seen.add(image.numpy().tobytes())
    assert len(seen) == 16


def test_change_needs_two_dates_and_stacks_need_equally_many(scenes):
    three, two = scenes.change(1, num_dates=3), scenes.change(2)
    with pytest.raises(ConfigError, match=r"data\.scenes\.1\.image = .*give \[before, after\]"):
        build_index(configure(two, three))
    with pytest.raises(ConfigError, match=r"'place2' has 2 date\(s\) and scene 'place1' has 3"):
        build_index(configure(three, two, task="segmentation"))


def test_the_siamese_network_knows_only_what_differs():
    torch.manual_seed(0)
    model = SiameseUNet(3, 2, base_channels=4, depth=3).eval()
    before, after = torch.randn(2, 2, 3, 37, 41)
    with torch.no_grad():
        forward, backward = model(torch.stack((before, after), 1)), model(torch.stack((after, before), 1))
        nothing = model(torch.stack((before, before), 1))
        nothing_elsewhere = model(torch.stack((after, after), 1))
    assert forward.shape == (2, 2, 37, 41)
    torch.testing.assert_close(forward, backward)
    torch.testing.assert_close(nothing, nothing_elsewhere)
    assert not torch.allclose(forward, nothing, atol=1e-3)
    with pytest.raises(DataError, match=r"takes \(N, 2, 3, H, W\).*data\.layout: stack"):
        model(torch.randn(2, 6, 37, 41))


def test_a_champion_of_other_dates_or_another_task_is_not_compared(run_config, scenes):
    config = run_config({"scenes": [scenes.change()], "task": "change", "classes": CLASSES})
    with pytest.raises(ConfigError, match=r"data\.task = 'change'.*made for segmentation"):
        check_comparable(config, ModelContract(classes=CLASSES, num_dates=2), num_dates=2)
    with pytest.raises(ConfigError, match=r"made for 3 date\(s\)"):
        check_comparable(config, ModelContract(classes=CLASSES, task="change", num_dates=3), num_dates=2)
    check_comparable(config, ModelContract(classes=CLASSES, task="change", num_dates=2), num_dates=2)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("layout", "model", "in_channels"), [("channels", "UNet", 4), ("stack", "SiameseUNet", 2)], ids=["unet", "siamese"]
)
def test_change_is_trained_judged_promoted_and_mapped(
    scenes, run_config, run_through, tmp_path, layout, model, in_channels
):
    scene = scenes.change()
    config = run_config(
        {"scenes": [scene], "task": "change", "classes": CLASSES, "layout": layout},
        model={"target": f"ununennium.models:{model}", "kwargs": {"base_channels": 8, "depth": 2}},
        trainer={"epochs": 8},
        gate={"metric": "IoU.changed", "floors": {"IoU.changed": 0.6}},
    )
    run, summary = run_through(config)
    assert summary.verdict == "promoted", summary.reason
    assert (run.pictures_folder / "prediction.png").stat().st_size > 1000

    network, contract = load_artifact(Registry(run.storage, "tiny").version_url(summary.champion.version))
    assert (contract["task"], contract["num_dates"], contract["layout"]) == ("change", 2, layout)
    assert contract["model"]["in_channels"] == in_channels
    mapped = map_scene(network, contract, scene["image"], tmp_path / "map.tif")
    assert sum(mapped.pixels.values()) == 160 * 160
    with rasterio.open(tmp_path / "map.tif") as drawn, rasterio.open(scene["label"]) as label:
        predicted, truth = drawn.read(1), label.read(1)
    split = build_index(config.data).split
    held_out = split.folds(build_index(config.data).scenes[0], 0, 0, 160, 160) == HOLDOUT
    hit = ((predicted == 1) & (truth == 1) & held_out).sum()
    either = (((predicted == 1) | (truth == 1)) & held_out).sum()
    assert hit / either > 0.6

    with pytest.raises(DataError, match=r"has 1 date\(s\), and the model reads 2"):
        map_scene(network, contract, scene["image"][0], tmp_path / "one.tif")

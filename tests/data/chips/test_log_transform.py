"""``data.transform: log`` against NumPy's logarithm: statistics, chips, batches on the device, windows of a map."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from ununennium.data import TRAIN, build_index, compute_statistics
from ununennium.data.chips.batch_transforms import DeviceTransform
from ununennium.data.chips.index_cache import indexed
from ununennium.data.chips.loaders import build_loaders
from ununennium.data.chips.statistics import BandStatistics, normalise
from ununennium.errors import ConfigError

STILL = {"flips": False, "quarter_turns": False}


@pytest.fixture
def skewed(make):
    """A scene of log-normal counts with a hole, and settings over it."""
    image = np.random.default_rng(0).lognormal(5, 0.8, (2, 256, 256)).clip(1, 60_000).astype(np.uint16)
    image[:, 30:60, 40:90] = 0
    scene = {**make.scene(), "image": make.raster("skewed.tif", image, nodata=0)}

    def build(**settings):
        return make.config(scene, transform="log", chips_per_epoch=16, batch_size=4, **settings)

    return image.astype(np.float64), build


def expected(image: np.ndarray, floor: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """The standardised logarithm, 0 in the hole."""
    floor, mean, std = (np.asarray(each)[:, None, None] for each in (floor, mean, std))
    return np.where(image == 0, 0.0, (np.log(np.maximum(image, floor)) - mean) / std)


def is_part_of(whole: np.ndarray, chip: np.ndarray) -> bool:
    """Tell whether ``chip`` (bands, 32, 32) is a window of ``whole`` where it is not 0, as other folds are."""
    row, col = (each[0] for each in np.nonzero(chip.all(0)))
    rows, cols = np.nonzero((np.abs(whole - chip[:, row, col][:, None, None]) < 1e-4).all(0))
    corners = zip(rows - row, cols - col, strict=True)
    windows = (whole[:, top : top + 32, left : left + 32] for top, left in corners if top >= 0 and left >= 0)
    seen = chip != 0
    return any(window.shape == chip.shape and np.abs(window - chip)[seen].max() < 1e-4 for window in windows)


def test_mean_and_deviation_are_of_the_logarithm_and_percentiles_of_the_values(skewed):
    image, build = skewed
    index = build_index(build())
    scene = index.scenes[0]
    used = (index.split.folds(scene, 0, 0, 256, 256) == TRAIN) & (image[0] != 0)
    pixels = image[:, used]
    found = compute_statistics(index)
    low = np.percentile(pixels, 2, axis=1)
    np.testing.assert_allclose(found.log_floor, low / 2, rtol=1e-12)
    logarithm = np.log(np.maximum(pixels, low[:, None] / 2))
    np.testing.assert_allclose(found.mean, logarithm.mean(1), rtol=1e-6)
    np.testing.assert_allclose(found.std, logarithm.std(1), rtol=1e-6)
    np.testing.assert_allclose(found.percentiles["p2"], low, rtol=1e-12)
    assert found.maximum == pixels.max(1).tolist()
    assert found == BandStatistics(**found.to_json())


def test_chips_device_batches_and_windows_hold_the_standardised_logarithm(skewed):
    image, build = skewed
    index = build_index(build(augment=STILL))
    statistics = compute_statistics(index)
    whole = expected(image, statistics.log_floor, statistics.mean, statistics.std)
    window = normalise(image.astype(np.float32), image[0] != 0, statistics)
    np.testing.assert_allclose(window, whole, atol=2e-5)
    loaders = build_loaders(build(augment=STILL), index, statistics, seed=1)
    raw = build_loaders(build(augment={**STILL, "where": "device"}), index, statistics, seed=1)
    transform = DeviceTransform(index, statistics, build(augment={**STILL, "where": "device"}).augment, seed=1)
    for number, ((chips, _), batch) in enumerate(zip(loaders.train, raw.train, strict=True)):
        parts = batch["image"], batch["target"], batch.get("valid")
        on_device, _ = transform(*parts, training=True, epoch=0, batch=number)
        torch.testing.assert_close(on_device, chips, atol=2e-5, rtol=0)
        assert all(is_part_of(whole, chip) for chip in chips.numpy())
        assert chips.std() > 0.5


def test_values_of_0_or_less_are_refused_by_name(make):
    scene = {**make.scene(), "image": make.raster("centred.tif", np.random.default_rng(0).normal(size=(2, 256, 256)))}
    index = build_index(make.config(scene, transform="log"))
    with pytest.raises(ConfigError, match=r"data\.transform.*band 1 has values of 0 or less.*give linear"):
        compute_statistics(index)


def test_linear_statistics_are_written_as_earlier_versions_wrote_them(make):
    found = compute_statistics(build_index(make.config(make.scene())))
    assert set(found.to_json()) == {"mean", "std", "num_pixels", "minimum", "maximum", "percentiles"}
    assert replace(found, log_floor=[1.0, 1.0]).to_json()["log_floor"] == [1.0, 1.0]


def test_an_index_that_is_kept_serves_both_transforms(skewed, monkeypatch, tmp_path):
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path / "cache"))
    _, build = skewed
    linear = indexed(build().model_copy(update={"transform": "linear"}))
    assert linear.statistics().log_floor == []
    again = indexed(build())
    assert again.reused
    assert again.statistics() == compute_statistics(build_index(build()))
    assert len(again.statistics().log_floor) == 2
    assert indexed(build().model_copy(update={"transform": "linear"})).statistics() == linear.statistics()

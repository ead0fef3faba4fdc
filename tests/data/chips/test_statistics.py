"""Statistics of the training fold, against NumPy: nothing but valid training pixels counts."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ununennium.data import TRAIN, build_index, compute_statistics
from ununennium.data.chips.percentiles import RELATIVE_ERROR, Histogram
from ununennium.data.chips.statistics import PERCENTILES, BandStatistics

SHARES = st.floats(0, 100)
NUMBERS = st.floats(-(2.0**99), 2.0**99, width=32, allow_subnormal=False) | st.floats(-2, 2, width=32)


def _used(index, image):
    """Training pixels (bands, N) of a scene's whole image."""
    scene = index.scenes[0]
    folds = index.split.folds(scene, 0, 0, scene.height, scene.width)
    valid = index.reader(scene).read_valid(0, 0, scene.height, scene.width)
    return image[:, (folds == TRAIN) & valid].astype(np.float64)


def _check(found, pixels, rtol):
    np.testing.assert_allclose(found.mean, pixels.mean(1), rtol=1e-9)
    np.testing.assert_allclose(found.std, pixels.std(1), rtol=1e-9)
    np.testing.assert_array_equal(found.minimum, pixels.min(1))
    np.testing.assert_array_equal(found.maximum, pixels.max(1))
    assert found.num_pixels == pixels.shape[1]
    expected = np.percentile(pixels, PERCENTILES, axis=1)
    assert list(found.percentiles) == ["p2", "p50", "p98"]
    np.testing.assert_allclose(list(found.percentiles.values()), expected, rtol=rtol)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_whole_numbers_are_exact(make, dtype):
    scene = make.scene()
    rng = np.random.default_rng(0)
    image = rng.gamma(2, 20, (2, 256, 256)).clip(0, 250) - (100 if dtype == np.int16 else 0)
    scene["image"] = make.raster("whole.tif", image.astype(dtype))
    index = build_index(make.config(scene, nodata=17))
    pixels = _used(index, image.astype(dtype))
    assert not (pixels == 17).any()
    _check(compute_statistics(index), pixels, rtol=1e-14)


def test_floats_are_within_the_bound_and_what_is_no_number_does_not_count(make):
    scene = make.scene()
    rng = np.random.default_rng(0)
    image = rng.normal(0.2, 0.1, (2, 256, 256)).astype(np.float32)
    image[0, 10:60, 30:200], image[1, 70:90] = np.nan, np.inf
    image[:, 200:210] = -9999
    scene["image"] = make.raster("reflectance.tif", image, nodata=-9999)
    index = build_index(make.config(scene))
    pixels = _used(index, image)
    assert np.isfinite(pixels).all()
    assert pixels.min() > -9999
    _check(compute_statistics(index), pixels, rtol=RELATIVE_ERROR)


def test_masked_pixels_do_not_count(make):
    scene = make.scene()
    mask = np.full((256, 256), 255, np.uint8)
    mask[:, :100] = 0
    with rasterio.open(scene["image"], "r+") as dataset:
        image = dataset.read()
        image[:, :, :100] = 60000
        dataset.write(image)
        dataset.write_mask(mask)
    found = compute_statistics(build_index(make.config(scene)))
    assert max(found.maximum) < 1000


def test_all_strips_and_all_scenes_count(make, monkeypatch):
    """Strips of a few rows, and a second scene with other values."""
    first, second = make.scene("first"), make.scene("second", transform=rasterio.Affine(10, 0, 900000, 0, -10, 5000000))
    with rasterio.open(second["image"], "r+") as dataset:
        dataset.write(dataset.read() + 30000)
    index = build_index(make.config(first, second, values="any"))
    monkeypatch.setattr("ununennium.data.scenes.reader._STRIP_VALUES", 256 * 2 * 7)
    parts = []
    for scene in index.scenes:
        with rasterio.open(scene.images[0]) as dataset:
            used = index.split.folds(scene, 0, 0, 256, 256) == TRAIN
            parts.append(dataset.read()[:, used].astype(np.float64))
    assert len(list(index.reader(index.scenes[0]).strips())) > 30
    _check(compute_statistics(index), np.concatenate(parts, 1), rtol=1e-14)


@settings(max_examples=150, deadline=None)
@given(
    values=hnp.arrays(
        np.float32,
        st.integers(1, 300),
        elements=NUMBERS,
    ),
    cuts=st.lists(st.integers(0, 300), max_size=4),
    shares=st.lists(SHARES, min_size=1, max_size=5),
)
def test_any_floats_in_any_pieces_keep_the_bound(values, cuts, shares):
    histogram = Histogram(exact=False)
    for part in np.split(values, sorted(min(cut, len(values)) for cut in cuts)):
        histogram.add(part)
    found = np.array(histogram.percentiles(shares))
    ordered = np.sort(values.astype(np.float64))
    ranks = np.array(shares) / 100 * (len(values) - 1)
    below, above = ordered[np.floor(ranks).astype(int)], ordered[np.ceil(ranks).astype(int)]
    expected = below + (above - below) * (ranks % 1)
    assert (np.abs(found - expected) <= RELATIVE_ERROR * np.maximum(np.abs(below), np.abs(above)) + 1e-37).all()


@settings(max_examples=80, deadline=None)
@given(
    values=hnp.arrays(np.int16, st.integers(1, 200)),
    cut=st.integers(0, 200),
    shares=st.lists(st.floats(0, 100), min_size=1),
)
def test_any_whole_numbers_in_any_order_are_exact(values, cut, shares):
    histogram = Histogram(exact=True)
    for part in (values[cut:], values[:cut]):
        histogram.add(part.astype(np.float32))
    np.testing.assert_allclose(
        histogram.percentiles(shares), np.percentile(values.astype(np.float64), shares), rtol=1e-9, atol=1e-9
    )


def test_a_histogram_stays_small():
    """8 MiB for floats of any size and sign."""
    histogram = Histogram(exact=False)
    histogram.add(np.array([-3e38, -1e-38, 0, 1e-38, 3e38], np.float32))
    assert histogram._counts.nbytes <= 8 * 2**20


def test_statistics_survive_json(make, tmp_path):
    found = compute_statistics(build_index(make.config(make.scene())))
    found.save(tmp_path / "statistics.json")
    assert BandStatistics.load(tmp_path / "statistics.json") == found


def test_a_band_of_a_stack_counts_the_pixels_of_all_its_dates(make):
    scene, rng = make.scene(), np.random.default_rng(0)
    dates = [rng.integers(low, low + 50, (2, 256, 256)).astype(np.uint16) for low in (1, 200, 400)]
    dates[0][1] += 1000
    dates[1][1] += 3000
    dates[2][1] += 5000
    scene["image"] = [make.raster(f"date{number}.tif", image) for number, image in enumerate(dates)]
    index = build_index(make.config(scene))
    pixels = np.concatenate([_used(index, image) for image in dates], 1)
    found = compute_statistics(index)
    np.testing.assert_allclose(found.mean, pixels.mean(1), rtol=1e-9)
    np.testing.assert_allclose(found.std, pixels.std(1), rtol=1e-9)
    np.testing.assert_array_equal([found.minimum, found.maximum], [pixels.min(1), pixels.max(1)])


def test_rows_of_training_pixels_without_data_add_nothing(make, monkeypatch):
    monkeypatch.setattr("ununennium.data.scenes.reader._STRIP_VALUES", 2 * 256 * 32)  # rows that are read at once
    scene = make.scene()
    image = np.full((2, 256, 256), 9, np.uint16)
    image[:, :64], image[:, 64::2] = 0, 11
    scene["image"] = make.raster("half.tif", image, nodata=0)
    index = build_index(make.config(scene))
    folds = index.split.folds(index.scenes[0], 0, 0, 256, 256)
    assert (folds[:64].reshape(2, -1) == TRAIN).any(1).all()
    found = compute_statistics(index)
    pixels = _used(index, image)
    _check(found, pixels, rtol=1e-14)
    assert found.minimum == [9, 9]

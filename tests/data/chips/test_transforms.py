"""Augmentation of single chips on the CPU, against SciPy and by properties."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage

from ununennium.config import AugmentConfig
from ununennium.data.chips.transforms import drop_bands, shade, turn, zoom

SIZE = 12
STILL = {"flips": False, "quarter_turns": False}
sides = st.integers(2, 24)
seeds = st.integers(0, 2**32 - 1)


def factor_of(scale: float, seed: int) -> float:
    """What ``zoom`` draws first."""
    return (1 + scale) ** np.random.default_rng(seed).uniform(-1, 1)


def chip(size: int, bands: int = 2, seed: int = 0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((bands, size, size)).astype(np.float32), rng.integers(0, 5, (size, size))


@given(seed=seeds, size=sides)
def test_what_is_off_changes_no_bit_and_draws_no_number(seed, size):
    image, target = chip(size)
    before = image.copy(), target.copy()
    rng = np.random.default_rng(seed)
    config = AugmentConfig(**STILL)
    (turned,) = turn([image], config, rng)
    assert zoom(image, None, target, 255, config, rng) is None
    shade(image, None, config, rng)
    drop_bands(image[None], config, rng)
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(turned, before[0])
    np.testing.assert_array_equal(target, before[1])
    assert rng.random() == np.random.default_rng(seed).random()


@given(seed=seeds, size=sides, scale=st.floats(0.01, 3))
def test_zoom_is_bilinear_for_pixels_and_nearest_for_labels(seed, size, scale):
    image, target = chip(size)
    factor = factor_of(scale, seed)
    offset = (size - 1) / 2 * (1 - 1 / factor)
    matrix = np.array([1 / factor, 1 / factor])
    wanted = np.stack([ndimage.affine_transform(band, matrix, offset, order=1, mode="nearest") for band in image])
    place = np.arange(size) / factor + offset
    inside = (place >= -0.5) & (place < size - 0.5)
    before = target.copy()
    valid = zoom(image, None, target, 255, AugmentConfig(scale=scale), np.random.default_rng(seed))
    inside = inside[:, None] & inside
    np.testing.assert_array_equal(inside, np.ones_like(inside) if valid is None else valid)
    np.testing.assert_allclose(image, np.where(inside, wanted, 0), atol=1e-5)
    rows = np.clip(np.floor(place + 0.5).astype(int), 0, size - 1)
    np.testing.assert_array_equal(target, np.where(inside, before[np.ix_(rows, rows)], 255))


@settings(max_examples=50)
@given(
    seed=seeds,
    valid=arrays.arrays(np.bool_, (SIZE, SIZE)),
    scale=st.floats(0.01, 3),
    config=st.sampled_from([STILL, {}]),
)
def test_labels_move_with_their_pixels_and_no_class_is_made_up(seed, valid, scale, config):
    """The image shows each pixel's own label; what is invalid or beyond the chip is 0, ignored, and never mixed in."""
    config = AugmentConfig(**config, scale=scale)
    # Halves, quarters or whole chips of one class: away from their border, bilinear and nearest must agree.
    target = np.zeros((SIZE, SIZE), np.int64)
    rng = np.random.default_rng(seed + 1)
    target[rng.integers(SIZE) :, rng.integers(SIZE) :] = 4
    image = target[None].astype(np.float32) + 1
    image[:, ~valid] = 0
    target[~valid] = 255
    rng = np.random.default_rng(seed)
    image, mask, target = (np.ascontiguousarray(array) for array in turn([image, valid, target], config, rng))
    shown = zoom(image, mask, target, 255, config, rng)
    shown = np.ones_like(mask) if shown is None else shown
    np.testing.assert_array_equal(target == 255, ~shown)
    np.testing.assert_array_equal(image[0] == 0, ~shown)
    assert set(np.unique(target)) <= {0, 4, 255}
    assert (np.abs(image[0] - 1 - target)[shown] <= 3 + 1e-4).all()  # the label's own pixel weighs a quarter or more
    assert image[0][shown].min(initial=1) >= 1 - 1e-5  # no zero of an invalid neighbour in it


def test_a_region_of_one_value_keeps_it_beside_invalid_pixels():
    image, valid = np.full((1, SIZE, SIZE), 3, np.float32), np.ones((SIZE, SIZE), bool)
    valid[:, 5] = False
    image[:, ~valid] = 0
    target = np.zeros((SIZE, SIZE), np.int64)
    for seed in range(20):
        pixels, labels = image.copy(), target.copy()
        shown = zoom(pixels, valid, labels, 255, AugmentConfig(scale=1.0), np.random.default_rng(seed))
        np.testing.assert_allclose(pixels[0][shown], 3, rtol=1e-5)
        assert not pixels[0][~shown].any()


@given(seed=seeds, bands=st.integers(1, 8), probability=st.floats(0.01, 1))
def test_dropped_bands_are_their_mean_and_one_stays(seed, bands, probability):
    image = np.ones((2, bands, 3, 3), np.float32)
    drop_bands(image, AugmentConfig(band_dropout=probability), np.random.default_rng(seed))
    kept = image.any((2, 3))
    assert kept[0].any()
    assert (kept[0] == kept[1]).all()  # at every date alike
    assert (image[kept] == 1).all()


@pytest.mark.parametrize("probability", [0.1, 0.4])
def test_bands_are_dropped_as_often_as_asked(probability):
    rng = np.random.default_rng(0)
    kept = np.zeros(6)
    for _ in range(3000):
        image = np.ones((1, 6, 1, 1), np.float32)
        drop_bands(image, AugmentConfig(band_dropout=probability), rng)
        kept += image[0, :, 0, 0]
    assert kept / 3000 == pytest.approx(np.full(6, 1 - probability), abs=0.05)

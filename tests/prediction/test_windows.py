"""Windows as a model wants them: normalised, mirrored beyond the scene, invalid where there is no data."""

from __future__ import annotations

import numpy as np
import pytest

from ununennium.data.chips.statistics import BandStatistics
from ununennium.data.scenes.reader import SceneReader
from ununennium.prediction.windows import window_reader

STATISTICS = BandStatistics(mean=[100.0, 10.0], std=[50.0, 2.0], num_pixels=1)
HEIGHT, WIDTH = 30, 45


@pytest.fixture
def pixels():
    values = np.random.default_rng(0).integers(1, 200, (2, HEIGHT, WIDTH)).astype(np.uint16)
    values[0, 4, 5] = 0
    return values


@pytest.fixture
def reader(make_scene, pixels):
    return SceneReader(make_scene(pixels, nodata=0), None, None)


def normalised(pixels):
    valid = (pixels != 0).all(0)
    return (pixels - np.array([[[100.0]], [[10.0]]])) / np.array([[[50.0]], [[2.0]]]) * valid, valid


@pytest.mark.parametrize(
    "window", [(0, 0, 30, 45), (3, 4, 5, 6), (-7, -9, 20, 20), (25, 40, 20, 25), (-10, -10, 50, 65), (-29, 30, 88, 10)]
)
@pytest.mark.parametrize("corner", [(0, 0), (6, 11)])
def test_a_window_is_numpys_reflection_of_the_whole(reader, pixels, window, corner):
    image, valid = normalised(pixels)
    row, col, height, width = window
    around = 2 * HEIGHT, 2 * WIDTH
    padded = np.pad(image, ((0, 0), (around[0],) * 2, (around[1],) * 2), mode="reflect")
    there = np.pad(valid, ((around[0],) * 2, (around[1],) * 2))
    top, left = row + corner[0] + around[0], col + corner[1] + around[1]
    got, its_valid = window_reader(reader, STATISTICS, *corner)(row, col, height, width)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, padded[:, top : top + height, left : left + width], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(its_valid, there[top : top + height, left : left + width])


@pytest.mark.parametrize("shape", [(1, 1), (1, 20), (20, 1), (2, 2)])
def test_a_scene_of_a_few_pixels_is_mirrored_over_and_over(make_scene, shape):
    pixels = np.random.default_rng(1).integers(1, 200, (2, *shape)).astype(np.uint16)
    read = window_reader(SceneReader(make_scene(pixels, name="tiny"), None, None), STATISTICS)
    image, valid = read(-8, -8, 32, 40)
    assert valid.sum() == pixels[0].size
    assert image.shape == (2, 32, 40)
    assert set(np.unique(image[0])) == {np.float32((int(value) - 100) / 50) for value in np.unique(pixels[0])}

"""Edges of folds, pixel by pixel, against brute force: the buffer's exact width, and which fold wins a pixel."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import rasterio
from rasterio.warp import transform
from scipy.ndimage import maximum_filter

from ununennium.data import HOLDOUT, TRAIN, VALIDATION, ChipIndex, build_index
from ununennium.data.splits.splits import NONE, place_on_grid


def folds_of(index: ChipIndex, place: int = 0) -> np.ndarray:
    scene = index.scenes[place]
    return index.split.folds(scene, 0, 0, scene.height, scene.width)


@pytest.mark.parametrize("buffer", [0, 1, 4, 12])
def test_exactly_the_training_pixels_within_the_buffer_of_a_judged_one_are_left_out(make, buffer):
    """correctness 97: in rows and columns, to the pixel; judged pixels lose nothing. Windows agree with the whole."""
    index = build_index(make.config(make.scene(), split={"buffer": buffer, "seed": 3}))
    without = build_index(make.config(make.scene(), split={"buffer": 0, "seed": 3}))
    folds, assigned = folds_of(index), folds_of(without)
    near = maximum_filter((assigned > TRAIN).astype(np.uint8), 2 * buffer + 1, mode="constant") > 0
    expected = np.where((assigned == TRAIN) & near, NONE, assigned)
    np.testing.assert_array_equal(folds, expected)
    assert ((expected == NONE).sum() > 0) == (buffer > 0)
    for row, col in ((0, 0), (37, 61), (200, 11)):
        window = index.split.folds(index.scenes[0], row, col, 40, 30)
        np.testing.assert_array_equal(window, expected[row : row + 40, col : col + 30])


def test_what_is_both_held_out_and_validated_is_held_out(make):
    """correctness 97: regions that overlap, in either order of the scene's rows."""
    split = {
        "validation_regions": [{"rows": [0, 100]}],
        "holdout_regions": [{"rows": [60, 160], "columns": [0, 128]}],
        "buffer": 0,
    }
    folds = folds_of(build_index(make.config(make.scene(), split=split)))
    assert (folds[60:160, :128] == HOLDOUT).all()
    assert (folds[:60] == VALIDATION).all()
    assert (folds[60:100, 128:] == VALIDATION).all()
    assert (folds[160:] == TRAIN).all()


def test_what_another_grid_holds_out_is_not_validated_and_what_it_validates_stays_held_out(make):
    """correctness 97: the second scene lies over the first's right half, shifted by half a pixel."""

    def at(col: float) -> dict[str, object]:
        return {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500000 + 10 * col, 0, -10, 5000000)}

    first, second = make.scene("first", **at(0.0)), make.scene("second", **at(128.5))
    split = {
        "holdout_regions": [{"scene": "first", "rows": [0, 60]}, {"scene": "second", "rows": [200, None]}],
        "validation_regions": [{"scene": "second", "rows": [0, 120]}, {"scene": "first", "rows": [200, None]}],
        "buffer": 0,
    }
    index = build_index(make.config(first, second, split=split))
    for place, other in ((0, 1), (1, 0)):
        folds, scene = folds_of(index, place), index.scenes[place]
        rows, cols = np.indices(folds.shape)
        x, y = scene.affine * (cols + 0.5, rows + 0.5)
        x, y = (np.array(c) for c in transform(scene.crs, index.scenes[other].crs, x.ravel(), y.ravel()))
        its_col, its_row = (c.reshape(folds.shape) for c in ~index.scenes[other].affine * (x, y))
        inside = (its_row > 1) & (its_row < 254) & (its_col > 1) & (its_col < 254)
        theirs = np.zeros_like(folds)
        theirs[inside] = folds_of(index, other)[its_row[inside].astype(int), its_col[inside].astype(int)]
        assert not ((folds == VALIDATION) & (theirs == HOLDOUT)).any()
        assert not ((folds == TRAIN) & (theirs > TRAIN)).any()
    assert (folds_of(index, 0)[:60] == HOLDOUT).all()
    assert (folds_of(index, 0)[200:, :120] == VALIDATION).all()
    assert (folds_of(index, 0)[202:, 132:] == NONE).all()
    assert (folds_of(index, 1)[62:118, 132:] == VALIDATION).all()
    assert (folds_of(index, 1)[:58, 2:120] == NONE).all()


@pytest.mark.parametrize("pixel", [0.25, 1.0, 10.0])
def test_scenes_whose_pixels_coincide_share_a_grid_of_whatever_resolution(make, pixel):
    def at(col: float) -> dict[str, object]:
        return {"crs": "EPSG:32633", "transform": rasterio.Affine(pixel, 0, 5e5 + pixel * col, 0, -pixel, 5e6)}

    first, second, shifted = build_index(
        make.config(make.scene("first", **at(0.0)), make.scene("second", **at(8.0)), make.scene("shifted", **at(8.5)))
    ).scenes
    group, row, col = place_on_grid(first)
    assert place_on_grid(second) == (group, row, col + 8)
    assert place_on_grid(shifted)[0] != group


def test_a_scene_whose_rows_go_north_has_a_grid_of_its_own(make):
    (scene,) = build_index(make.config(make.scene())).scenes
    assert place_on_grid(scene)[0] != "scene scene"
    for north in (0.5, 10.0):
        assert place_on_grid(replace(scene, transform=(10.0, 0.0, 5e5, 0.0, north, 5e6))) == ("scene scene", 0, 0)


@pytest.mark.parametrize(
    ("west", "turns"), [(10.0, ""), (178.0, ""), (178.1, " turns 0 to 1"), (181.0, " turns 1 to 1"), (-179.9, "")]
)
def test_the_group_of_a_scene_in_degrees_names_the_turns_that_its_pixels_reach(make, west, turns):
    """The centre of the last of 20 pixels of 0.1 degrees decides."""
    (scene,) = build_index(make.config(make.scene())).scenes
    scene = replace(scene, crs="EPSG:4326", transform=(0.1, 0.0, west, 0.0, -0.1, 10.0), width=20)
    group = place_on_grid(scene)[0]
    assert group.endswith(turns)
    assert ("turns" in group) == bool(turns)

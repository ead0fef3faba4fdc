"""Scenes that share ground: no place trains in one and is judged in another, whatever their grids."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.warp import transform

from tests.data.shared_ground import ORIGIN, at, folds_of_scene, seen_from_scene
from ununennium.data import HOLDOUT, TRAIN, VALIDATION, build_index
from ununennium.data.chips.index import ChipIndex


def named(index, name):
    return next(scene for scene in index.scenes if scene.name == name)


def folds_of(index, name):
    scene = named(index, name)
    return scene, folds_of_scene(index, scene)


def seen_from(index, name, other, shift=(0, 0)):
    return seen_from_scene(index, named(index, name), named(index, other), shift)


@pytest.mark.parametrize(("origin", "rows", "cols"), [((0, 0), 33, 70), ((0.5, 0.5), 33, 71), ((0.5, -0.5), 12, 13)])
def test_scenes_on_one_grid_agree_on_every_place(make, origin, rows, cols):
    """Also where pixels begin half-way between multiples of their size, as Landsat's do."""
    first = make.scene("first", **at(*origin))
    second = make.scene("second", **at(origin[0] + cols, origin[1] + rows))
    index = build_index(make.config(first, second, split={"buffer": 0}))
    np.testing.assert_array_equal(
        folds_of(index, "first")[1][rows:, cols:], folds_of(index, "second")[1][:-rows, :-cols]
    )


@pytest.mark.slow
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    place=st.tuples(st.floats(-90, 150), st.floats(-90, 150)), pixel=st.sampled_from([10.0, 14.0, 20.0, 30.0]),
    buffer=st.integers(0, 8), seed=st.integers(0, 5),
)  # fmt: skip
def test_what_one_grid_judges_another_does_not_train_on(make, place, pixel, buffer, seed):
    first = make.scene("first", **at(0.0, 0.0))
    second = make.scene("second", **at(*place, pixel))
    index = build_index(make.config(first, second, split={"buffer": buffer, "seed": seed}))
    for one, other in (("first", "second"), ("second", "first")):
        for shift in ((0, 0), (buffer, 0), (-buffer, 0), (0, buffer), (buffer, -buffer)):
            folds, seen = seen_from(index, one, other, shift)
            assert not ((folds == TRAIN) & (seen > TRAIN)).any()
        folds, seen = seen_from(index, one, other)
        assert not ((folds == VALIDATION) & (seen == HOLDOUT)).any()
        assert (folds == TRAIN).any()
        assert (folds == HOLDOUT).any()


@pytest.mark.slow
def test_the_neighbouring_utm_zone_and_an_upside_down_scene(make):
    first = make.scene("first", **at(0, 0))
    x, y = transform("EPSG:32633", "EPSG:32632", [ORIGIN[0] + 400], [ORIGIN[1] - 300])
    zone = make.scene("zone", crs="EPSG:32632", transform=rasterio.Affine(10, 0, x[0], 0, -10, y[0]))
    south_up = make.scene(
        "south-up", crs="EPSG:32633", transform=rasterio.Affine(10, 0, ORIGIN[0] + 900, 0, 10, ORIGIN[1] - 2560)
    )
    index = build_index(make.config(first, zone, south_up))
    shared = 0
    for one in ("first", "zone", "south-up"):
        for other in {"first", "zone", "south-up"} - {one}:
            folds, seen = seen_from(index, one, other)
            assert not ((folds == TRAIN) & (seen > TRAIN)).any()
            assert not ((folds == VALIDATION) & (seen == HOLDOUT)).any()
            shared += int((seen > 0).sum())
    assert shared > 100_000


@pytest.mark.parametrize(
    ("west", "its_west", "its_pixel"),
    [(-179.95, 180.1, 0.002), (179.9, -180.0, 0.002), (179.9, -180.05, 0.0015), (190.0, -169.9, 0.0015)],
    ids=["0 to 360", "across 180", "across 180 on another grid", "0 to 360 on another grid"],
)
def test_one_place_at_two_longitudes_is_one_place(make, west, its_west, its_pixel):
    """correctness 79: longitudes that differ by a whole turn name one place, which is never in two folds."""
    grids = [
        {"crs": "EPSG:4326", "transform": rasterio.Affine(pixel, 0, x, 0, -pixel, -17)}
        for x, pixel in ((west, 0.002), (its_west, its_pixel))
    ]
    index = build_index(make.config(make.scene("first", **grids[0]), make.scene("second", **grids[1])))
    for one, other in (("first", "second"), ("second", "first")):
        scene, folds = folds_of(index, one)
        its_scene, its_folds = folds_of(index, other)
        rows, cols = np.indices(folds.shape)
        x, y = scene.affine * (cols + 0.5, rows + 0.5)
        x = x - 360 * np.round((x - (its_scene.affine * (its_scene.width / 2, 0))[0]) / 360)
        col, row = (np.floor(values).astype(int) for values in ~its_scene.affine * (x, y))
        inside = (row >= 0) & (row < its_scene.height) & (col >= 0) & (col < its_scene.width)
        assert inside.any()
        seen = its_folds[row[inside], col[inside]]
        assert not ((folds[inside] == TRAIN) & (seen > TRAIN)).any()
        assert not ((folds[inside] == VALIDATION) & (seen == HOLDOUT)).any()


def test_scenes_that_share_no_ground_keep_all_their_pixels(make):
    first = make.scene("first", **at(0.0, 0.0))
    second = make.scene("second", **at(900.3, 0.0))
    local = make.scene("local", crs=None, transform=rasterio.Affine.identity())
    index = build_index(make.config(first, second, local, split={"buffer": 0}))
    for scene in index.scenes:
        assert (folds_of(index, scene.name)[1] > 0).all()


def test_a_region_of_one_scene_is_held_out_in_the_one_that_overlaps_it(make, tmp_path):
    first = make.scene("first", **at(0.0, 0.0))
    second = make.scene("second", **at(100.5, 0.0, 20.0))
    split = {
        "holdout_regions": [{"scene": "first", "columns": [128, None]}],
        "validation_regions": [{"scene": "second", "rows": [200, None]}],
        "buffer": 0,
    }
    index = build_index(make.config(first, second, split=split))
    folds = folds_of(index, "second")[1]
    # Columns 128..255 of 10 m are 13.75..77.75 of the second scene; its rows 0..127 lie beside the first scene's.
    assert not folds[:128, 13:78].any()
    assert folds[:128, :13].all()
    assert folds[128:].all()
    index.save(tmp_path / "index.json")
    np.testing.assert_array_equal(folds_of(ChipIndex.load(tmp_path / "index.json"), "second")[1], folds)


def test_two_real_scenes_that_overlap(make, shared_data):
    folder = shared_data / "landsat8_parana"
    label = {
        "label": str(folder / "LC08_L1TP_224078_20200518_20200518_01_RT_polygons.gpkg"),
        "label_field": "name", "outside": "background",
    }  # fmt: skip
    config = make.config(
        {"name": "north", "image": str(folder / "LC08_L1TP_224077_20200518_B2B3B4.tif"), **label},
        {"name": "south", "image": str(folder / "LC08_L1TP_224078_20200518_20200518_01_RT.TIF"), **label},
        classes=["none", "water", "crop", "tree", "developed"], nodata=0,
        split={"block_size": 128, "buffer": 0},
    )  # fmt: skip
    with pytest.warns(UserWarning, match="has no pixel of"):
        index = build_index(config)
    north, south = folds_of(index, "north")[1], folds_of(index, "south")[1]
    np.testing.assert_array_equal(north[346:, 778:], south[: 1515 - 346, : 2006 - 778])
    assert {1, 2, 3} == set(np.unique(south))


def test_the_geojson_is_where_the_folds_are(make):
    """In longitude and latitude, against rasterio's own warp of each block's corners."""
    index = build_index(make.config(make.scene("first", **at(0.0, 0.0))))
    scene, folds = folds_of(index, "first")
    covered = np.zeros(folds.shape, np.uint8)
    for feature in json.loads(json.dumps(index.split.to_geojson()))["features"]:
        properties = feature["properties"]
        (top, bottom), (left, right) = properties["rows"], properties["columns"]
        covered[top:bottom, left:right] = {"validation": VALIDATION, "holdout": HOLDOUT}[properties["fold"]]
        points = np.array(feature["geometry"]["coordinates"][0])
        x, y = transform("EPSG:4326", scene.crs, *points.T)
        cols, rows = ~scene.affine * (np.array(x), np.array(y))
        np.testing.assert_allclose(
            [rows.min(), rows.max(), cols.min(), cols.max()], [top, bottom, left, right], atol=1e-3
        )
    np.testing.assert_array_equal(covered > 0, folds > TRAIN)
    np.testing.assert_array_equal(covered[folds > TRAIN], folds[folds > TRAIN])

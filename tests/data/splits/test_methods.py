"""The ways to choose folds: cross-validation, whole scenes, dates, and shapes of the user's. None leaks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize
from rasterio.warp import transform, transform_geom

from tests.data.shared_ground import at, folds_of_scene, seen_from_scene
from ununennium.config import DataConfig, SplitConfig
from ununennium.data import HOLDOUT, TRAIN, VALIDATION, ChipIndex, build_index
from ununennium.data.splits.splits import Split
from ununennium.errors import ConfigError, DataError


def folds_of(index, place=0):
    return folds_of_scene(index, index.scenes[place])


def distance(trains, judged):
    """Least number of rows or columns between two masks, by brute force."""
    ours, theirs = np.argwhere(trains), np.argwhere(judged)
    edge = theirs[:: max(1, len(theirs) // 400)]
    return min(np.abs(ours - point).max(1).min() for point in edge)


def seen_from(index, one, other):
    return seen_from_scene(index, index.scenes[one], index.scenes[other])


# Cross-validation ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.integers(2, 5), seed=st.integers(0, 99), buffer=st.integers(0, 5), validation=st.sampled_from([0, 0.2]))
def test_each_pixel_is_held_out_by_exactly_one_of_the_folds(make, parts, seed, buffer, validation):
    scene = make.scene()
    held_out = np.zeros((256, 256), int)
    for fold in range(parts):
        split = {"folds": parts, "fold": fold, "seed": seed, "buffer": buffer, "validation": validation}
        folds = folds_of(build_index(make.config(scene, split=split)))
        held_out += folds == HOLDOUT
        assert distance(folds == TRAIN, folds > TRAIN) > buffer
        assert (folds == VALIDATION).any() == (validation > 0)
        assert abs((folds == HOLDOUT).mean() - 1 / parts) < 0.05
    assert (held_out == 1).all()


# Whole scenes --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_whole_scenes_are_dealt_and_scenes_of_one_place_go_together(make):
    """Eight places apart from each other; each of the first four is seen twice, on two grids."""
    scenes = [make.scene(f"place{n}", **at(400 * n, 0)) for n in range(8)]
    scenes += [make.scene(f"again{n}", **at(400 * n + 30.5, 20)) for n in range(4)]
    index = build_index(
        make.config(*scenes, split={"method": "scenes", "buffer": 0, "validation": 0.25, "holdout": 0.25})
    )
    found = [set(np.unique(folds_of(index, place)).tolist()) - {0} for place in range(12)]
    assert all(len(folds) == 1 for folds in found)
    assert {fold for folds in found for fold in folds} == {TRAIN, VALIDATION, HOLDOUT}
    assert found[:4] == found[8:]


@pytest.mark.slow
def test_scenes_that_share_a_little_ground_do_not_leak_it(make):
    """A row of scenes on grids of their own, each over a fifth of the next."""
    scenes = [make.scene(f"strip{n}", **at(205.5 * n, 0.3 * n)) for n in range(8)]
    index = build_index(make.config(*scenes, split={"method": "scenes", "buffer": 3}))
    shared = 0
    for one in range(7):
        for pair in ((one, one + 1), (one + 1, one)):
            folds, seen = seen_from(index, *pair)
            assert not ((folds == TRAIN) & (seen > TRAIN)).any()
            assert not ((folds == VALIDATION) & (seen == HOLDOUT)).any()
            shared += int((seen > 0).sum())
    assert shared > 10_000
    assert all(sum(counts) for counts in index.labelled.values())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["blocks", "scenes"])
def test_a_split_that_leaks_is_not_used(make, monkeypatch, method):
    """As if the ground that other scenes judge had been forgotten."""
    scenes = [make.scene(f"strip{n}", **at(150.5 * n, 0.3 * n)) for n in range(6)]
    build_index(make.config(*scenes, split={"method": method}))
    monkeypatch.setattr(Split, "_judged_elsewhere", lambda self, scene: [])
    with pytest.raises(AssertionError, match="are one place, in two folds"):
        build_index(make.config(*scenes, split={"method": method}))


# Dates ---------------------------------------------------------------------------------------------------------------


def test_later_scenes_are_judged(make, tmp_path):
    days = ["2024-05-01", "2025-05-01", "2025-12-31", "2026-01-01"]
    scenes = [{**make.scene(f"year{n}"), "date": day} for n, day in enumerate(days)]
    split = {"method": "time", "validation_from": "2025-05-01", "holdout_from": "2026-01-01"}
    index = build_index(make.config(*scenes, split=split))
    assert [np.unique(folds_of(index, n)).tolist() for n in range(4)] == [
        [TRAIN], [VALIDATION], [VALIDATION], [HOLDOUT]
    ]  # fmt: skip
    index.save(tmp_path / "index.json")
    np.testing.assert_array_equal(folds_of(ChipIndex.load(tmp_path / "index.json"), 3), folds_of(index, 3))
    features = index.split.to_geojson()["features"]
    assert [feature["properties"]["scene"] for feature in features] == ["year1", "year2", "year3"]


def test_a_scene_without_a_date_cannot_be_split_by_time(make):
    with pytest.raises(ConfigError, match=r"scene 'scene' has no date; give it one \(data\.scenes: date\)"):
        build_index(make.config(make.scene(), split={"method": "time", "holdout_from": "2026-01-01"}))


# Shapes of the user's ------------------------------------------------------------------------------------------------


def ring(points, fold, **properties):
    geometry = {"type": "Polygon", "coordinates": [[*map(list, points), list(points[0])]]}
    return {"type": "Feature", "properties": {"fold": fold, **properties}, "geometry": geometry}


def write(make, *features):
    path = make.folder / "folds.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return {"method": "file", "file": str(path)}


def ground(points, crs="EPSG:32633"):
    """(column, row) of the first scene's grid in longitude and latitude."""
    x, y = zip(*((500000 + 10 * col, 5000000 - 10 * row) for col, row in points), strict=True)
    return list(zip(*transform(crs, "EPSG:4326", x, y), strict=True))


@pytest.mark.slow
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    corner=st.tuples(st.floats(20, 120), st.floats(20, 120)), place=st.tuples(st.floats(-60, 60), st.floats(-60, 60)),
    pixel=st.sampled_from([10.0, 14.0, 25.0]), buffer=st.integers(0, 6),
)  # fmt: skip
def test_drawn_shapes_are_judged_and_nothing_near_them_trains_on_any_grid(make, corner, place, pixel, buffer):
    col, row = corner
    triangle = ground([(col, row), (col + 90, row + 20), (col + 10, row + 80)])
    square = ground([(150, 150), (200, 150), (200, 200), (150, 200)])
    split = write(make, ring(triangle, "holdout"), ring(square, "validation"))
    scenes = make.scene("first", **at(0, 0)), make.scene("second", **at(*place, pixel))
    index = build_index(make.config(*scenes, split={**split, "buffer": buffer}))
    for number, scene in enumerate(index.scenes):
        folds = folds_of(index, number)
        shape = transform_geom("EPSG:4326", scene.crs, {"type": "Polygon", "coordinates": [[*triangle, triangle[0]]]})
        inside = rasterize([shape], folds.shape, transform=scene.affine, all_touched=False) > 0
        assert (folds[inside] == HOLDOUT).all()  # every pixel whose centre lies in the shape
        if (folds > TRAIN).any():
            assert distance(folds == TRAIN, folds > TRAIN) > buffer
    for pair in ((0, 1), (1, 0)):
        folds, seen = seen_from(index, *pair)
        assert not ((folds == TRAIN) & (seen > TRAIN)).any()


def test_only_what_is_drawn_trains_where_training_is_drawn(make):
    west, east = [(0, 0), (100, 0), (100, 256), (0, 256)], [(150, 0), (256, 0), (256, 256), (150, 256)]
    split = write(make, ring(ground(west), "train"), ring(ground(east), "holdout"))
    folds = folds_of(build_index(make.config(make.scene(), split={**split, "buffer": 0})))
    assert (folds[:, 1:99] == TRAIN).all()
    assert (folds[:, 101:149] == 0).all()
    assert (folds[:, 151:] == HOLDOUT).all()


def test_the_geojson_of_drawn_folds_is_what_was_drawn(make):
    shapes = {"holdout": [(20, 20), (90, 20), (90, 80), (20, 80)], "validation": [(150, 150), (200, 150), (200, 200)]}
    split = write(make, *(ring(ground(points), fold) for fold, points in shapes.items()))
    features = build_index(make.config(make.scene(), split=split)).split.to_geojson()["features"]
    found = {feature["properties"]["fold"]: feature for feature in features}
    assert len(features) == len(found) == 2
    for fold, points in shapes.items():
        cols, rows = zip(*points, strict=True)
        place = found[fold]["properties"]
        np.testing.assert_allclose(place["columns"], [min(cols), max(cols)], atol=1.1)
        np.testing.assert_allclose(place["rows"], [min(rows), max(rows)], atol=1.1)


@pytest.mark.parametrize("profile", [{}, {"crs": None, "transform": rasterio.Affine(2, 0, 0, 0, 2, 0)}])
def test_the_split_of_a_run_can_be_given_to_the_next(make, profile, tmp_path):
    """Also for a scene without CRS, whose polygons are in pixels."""
    scene = make.scene(**profile)
    index = build_index(make.config(scene))
    (tmp_path / "split.geojson").write_text(json.dumps(index.split.to_geojson()))
    again = build_index(make.config(scene, split={"method": "file", "file": str(tmp_path / "split.geojson")}))
    np.testing.assert_array_equal(folds_of(again), folds_of(index))
    again.save(tmp_path / "index.json")
    loaded = ChipIndex.load(tmp_path / "index.json")
    np.testing.assert_array_equal(folds_of(loaded), folds_of(index))
    assert loaded.split.sha256 == again.split.sha256


def test_files_of_folds_that_cannot_be_used(make):
    square = ground([(0, 0), (99, 0), (99, 99)])
    scene = make.scene()
    with pytest.raises(DataError, match=r"fold = 'test'; the folds are train, validation, holdout"):
        build_index(make.config(scene, split=write(make, ring(square, "test"))))
    nameless = ring(square, "holdout")
    nameless["properties"] = {"kind": "holdout"}
    with pytest.raises(DataError, match="has no attribute 'fold'"):
        build_index(make.config(scene, split=write(make, nameless)))
    with pytest.raises(DataError, match=r"data\.split\.file: gone\.geojson cannot be read"):
        build_index(make.config(scene, split={"method": "file", "file": "gone.geojson"}))
    local = make.scene("local", crs=None, transform=rasterio.Affine(2, 0, 0, 0, 2, 0))
    with pytest.raises(DataError, match="scene 'local' has no CRS"):
        build_index(make.config(scene, local, split=write(make, ring(square, "holdout"))))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"method": "file"}, "needs data.split.file"),
        ({"method": "time"}, "needs data.split.validation_from or"),
        ({"method": "time", "holdout_from": "soon"}, "2026-05-18"),
        ({"folds": 3, "fold": 3}, "none of the 3 folds 0..2"),
        ({"folds": 3, "holdout_regions": [{}]}, "leave out holdout_regions"),
        ({"method": "file", "file": "a", "folds": 2}, "without regions and folds"),
        ({"method": "time", "validation_from": "2026-01-01", "holdout_from": "2025-01-01"}, "must be later"),
    ],
)
def test_settings_that_do_not_go_together(values, message):
    with pytest.raises(ValueError, match=message):
        SplitConfig.model_validate(values)


def test_the_default_is_blocks():
    config = DataConfig.model_validate({"scenes": [{"image": "a"}], "classes": ["a", "b"]})
    assert config.split.method == "blocks"

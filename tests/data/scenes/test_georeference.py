"""Images that ground control points or polynomials place: used, or refused with the command (correctness 81)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
import rasterio
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from ununennium.config.predictor import InputCheckConfig
from ununennium.data import build_index, open_catalog
from ununennium.data.scenes.georeference import georeference
from ununennium.data.scenes.reader import SceneReader
from ununennium.data.targets.labels import LabelReader
from ununennium.errors import DataError
from ununennium.inference.input_check import open_checked

SIZE = 256
STEP = 0.1 / SIZE  # degrees
CONTRACT: dict[str, Any] = {
    "bands": [1], "crs": "EPSG:32633", "resolution": [30.0, 30.0], "statistics": {}, "nodata": None,
}  # fmt: skip


def at(row: float, col: float, bend: float = 0.0) -> tuple[float, float]:
    """Longitude and latitude of a place in the image."""
    return 15 + col * STEP + bend * (row / SIZE) ** 2, 46 - row * STEP


def place_by_points(path: str, bend: float = 0.0, crs: str = "EPSG:4326") -> str:
    move = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    points = [
        GroundControlPoint(row, col, *move.transform(*at(row, col, bend)))
        for row in range(0, SIZE + 1, SIZE // 4) for col in range(0, SIZE + 1, SIZE // 4)
    ]  # fmt: skip
    with rasterio.open(path, "r+") as dataset:
        dataset.gcps = points, rasterio.CRS.from_user_input(crs)
    return path


def place_by_polynomials(path: str) -> str:
    half, one = SIZE / 2, [1.0] + [0.0] * 19
    polynomials = RPC(
        height_off=0, height_scale=100, lat_off=46 - half * STEP, lat_scale=half * STEP, line_off=half, line_scale=half,
        long_off=15 + half * STEP, long_scale=half * STEP, samp_off=half, samp_scale=half,
        line_num_coeff=[0, 0, -1.0] + [0] * 17, line_den_coeff=one, samp_num_coeff=[0, 1.0] + [0] * 18,
        samp_den_coeff=one, err_bias=0, err_rand=0,
    )  # fmt: skip
    with rasterio.open(path, "r+") as dataset:
        dataset.rpcs = polynomials
    return path


@pytest.fixture
def image(make) -> str:
    pixels = np.random.default_rng(0).integers(1, 1000, (1, SIZE, SIZE)).astype(np.uint16)
    return make.raster("image.tif", pixels, crs=None, transform=None)


@pytest.fixture
def labels(tmp_path: Path) -> str:
    """Squares of 16 pixels, every 32 pixels from (8, 8) on, in degrees."""
    shapes = []
    for row in range(8, SIZE, 32):
        for col in range(8, SIZE, 32):
            corners = [(row, col), (row, col + 16), (row + 16, col + 16), (row + 16, col), (row, col)]
            ring = [list(at(*corner)) for corner in corners]
            shapes.append({"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}})
    (tmp_path / "labels.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": shapes}))
    return str(tmp_path / "labels.geojson")


def expected_labels() -> np.ndarray:
    inside = (np.arange(SIZE) - 8) % 32 < 16
    inside[:8] = False
    return np.logical_and.outer(inside, inside)


@pytest.mark.parametrize("as_band", [False, True])
def test_labels_lie_where_control_points_place_them(as_band, make, image, labels):
    place_by_points(image)
    index = build_index(make.config({"image": {"vv": image} if as_band else image, "label": labels}))
    (scene,) = index.scenes
    assert rasterio.CRS.from_wkt(scene.crs) == rasterio.CRS.from_epsg(4326)
    assert scene.affine * (SIZE, SIZE) == pytest.approx(at(SIZE, SIZE))
    np.testing.assert_array_equal(index.labels(scene).read(0, 0, SIZE, SIZE) == 1, expected_labels())


@pytest.mark.parametrize("as_band", [False, True])
@pytest.mark.parametrize("kind", ["points", "polynomials"])
def test_labels_on_an_image_that_needs_warping_are_refused_with_the_command(kind, as_band, make, image, labels):
    place_by_points(image, bend=0.01) if kind == "points" else place_by_polynomials(image)
    command = rf"gdalwarp {'-rpc ' if kind == 'polynomials' else ''}-t_srs EPSG:32633 -r bilinear .*image\.tif.*warped"
    with pytest.raises(DataError, match=f"placed by .*alone.*{command}.*align: warp" if not as_band else "gdalwarp"):
        build_index(make.config({"image": {"vv": image} if as_band else image, "label": labels}))


@pytest.mark.parametrize("kind", ["fitted", "points", "polynomials"])
@pytest.mark.parametrize("with_raster", [False, True])
def test_a_warped_image_lies_where_it_is_placed(kind, with_raster, make, image, labels):
    rows, cols = np.mgrid[0:SIZE, 0:SIZE]
    with rasterio.open(image, "r+") as dataset:
        dataset.write((1000 + rows * 100 + cols * 10).astype(np.uint16), 1)
    bend = 0.01 if kind == "points" else 0.0
    place_by_polynomials(image) if kind == "polynomials" else place_by_points(image, bend)
    label = make.raster("raster.tif", expected_labels()[None].astype(np.uint8), crs=None, transform=None)
    grid = {"crs": "EPSG:32633", "resolution": 40}
    settings = {"image": image, "label": label if with_raster else labels}
    config = make.config(settings, align="warp", grid=grid)
    (scene,) = open_catalog(config)
    pixels, valid = SceneReader(scene).read(0, 0, scene.height, scene.width)
    row, col = scene.height // 3, scene.width // 2
    assert valid[row, col]
    assert valid.mean() > 0.8
    move = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    longitude, latitude = move.transform(*(scene.affine * (col + 0.5, row + 0.5)))
    their_row = (46 - latitude) / STEP
    their_col = (longitude - 15 - bend * (their_row / SIZE) ** 2) / STEP
    assert pixels[0, row, col] == pytest.approx(1000 + (their_row - 0.5) * 100 + (their_col - 0.5) * 10, abs=60)
    if bend == 0.0:
        numbers = LabelReader(scene, config.classes, config.ignore_index)
        found = numbers.read(0, 0, scene.height, scene.width)
        away = np.array([0.15, -0.15])
        rows, cols = np.nonzero(valid)
        east, north = move.transform(*(scene.affine * (cols + 0.5, rows + 0.5)))
        at_col, at_row = (east - 15) / STEP, (46 - north) / STEP
        corners = [
            expected_labels()[np.clip((at_row + a).astype(int), 0, 255), np.clip((at_col + b).astype(int), 0, 255)]
            for a in away * 4 for b in away * 4
        ]  # fmt: skip
        clear = np.logical_and.reduce(corners) | ~np.logical_or.reduce(corners)
        assert clear.mean() > 0.7
        assert ((found[rows, cols] == 1) == corners[0])[clear].mean() > 0.99


@pytest.mark.parametrize("kind", ["none", "points", "polynomials"])
def test_label_rasters_on_the_pixels_of_the_image_go_on_working(kind, make, image):
    if kind != "none":
        place_by_points(image, bend=0.01) if kind == "points" else place_by_polynomials(image)
    label = make.raster("raster.tif", expected_labels()[None].astype(np.uint8), crs=None, transform=None)
    index = build_index(make.config({"image": image, "label": label}))
    (scene,) = index.scenes
    assert scene.crs is None
    np.testing.assert_array_equal(index.labels(scene).read(0, 0, SIZE, SIZE) == 1, expected_labels())


def test_labels_in_coordinates_on_an_image_without_georeference_are_refused(make, image, labels):
    with pytest.raises(DataError, match=r"image\.tif has no georeference, and its labels .*gdal_edit\.py"):
        open_catalog(make.config({"image": image, "label": labels}))


def test_a_scene_to_map_is_told_of_or_refused(image, tmp_path):
    place_by_points(image)
    with pytest.warns(UserWarning, match="pixels of .*ground control points"):
        opened = open_checked(image, CONTRACT)
    assert opened.scene.affine * (0, 0) == pytest.approx((15, 46))
    place_by_points(image, bend=0.01)
    with pytest.raises(DataError, match=r"control points alone.*map could not be placed.*gdalwarp -t_srs EPSG:32633"):
        open_checked(image, CONTRACT)
    opened = open_checked(image, CONTRACT, InputCheckConfig(align="warp"), folder=tmp_path / "warped")
    assert rasterio.CRS.from_wkt(opened.scene.crs) == rasterio.CRS.from_epsg(32633)
    with pytest.warns(UserWarning, match="its map has no georeference"):
        open_checked(image, CONTRACT | {"crs": None, "resolution": None})


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:32633", "EPSG:3857"])
def test_points_that_a_transform_fits_are_that_transform(crs, image):
    place_by_points(image, crs=crs)
    with rasterio.open(image) as dataset:
        found = georeference(dataset)
    move = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    if found.crs is not None:
        there = found.transform * (100, 50)
        away = np.subtract(there, move.transform(*at(50, 100))) / abs(found.transform.a)
        assert abs(away).max() < 0.1
    assert (found.crs is None) == (crs == "EPSG:32633")  # of a grid in degrees, which UTM bends


@pytest.mark.parametrize("kind", ["points", "polynomials"])
def test_dates_that_are_placed_elsewhere_are_no_stack(kind, make):
    """Pixels of dates are put together by row and column, which only their placement can show to be right."""
    pixels, bare = np.ones((1, SIZE, SIZE), np.uint16), {"crs": None, "transform": None}
    paths = [make.raster(f"{number}.tif", pixels, **bare) for number in range(3)]
    for path, away in zip(paths, (0, 0, 2), strict=True):
        if kind == "points":
            place_by_points(path, bend=0.02)
        else:
            place_by_polynomials(path)
        with rasterio.open(path, "r+") as dataset:
            if kind == "points":
                points, crs = dataset.gcps
                dataset.gcps = [GroundControlPoint(p.row, p.col, p.x + away * STEP, p.y) for p in points], crs
            else:
                rpcs = dataset.rpcs
                rpcs.samp_off -= away
                dataset.rpcs = rpcs
    label = make.raster("labels.tif", np.zeros((1, SIZE, SIZE), np.uint8), **bare)
    (scene,) = open_catalog(make.config({"image": paths[:2], "label": label}))
    assert scene.num_dates == 2
    with pytest.raises(DataError, match="different grids"):
        open_catalog(make.config({"image": [paths[0], paths[2]], "label": label}))

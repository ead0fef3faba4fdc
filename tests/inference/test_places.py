"""Maps anywhere on earth: areas on the ellipsoid, polygons and items across the antimeridian. correctness 79."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyproj
import pystac
import pytest
import rasterio
import shapely

from tests.bright_model import promote_bright
from tests.rasters import write_raster
from ununennium.config.maps import MapsConfig
from ununennium.config.predictor import PolygonsConfig
from ununennium.data.scenes.ground import GroundTally
from ununennium.evaluation.mapped import MappedArea
from ununennium.inference import Predictor
from ununennium.inference.jobs import make_job, run_job
from ununennium.inference.stac_item import stac_item
from ununennium.inference.vectors import write_areas

GEOD = pyproj.Geod(ellps="WGS84")
HEIGHT, WIDTH = 100, 130
CUSTOM = "+proj=aea +lat_1=-10 +lat_2=-25 +lat_0=-17 +lon_0=178 +datum=WGS84 +units=km"
PLACES = [
    ("EPSG:4326", 15, 50, 0.0001), ("EPSG:4267", -100, 40, 0.001), ("EPSG:4326", 180, -17, 0.001),
    ("EPSG:4326", 200, 30, 0.01), ("EPSG:3857", 15, 60, 10), ("EPSG:32633", 20.9, 60, 300),
    ("EPSG:32701", 180, -17, 10),
    ("EPSG:3413", 180, 70, 250), ("EPSG:3413", -45, 90, 500), ("EPSG:3031", 0, -89.9, 100), ("EPSG:5070", -96, 38, 30),
    (CUSTOM, 180, -17, 0.3),
]  # fmt: skip


@pytest.fixture
def predictor(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    promote_bright(tmp_path, resolution=None, crs=None)
    return Predictor.champion("bright", storage=str(tmp_path / "storage"))


def write_scene(path: Path, crs: str, longitude: float, latitude: float, pixel: float) -> rasterio.Affine:
    """A scene of 10 around a place, with a ring of 40: a polygon with a hole, and one within."""
    pixels = np.full((1, HEIGHT, WIDTH), 10, np.float32)
    pixels[:, 20:80, 30:100] = 40
    pixels[:, 40:60, 50:80] = 10
    known = pyproj.CRS.from_user_input(crs)
    x, y = longitude, latitude
    if not known.is_geographic:
        x, y = pyproj.Transformer.from_crs("EPSG:4326", known, always_xy=True).transform(longitude, latitude)
    grid = rasterio.Affine(pixel, 0, x - pixel * WIDTH / 2, 0, -pixel, y + pixel * HEIGHT / 2)
    write_raster(path, pixels, crs=rasterio.CRS.from_wkt(known.to_wkt()), transform=grid)
    return grid


def on_the_ellipsoid(crs: str, grid: rasterio.Affine) -> float:
    """Square metres of the ring, from its outline, its edges cut to a tenth of a pixel."""
    move = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    ring = shapely.box(30, 20, 100, 80).difference(shapely.box(50, 40, 80, 60))

    def placed(points):
        return np.column_stack(move.transform(grid.a * points[:, 0] + grid.c, grid.e * points[:, 1] + grid.f))

    return abs(GEOD.geometry_area_perimeter(shapely.transform(shapely.segmentize(ring, 0.1), placed))[0])


@pytest.mark.parametrize(("crs", "longitude", "latitude", "pixel"), PLACES)
def test_a_map_has_its_areas_and_polygons_wherever_it_lies(predictor, crs, longitude, latitude, pixel):
    grid = write_scene(Path("scene.tif"), crs, longitude, latitude, pixel)
    mapped = predictor.map("scene.tif", "map.tif", ("map", "areas", "polygons"))
    ground = on_the_ellipsoid(crs, grid)
    rows = csv.DictReader(Path("map-areas.csv").read_text().splitlines())
    table = {row["name"]: float(row["area_m2"]) for row in rows}
    assert table["bright"] == pytest.approx(ground, rel=1e-4)
    assert mapped.areas["bright"]["area_m2"] == pytest.approx(table["bright"], abs=1e-3)
    shapes = json.loads(Path("map-polygons.geojson").read_text())["features"]
    assert len(shapes) == 3
    for name in ("bright", "dark"):
        of_polygons = sum(each["properties"]["area_m2"] for each in shapes if each["properties"]["name"] == name)
        assert of_polygons == pytest.approx(table[name], rel=1e-6)
    at_pole = abs(latitude) > 89
    for each in shapes:
        drawn = shapely.geometry.shape(each["geometry"])
        west, south, east, north = drawn.bounds
        assert (west >= -180, east <= 180, south >= -90, north <= 90) == (True,) * 4
        assert drawn.is_valid
        for part in shapely.get_parts(drawn):
            assert at_pole or part.bounds[2] - part.bounds[0] < 20
        area = abs(GEOD.geometry_area_perimeter(drawn)[0])
        assert area == pytest.approx(each["properties"]["area_m2"], rel=1e-4)


def test_small_polygons_are_those_that_are_small_on_the_ground(predictor):
    """At 60 N, EPSG:3857 counts four times as many square metres."""
    grid = write_scene(Path("scene.tif"), "EPSG:3857", 15, 60, 10)
    ground = on_the_ellipsoid("EPSG:3857", grid)
    for least, names in ((0.99 * ground, ["bright", "dark"]), (1.01 * ground, ["dark"])):
        settings = PolygonsConfig(min_area_m2=least)
        predictor.map("scene.tif", "map.tif", ("map", "polygons"), polygons=settings)
        shapes = json.loads(Path("map-polygons.geojson").read_text())["features"]
        assert sorted(each["properties"]["name"] for each in shapes) == names


def test_pixels_of_centimetres_keep_their_shape_in_geojson(predictor):
    """A centimetre is what seven decimals of a degree tell apart."""
    write_scene(Path("scene.tif"), "EPSG:32633", 15, 50, 0.02)
    predictor.map("scene.tif", "map.tif", ("map", "polygons"))
    for each in json.loads(Path("map-polygons.geojson").read_text())["features"]:
        area = GEOD.geometry_area_perimeter(shapely.geometry.shape(each["geometry"]))[0]
        assert area == pytest.approx(each["properties"]["area_m2"], rel=1e-4)


@pytest.mark.parametrize(("crs", "longitude", "latitude", "pixel", "parts", "bbox"), [
    ("EPSG:32701", 180, -17, 10, 2, "crosses"), ("EPSG:4326", 180, -17, 0.001, 2, [179.935, -17.05, -179.935, -16.95]),
    ("EPSG:4326", 230, 10, 0.01, 1, [-130.65, 9.5, -129.35, 10.5]), ("EPSG:3413", 0, 90, 500, 1, "pole"),
    ("EPSG:3031", 0, -90, 500, 1, "pole"), (CUSTOM, 180, -17, 0.3, 2, "crosses"),
])  # fmt: skip
def test_items_lie_between_180_west_and_180_east(predictor, tmp_path, crs, longitude, latitude, pixel, parts, bbox):
    write_scene(Path("scene.tif"), crs, longitude, latitude, pixel)
    mapped = predictor.map("scene.tif", "map.tif")
    made = stac_item(mapped, "scene", links=[], files=mapped.files, properties={}, title="bright")
    item = pystac.Item.from_dict(json.loads(json.dumps(made)))
    shape = shapely.geometry.shape(item.geometry)
    assert len(shapely.get_parts(shape)) == parts
    assert shape.is_valid
    west, south, east, north = item.bbox
    if bbox == "crosses":
        assert 178 < west < 180
        assert -180 < east < -178
    elif bbox == "pole":
        assert (west, east) == (-180, 180)
        assert (south if latitude < 0 else north) == latitude
    else:
        assert item.bbox == pytest.approx(bbox, abs=1e-7)
    assert all(-180 <= x <= 180 and -90 <= y <= 90 for x, y in shapely.get_coordinates(shape))
    if made["properties"]["proj:code"] is None:
        assert pyproj.CRS.from_wkt(made["properties"]["proj:wkt2"]) == pyproj.CRS.from_user_input(CUSTOM)


def test_a_scene_of_the_whole_globe_is_one_box(predictor):
    write_scene(Path("scene.tif"), "EPSG:4326", 180, 0, 360 / WIDTH)
    with rasterio.open("scene.tif", "r+") as file:
        file.transform = rasterio.Affine(360 / WIDTH, 0, 0, 0, -180 / HEIGHT, 90)
    mapped = predictor.map("scene.tif", "map.tif", ("map", "areas"))
    made = stac_item(mapped, "globe", links=[], files=mapped.files, properties={}, title="bright")
    assert made["bbox"] == [-180, -90, 180, 90]
    assert shapely.geometry.shape(made["geometry"]).equals(shapely.box(-180, -90, 180, 90))
    assert sum(each["area_m2"] for each in mapped.areas.values()) == pytest.approx(510_065_621_724_089, rel=1e-9)


@pytest.mark.slow
def test_a_job_maps_a_scene_across_the_antimeridian(predictor, tmp_path):
    write_scene(Path("fiji.tif"), "EPSG:32701", 180, -17, 10)
    done = run_job(make_job(MapsConfig.parse({"model": "bright", "device": "cpu", "images": ["fiji.tif"]})))
    assert done.failures == {}
    item = pystac.Item.from_file(str(tmp_path / "maps" / "fiji" / "item.json"))
    assert item.geometry["type"] == "MultiPolygon"


def test_areas_of_a_holdout_in_degrees_are_square_metres(predictor):
    grid = write_scene(Path("scene.tif"), "EPSG:4326", 15, 50, 0.001)
    scene = predictor.plan("scene.tif").opened.scene
    with rasterio.open("scene.tif") as file:
        classes = (file.read(1) > 20).astype(np.int64)
    tally = GroundTally(scene, predictor.map_kind.tally, 2)
    tally.add(10, 5, classes[10:, 5:], np.ones((HEIGHT - 10, WIDTH - 5), bool))
    mapped = MappedArea(2)
    mapped.add(tally)
    assert mapped._m2[1] == pytest.approx(on_the_ellipsoid("EPSG:4326", grid), rel=1e-5)


def test_maps_without_a_crs_have_polygons_in_pixels(predictor):
    write_scene(Path("scene.tif"), "EPSG:32633", 15, 50, 10)
    with rasterio.open("scene.tif") as source:
        pixels = source.read()
    with rasterio.open("plain.tif", "w", driver="GTiff", count=1, height=HEIGHT, width=WIDTH, dtype="float32") as file:
        file.write(pixels)
    mapped = predictor.map("plain.tif", "map.tif", ("map", "areas", "polygons"))
    assert mapped.areas["bright"] == {"pixels": 60 * 70 - 20 * 30, "area_m2": None}
    shapes = json.loads(Path("map-polygons.geojson").read_text())["features"]
    assert max(shapely.geometry.shape(each["geometry"]).bounds[2] for each in shapes) == WIDTH
    assert write_areas([], mapped.scene, {"geojson": Path("none.geojson")}) == 0
    assert json.loads(Path("none.geojson").read_text())["features"] == []

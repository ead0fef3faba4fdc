"""Vector labels: layers, attributes of any type, classes that nearly fit, places, and geometries that are broken."""

from __future__ import annotations

import json
import warnings

import geopandas
import numpy as np
import pandas
import pyogrio
import pyproj
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize

from tests.data.conftest import Maker
from ununennium.data import build_index
from ununennium.data.describe import scene_facts
from ununennium.data.scenes.catalog import open_catalog
from ununennium.data.targets.labels import LabelReader
from ununennium.errors import ConfigError, DataError

SIZE = 64
GRID = rasterio.Affine(10, 0, 500000, 0, -10, 5000000)
DRIVERS = {"gpkg": "GPKG", "fgb": "FlatGeobuf", "shp": "ESRI Shapefile", "geojson": "GeoJSON"}


@pytest.fixture
def image(make):
    pixels = np.random.default_rng(0).integers(1, 1000, (1, SIZE, SIZE)).astype(np.uint16)
    return make.raster("image.tif", pixels)


def _boxes(grid=GRID, size=8):
    """Boxes of pixels that do not touch each other, 16 of them."""
    return [
        shapely.box(*(grid * (column, row + size)), *(grid * (column + size, row)))
        for column in range(4, SIZE, 16)
        for row in range(4, SIZE, 16)
    ]


def _write(make, name, columns, shapes=None, crs="EPSG:32633", **options):
    shapes = _boxes() if shapes is None else shapes
    path = make.folder / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what a driver cannot hold, it writes as text
        frame = geopandas.GeoDataFrame(columns, geometry=shapes, crs=crs)
        frame.to_file(path, driver=DRIVERS[name.rpartition(".")[2]], **options)
    return str(path)


def _labels(make, image, label, **settings):
    """Labels of the whole image, and the notes of its index."""
    scene = {"image": image, "label": label}
    for name in ("label_field", "label_value", "label_layer", "label_buffer_m", "label_unknown", "labelled_area"):
        if name in settings:
            scene[name] = settings.pop(name)
    settings.setdefault("split", {"block_size": 8, "buffer": 0, "validation": 0, "holdout": 0})
    index = build_index(make.config(scene, **settings))
    return index.labels(index.scenes[0]).read(0, 0, SIZE, SIZE), index.notes


def _expected(shapes, values=1, fill=0):
    values = np.broadcast_to(values, len(shapes))
    return rasterize(zip(shapes, values.tolist(), strict=True), (SIZE, SIZE), fill=fill, transform=GRID)


# Attributes -----------------------------------------------------------------------------------------------------------

KINDS = ["even", "odd"] * 8
OTHERS = {
    "flags": [True, False] * 8,
    "dates": np.arange("2026-01-01", "2026-01-17", dtype="datetime64[D]").astype("datetime64[ms]"),
    "blobs": [b"\x00\xff"] * 16,
    "numbers": np.linspace(0, 1, 16),
    "none": [None] * 16,
}


@pytest.mark.parametrize("driver", ["gpkg", "fgb", "shp"])
@pytest.mark.parametrize("named", [True, False])
def test_attributes_of_any_type_beside_the_class(make, image, driver, named):
    """correctness 78: attributes that hold no class are no hindrance."""
    path = _write(make, f"labels.{driver}", {"kind": KINDS, **OTHERS})
    labels, _ = _labels(make, image, path, **({"label_field": "kind"} if named else {}))
    np.testing.assert_array_equal(labels, _expected(_boxes(), [0, 1] * 8, fill=255))


@pytest.mark.parametrize("named", [True, False])
def test_lists_and_objects_beside_the_class(make, image, named):
    """The GeoJSON of OpenStreetMap and Overture."""
    others = {"sources": ["osm", "ml"], "names": {"primary": "x"}, "ids": [1, 2], "mixed": [1, "a", None, {"b": []}]}
    features = [
        {"type": "Feature", "properties": {"kind": kind, **others}, "geometry": shapely.geometry.mapping(shape)}
        for kind, shape in zip(KINDS, _boxes(), strict=True)
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    path = make.folder / "labels.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    labels, _ = _labels(make, image, str(path), **({"label_field": "kind"} if named else {}))
    np.testing.assert_array_equal(labels, _expected(_boxes(), [0, 1] * 8, fill=255))
    with pytest.raises(DataError, match=r"16 of 16 shapes have no class.*sources = .*osm.* is no class"):
        _labels(make, image, str(path), label_field="sources")


@pytest.mark.parametrize("field", ["dates", "blobs", "numbers"])
def test_an_attribute_that_can_be_no_class(make, image, field):
    path = _write(make, "labels.gpkg", {"kind": KINDS, **OTHERS})
    with pytest.raises(DataError, match=rf"labels\.gpkg: \d+ of 16 shapes have no class.*{field} = .*label_unknown"):
        _labels(make, image, path, label_field=field)


NEARLY = [
    ({3: "Odd"}, r"1 of 16 .*shape 4 the first: kind = 'Odd' \(not 'odd'\) is no class"),
    ({3: "odd "}, r"1 of 16 .*kind = 'odd ' \(not 'odd'\) is no class"),
    ({2: None, 5: None}, r"2 of 16 .*shape 3 the first: kind = empty is no class"),
    ({0: "lake", 1: "lake", 2: ""}, r"3 of 16 .*kind = 'lake' \(2 shapes\), empty \(1 shape\) is no class"),
    (dict.fromkeys(range(2, 16), "field"), r"14 of 16 .*kind = 'field' is no class"),
]


@pytest.mark.parametrize("driver", ["gpkg", "shp", "geojson"])
@pytest.mark.parametrize(("changes", "match"), NEARLY)
def test_a_class_attribute_that_nearly_fits_names_what_does_not(make, image, driver, changes, match):
    """correctness 78: never all shapes in one class, in silence."""
    kinds = [changes.get(place, kind) for place, kind in enumerate(KINDS)]
    if driver == "shp":  # it has no blanks at the end of a text
        match = match.replace("'odd ' \\(not 'odd'\\)", "") if "odd " in match else match
        if "'odd '" in str(changes):
            pytest.skip("a Shapefile cuts blanks off")
    path = _write(make, f"labels.{driver}", {"kind": kinds, "name": [f"n {k}" for k in range(16)]})
    for field in ({}, {"label_field": "kind"}):
        with pytest.raises(DataError, match=match):
            _labels(make, image, path, **field)
    expected = [1 if kind == "odd" else 0 if kind == "even" else 255 for kind in kinds]
    for field in ({}, {"label_field": "kind"}):
        labels, _ = _labels(make, image, path, label_unknown="unlabelled", **field)
        np.testing.assert_array_equal(labels, _expected(_boxes(), expected, fill=255))
    labels, _ = _labels(make, image, path, label_value=1)
    np.testing.assert_array_equal(labels, _expected(_boxes()))


def test_a_name_that_is_a_class_by_coincidence_is_no_class_attribute(make, image):
    names = [f"house {number}" for number in range(40)] + ["odd"]
    shapes = [_boxes()[number % 16] for number in range(41)]
    labels, notes = _labels(make, image, _write(make, "labels.gpkg", {"name": names}, shapes))
    np.testing.assert_array_equal(labels, _expected(_boxes()))
    assert notes == []


def test_an_attribute_of_other_class_names_is_said(make, image):
    path = _write(make, "labels.gpkg", {"use": ["road", "roof"] * 8})
    labels, notes = _labels(make, image, path)
    np.testing.assert_array_equal(labels, _expected(_boxes()))
    assert any("use: 'road', 'roof'" in note and "label_field" in note for note in notes)
    assert _labels(make, image, path, label_value=1)[1] == []


@pytest.mark.parametrize("dtype", [int, float, str])
def test_values_of_a_mapping_are_the_class_without_a_setting(make, image, dtype):
    """correctness 78: shapes of several classes are not made one class in silence."""
    values = [dtype(value) for value in [8, 9] * 8]
    label = _write(make, "values.gpkg", {"code": values, "floors": [1, 2, 3, 4] * 4})
    labels, _ = _labels(make, image, label, classes={8: "built", 9: "water"})
    np.testing.assert_array_equal(labels, _expected(_boxes(), np.array([0, 1] * 8), fill=255))
    labels, _ = _labels(make, image, label, classes={8: "built", 9: "water"}, label_value=9)
    np.testing.assert_array_equal(labels, _expected(_boxes(), 1))


@pytest.mark.parametrize("dtype", [np.int32, np.float64, str])
def test_values_of_a_mapping_that_nearly_fit_are_an_error(make, image, dtype):
    """correctness 78: one value that no class has makes no class of all shapes."""
    values = [dtype(value) for value in [8, 9, 8, 7] * 4]
    label = _write(make, "values.gpkg", {"code": values})
    with pytest.raises(DataError, match=r"4 of 16 shapes have no class by the attribute 'code', shape 4 the first"):
        _labels(make, image, label, classes={8: "built", 9: "water"})
    labels, _ = _labels(make, image, label, classes={8: "built", 9: "water"}, label_unknown="unlabelled")
    np.testing.assert_array_equal(labels, _expected(_boxes(), np.array([0, 1, 0, 255] * 4), fill=255))


@pytest.mark.parametrize("values", [[0, 1] * 8, [False, True] * 8, [1.0, 0.0] * 8])
def test_numbers_of_classes_that_are_not_read_are_said(make, image, values):
    label = _write(make, "numbers.gpkg", {"kind": values})
    labels, notes = _labels(make, image, label)
    np.testing.assert_array_equal(labels, _expected(_boxes()))
    assert any("kind: " in note and "label_field names an attribute" in note for note in notes)


@pytest.mark.parametrize("dtype", [np.int32, np.float64, str])
def test_attribute_values_with_gaps(make, image, dtype):
    codes = np.array([8, 10] * 8).astype(dtype)
    path = _write(make, "labels.gpkg", {"code": codes})
    classes = {8: "artificial surface", 10: "bare"}
    labels, _ = _labels(make, image, path, label_field="code", classes=classes)
    np.testing.assert_array_equal(labels, _expected(_boxes(), [0, 1] * 8, fill=255))
    with pytest.raises(
        DataError, match=r"code = .*10.* is no class; data\.classes are 8: artificial surface, 11: bare"
    ):
        _labels(make, image, path, label_field="code", classes={8: "artificial surface", 11: "bare"})


def test_the_value_of_all_shapes_is_one_of_the_classes(make, image):
    path = _write(make, "labels.gpkg", {"k": [1] * 16})
    labels, _ = _labels(make, image, path, label_value=10, classes={8: "soil", 10: "roof"})
    np.testing.assert_array_equal(labels, _expected(_boxes()))
    for classes in ({8: "soil", 11: "roof"}, ["soil", "roof"]):
        with pytest.raises(ConfigError, match=r"label_value = 10: is no class"):
            _labels(make, image, path, label_value=10, classes=classes)


# Layers ---------------------------------------------------------------------------------------------------------------


def _two_layers(make, *names):
    for name, shapes in zip(names, ([shapely.box(*(GRID * (0, SIZE)), *(GRID * (SIZE, 0)))], _boxes()), strict=True):
        _write(make, "layers.gpkg", {"k": [1] * len(shapes)}, shapes, layer=name)
    return str(make.folder / "layers.gpkg")


def test_layers_are_named_where_there_are_several(make, image):
    """correctness 78: neither is guessed."""
    path = _two_layers(make, "area", "roofs")
    match = (
        r"layers\.gpkg has 2 layers with geometry: 'area' \(Polygon, 1 shapes, attributes: k\); 'roofs' \(Polygon, 16 "
        r"shapes, attributes: k\); name one in data\.scenes\.0\.label_layer"
    )
    with pytest.raises(DataError, match=match):
        _labels(make, image, path)
    labels, _ = _labels(make, image, path, label_layer="roofs")
    np.testing.assert_array_equal(labels, _expected(_boxes()))
    with pytest.raises(ConfigError, match=r"label_layer = 'walls'.*no such layer; it has: 'area'"):
        _labels(make, image, path, label_layer="walls")


def test_the_layer_of_a_file_with_one_may_be_named_or_not(make, image):
    path = _write(make, "labels.fgb", {"k": [1] * 16})
    np.testing.assert_array_equal(_labels(make, image, path)[0], _labels(make, image, path, label_layer="labels")[0])
    with pytest.raises(ConfigError, match=r"label_layer = 'other'"):
        _labels(make, image, path, label_layer="other")


def test_a_table_without_geometry_is_no_layer_to_choose(make, image):
    path = _write(make, "labels.gpkg", {"k": [1] * 16}, layer="roofs")
    pyogrio.write_dataframe(pandas.DataFrame({"style": ["x"]}), path, layer="layer_styles", append=True)
    np.testing.assert_array_equal(_labels(make, image, path)[0], _expected(_boxes()))


# Places ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("driver", ["gpkg", "fgb", "geojson"])
def test_shapes_that_all_lie_elsewhere(make, image, driver):
    """correctness 78: they would make all of the image background."""
    far = [shapely.affinity.translate(shape, 100_000, 0) for shape in _boxes()]
    path = _write(make, f"far.{driver}", {"k": [1] * 16}, far)
    with pytest.raises(
        DataError, match=r"all 16 shapes lie outside of the image: x from 600040 .* 500000 .*check the CRS"
    ):
        _labels(make, image, path)


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:4267", "EPSG:32634"])
def test_swapped_coordinates_are_recognised(make, image, crs):
    there = geopandas.GeoSeries(_boxes(), crs="EPSG:32633").to_crs(crs)
    swapped = shapely.transform(there.values, lambda points: points[:, ::-1])
    path = _write(make, "swapped.gpkg", {"k": [1] * 16}, list(swapped), crs)
    with pytest.raises(DataError, match=r"with x and y swapped they lie on it"):
        _labels(make, image, path)


def test_coordinates_in_metres_that_are_said_to_be_degrees(make, image):
    features = [
        {"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(shape)} for shape in _boxes()
    ]
    path = make.folder / "metres.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    match = (
        r"metres\.geojson is said to be in EPSG:4326, but the coordinates of 16 of 16 shapes cannot be .*ogr2ogr -a_srs"
    )
    with pytest.raises(DataError, match=match):
        _labels(make, image, str(path))


def test_a_latitude_beyond_the_pole_is_a_longitude(make):
    image = make.raster(
        "east.tif", np.ones((1, SIZE, SIZE), np.uint8), crs="EPSG:4326",
        transform=rasterio.Affine(0.001, 0, 120, 0, -0.001, 30),
    )  # fmt: skip
    path = _write(make, "east.gpkg", {"k": [1]}, [shapely.box(29.95, 120.01, 29.99, 120.05)], "EPSG:4326")
    with pytest.raises(DataError, match=r"cannot be longitude and latitude.*seem to be swapped"):
        _labels(make, image, path)


@pytest.mark.parametrize("name", ["EPSG:999999", "urn:ogc:def:crs:EPSG::999999", "local grid"])
def test_a_crs_that_nobody_knows(make, image, name):
    """GDAL takes it for longitude and latitude."""
    crs = {"type": "name", "properties": {"name": name}}
    features = [{"type": "Feature", "properties": {}, "geometry": shapely.geometry.mapping(_boxes()[0])}]
    for order in (("type", "crs", "features"), ("type", "features", "crs")):
        collection = {"type": "FeatureCollection", "crs": crs, "features": features}
        path = make.folder / "unknown.geojson"
        path.write_text(json.dumps({key: collection[key] for key in order}))
        with pytest.raises(DataError, match=rf"unknown\.geojson is in a CRS that is not known, {name}"):
            _labels(make, image, str(path))


@pytest.mark.parametrize("name", ["urn:ogc:def:crs:OGC:1.3:CRS84", "EPSG:4326", "urn:ogc:def:crs:EPSG::4326"])
def test_a_crs_member_of_longitude_and_latitude(make, image, name):
    there = geopandas.GeoSeries(_boxes(), crs="EPSG:32633").to_crs("EPSG:4326")
    collection = json.loads(there.to_json()) | {"crs": {"type": "name", "properties": {"name": name}}}
    path = make.folder / "degrees.geojson"
    path.write_text(json.dumps(collection))
    np.testing.assert_array_equal(_labels(make, image, str(path))[0], _expected(_boxes()))


def test_a_tile_between_the_shapes_is_all_background_and_says_so(make, image):
    around = [shapely.affinity.translate(_boxes()[0], *shift) for shift in ((-2000, 2000), (2000, -2000))]
    path = _write(make, "around.gpkg", {"k": [1, 1]}, around)
    labels, notes = _labels(make, image, path, allow_absent=["odd"])
    assert not labels.any()
    assert any("none of 2 shapes lies on the image" in note for note in notes)


def test_a_tile_without_a_shape_of_its_own_is_all_background(make, image):
    path = make.folder / "empty.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    labels, _ = _labels(make, image, str(path), allow_absent=["odd"])
    assert not labels.any()


@pytest.mark.parametrize("driver", ["geojson", "gpkg"])
@pytest.mark.parametrize("west", [179.968, -180.032, 539.968])
def test_both_sides_of_the_antimeridian_are_labelled(make, driver, west):
    grid = rasterio.Affine(0.001, 0, west, 0, -0.001, -17)
    image = make.raster("image.tif", np.ones((1, SIZE, SIZE), np.uint8), crs="EPSG:4326", transform=grid)
    shapes = []
    for shape in _boxes(grid):
        middle = shape.centroid.x
        shapes.append(shapely.affinity.translate(shape, -360 * round(middle / 360), 0))
    path = _write(make, f"labels.{driver}", {"k": [1] * 16}, shapes, "EPSG:4326")
    labels, _ = _labels(make, image, path)
    np.testing.assert_array_equal(labels, rasterize(_boxes(grid), (SIZE, SIZE), transform=grid))


def test_a_grid_from_0_to_360_and_one_shape_across_the_antimeridian(make):
    grid = rasterio.Affine(360 / SIZE, 0, 0, 0, -180 / SIZE, 90)
    image = make.raster("globe.tif", np.ones((1, SIZE, SIZE), np.uint8), crs="EPSG:4326", transform=grid)
    ring = [(170, -20), (-150, -20), (-150, 30), (170, 30), (170, -20)]  # not split, as many files have it
    shapes = [shapely.Polygon(ring), shapely.box(-100, 40, -60, 70)]
    labels, _ = _labels(make, image, _write(make, "labels.gpkg", {"k": [1, 1]}, shapes, "EPSG:4326"))
    expected = rasterize([shapely.box(170, -20, 210, 30), shapely.box(260, 40, 300, 70)], (SIZE, SIZE), transform=grid)
    np.testing.assert_array_equal(labels, expected)


def test_labels_in_degrees_on_a_utm_image_across_the_antimeridian(make):
    grid = rasterio.Affine(1000, 0, 790_000, 0, -1000, 8_120_000)  # zone 60 ends at 180 degrees
    image = make.raster("fiji.tif", np.ones((1, SIZE, SIZE), np.uint8), crs="EPSG:32760", transform=grid)
    there = geopandas.GeoSeries(_boxes(grid), crs="EPSG:32760").to_crs("EPSG:4326")
    assert (there.bounds.minx < -179).any()
    assert (there.bounds.maxx > 179).any()
    labels, _ = _labels(make, image, _write(make, "labels.gpkg", {"k": [1] * 16}, list(there), "EPSG:4326"))
    assert (labels != rasterize(_boxes(grid), (SIZE, SIZE), transform=grid)).mean() < 0.01


def test_a_country_that_reaches_far_beyond_the_image(make, image):
    """Vertices that the image's CRS has no coordinates for are cut off, and parallels are curves in it."""
    lon, lat = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True).transform(500320, 4999680)
    shape = shapely.box(-60, lat, 90, 89)
    labels, _ = _labels(make, image, _write(make, "country.gpkg", {"k": [1]}, [shape], "EPSG:4326"))
    rows = labels[:, 32]
    assert rows[:32].all()
    assert not rows[32:].any()
    assert (labels == labels[:, [32]]).mean() > 0.99  # the image is 640 m wide: the parallel is almost straight
    assert lon > 0


def test_a_parallel_is_the_curve_that_it_is_in_the_images_crs(make):
    grid = rasterio.Affine(2000, 0, 436_000, 0, -2000, 5_064_000)
    image = make.raster("wide.tif", np.ones((1, SIZE, SIZE), np.uint8), transform=grid)
    path = _write(make, "north.gpkg", {"k": [1]}, [shapely.box(-60, 45.15, 90, 80)], "EPSG:4326")
    labels, _ = _labels(make, image, path)
    rows, columns = np.indices((SIZE, SIZE)) + 0.5
    back = pyproj.Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    latitudes = back.transform(*(grid * (columns, rows)))[1]
    clear = abs(latitudes - 45.15) > 0.001  # a twentieth of a pixel
    np.testing.assert_array_equal(labels[clear], (latitudes > 45.15)[clear])


# Geometries -----------------------------------------------------------------------------------------------------------


def test_an_unclosed_ring_is_named(make, image):
    """correctness 78: no error of a library's own."""
    there = geopandas.GeoSeries(_boxes(), crs="EPSG:32633").to_crs("EPSG:4326")
    collection = json.loads(there.to_json())
    collection["features"][5]["geometry"]["coordinates"][0].pop()
    path = make.folder / "unclosed.geojson"
    path.write_text(json.dumps(collection))
    match = r"unclosed\.geojson: shape 6 is no geometry .*1 of 16 are so; repeat the ring's first position as its last"
    with pytest.raises(DataError, match=match):
        _labels(make, image, str(path))


def test_bow_ties_and_null_and_empty_geometries(make, image):
    x, y = GRID * (8, 8)
    tie = shapely.Polygon([(x, y), (x + 300, y - 300), (x + 300, y), (x, y - 300)])
    shapes = [tie, None, shapely.Polygon(), _boxes()[-1]]
    labels, _ = _labels(make, image, _write(make, "labels.gpkg", {"k": [1] * 4}, shapes))
    np.testing.assert_array_equal(labels, _expected([tie, _boxes()[-1]]))
    with pytest.raises(DataError, match=r"has 2 features, none of them with a geometry"):
        _labels(make, image, _write(make, "nothing.gpkg", {"k": [1] * 2}, [None, shapely.Polygon()]))


LINES = [shapely.LineString([GRID * (0, row), GRID * (SIZE, row)]) for row in range(8, SIZE, 16)]
POINTS = [shapely.Point(GRID * (column, 30.5)) for column in range(8, SIZE, 16)]


@pytest.mark.parametrize("driver", ["gpkg", "fgb", "shp"])
@pytest.mark.parametrize(("shapes", "kind"), [(LINES, "LineString"), (POINTS, "Point")])
def test_lines_and_points_need_a_width(make, image, driver, shapes, kind):
    """correctness 78: GDAL would burn what they touch, of any pixel size."""
    path = _write(make, f"thin.{driver}", {"k": [1] * 4}, shapes)
    with pytest.raises(DataError, match=rf"4 of 4 shapes are lines or points \({kind}\).*set label_buffer_m"):
        _labels(make, image, path)
    labels, _ = _labels(make, image, path, label_buffer_m=23)
    np.testing.assert_array_equal(labels, _expected(shapely.buffer(shapes, 23, quad_segs=64).tolist()))


def test_polygons_are_grown_too(make, image):
    labels, _ = _labels(make, image, _write(make, "labels.gpkg", {"k": [1] * 16}), label_buffer_m=20.0)
    assert labels.sum() == pytest.approx(_expected(shapely.buffer(_boxes(), 20).tolist()).sum(), rel=0.02)
    assert labels.sum() > 1.5 * _expected(_boxes()).sum()


def test_lines_in_a_collection_with_polygons_cover_no_pixel(make, image):
    shapes = [shapely.GeometryCollection([_boxes()[0], LINES[-1]]), _boxes()[5]]
    labels, _ = _labels(make, image, _write(make, "mixed.gpkg", {"k": [1, 1]}, shapes))
    np.testing.assert_array_equal(labels, _expected([_boxes()[0], _boxes()[5]]))


def test_a_width_in_metres_needs_a_crs(make):
    image = make.raster("plain.tif", np.ones((1, SIZE, SIZE), np.uint8), crs=None)
    path = _write(make, "lines.gpkg", {"k": [1] * 4}, LINES)
    with pytest.raises(DataError, match="the image has no CRS, so that metres are unknown"):
        _labels(make, image, path, label_buffer_m=23)


# The area in which labels are complete --------------------------------------------------------------------------------


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:32634"])
@pytest.mark.parametrize("driver", ["geojson", "gpkg"])
def test_pixels_outside_of_the_labelled_area_are_unlabelled(make, image, crs, driver):
    area = [shapely.box(*(GRID * (0, 40)), *(GRID * (30, 0))), shapely.box(*(GRID * (40, 64)), *(GRID * (64, 50)))]
    there = geopandas.GeoSeries(area, crs="EPSG:32633").to_crs(crs)
    path = _write(make, f"area.{driver}", {"k": [1, 2]}, list(there), crs)
    label = _write(make, "labels.gpkg", {"k": [1] * 16})
    labels, _ = _labels(make, image, label, labelled_area=path)
    np.testing.assert_array_equal(labels, np.where(_expected(area) > 0, _expected(_boxes()), 255))
    raster = make.raster("labels.tif", _expected(_boxes())[None])
    labels, _ = _labels(make, image, raster, labelled_area=path)
    np.testing.assert_array_equal(labels, np.where(_expected(area) > 0, _expected(_boxes()), 255))


def test_labelled_areas_that_cannot_be_used(make, image):
    label = _write(make, "labels.gpkg", {"k": [1] * 16})
    for name, shapes, match in (
        ("lines.gpkg", LINES, "holds LineString; draw the area as polygons"),
        ("far.gpkg", [shapely.box(0, 0, 9, 9)], r"labelled_area of scene 'image': .*all 1 shapes lie outside"),
    ):
        path = _write(make, name, {"k": [1] * len(shapes)}, shapes)
        with pytest.raises(DataError, match=match):
            _labels(make, image, label, labelled_area=path)
    with pytest.raises(DataError, match=r"gone\.gpkg cannot be read"):
        _labels(make, image, label, labelled_area=str(make.folder / "gone.gpkg"))
    with pytest.raises(DataError, match=r"2 layers with geometry: .*file of its own"):
        _labels(make, image, label, labelled_area=_two_layers(make, "one", "two"))


def test_a_labelled_area_says_that_an_image_without_a_shape_is_background(make, image):
    far = [shapely.affinity.translate(shape, 100_000, 0) for shape in _boxes()]
    label = _write(make, "far.gpkg", {"k": [1] * 16}, far)
    area = [{"rows": [0, 32]}]
    labels, _ = _labels(make, image, label, labelled_area=area, allow_absent=["odd"])
    assert not labels[:32].any()
    assert (labels[32:] == 255).all()


# Any shapes -----------------------------------------------------------------------------------------------------------

coordinate = st.integers(-200, SIZE * 10 + 200)
polygon = st.lists(st.tuples(coordinate, coordinate), min_size=3, max_size=7).map(
    lambda points: shapely.Polygon([(500_000.5 + x, 5_000_000.5 - y) for x, y in points])
)


@settings(deadline=None, max_examples=60)
@given(shapes=st.lists(polygon, min_size=1, max_size=6), seed=st.integers(0, 10**6), data=st.data())
def test_any_polygons_are_burned_as_rasterio_burns_them(make_once, shapes, seed, data):
    """correctness 78: in any windows, with the later shape on top."""
    make, image = make_once
    shapes = [shape for shape in shapes if shape.area > 0]
    if not shapes:
        return
    numbers = np.random.default_rng(seed).integers(0, 3, len(shapes))
    path = _write(make, "any.fgb", {"class_number": numbers}, shapes, SPATIAL_INDEX="NO")
    scene = {"image": image, "label": path, "label_field": "class_number", "labelled_area": [{}]}
    config = make.config(scene, classes=["a", "b", "c"])
    reader = LabelReader(open_catalog(config)[0], config.classes, 255)
    expected = _expected(shapes, numbers)
    np.testing.assert_array_equal(reader.read(0, 0, SIZE, SIZE), expected)
    row, col = data.draw(st.integers(0, SIZE - 9)), data.draw(st.integers(0, SIZE - 9))
    np.testing.assert_array_equal(reader.read(row, col, 9, 9), expected[row : row + 9, col : col + 9])


@pytest.fixture(scope="module")
def make_once(tmp_path_factory):
    make = Maker(tmp_path_factory.mktemp("shapes"))
    return make, make.raster("image.tif", np.ones((1, SIZE, SIZE), np.uint8))


# Where the settings come from, and where they are shown ---------------------------------------------------------------


def test_a_catalogue_has_the_settings_of_its_labels(make):
    pixels = np.ones((1, SIZE, SIZE), np.uint8)
    (make.folder / "scenes").mkdir()
    for name in ("one", "two"):
        make.raster(f"scenes/{name}.tif", pixels)
        for layer, shapes in (("area", [shapely.box(*(GRID * (0, SIZE)), *(GRID * (SIZE, 0)))]), ("roads", LINES)):
            _write(make, f"scenes/{name}.gpkg", {"k": [9] * len(shapes)}, shapes, layer=layer)
    area = _write(make, "area.gpkg", {"k": [1]}, [shapely.box(*(GRID * (0, SIZE)), *(GRID * (32, 0)))])
    common = {"label_layer": "roads", "label_buffer_m": 23.0, "labelled_area": area, "label_unknown": "unlabelled"}
    table = make.folder / "scenes.csv"
    table.write_text(
        "image,label,label_buffer_m,labelled_area\n"
        "scenes/one.tif,scenes/one.gpkg,23,area.gpkg\nscenes/two.tif,scenes/two.gpkg,23,area.gpkg\n"
    )
    catalogs = [
        {"folder": str(make.folder / "scenes"), "images": "*.tif", "labels": "{stem}.gpkg", **common},
        {"table": str(table), "label_layer": "roads"},
    ]
    expected = _expected(shapely.buffer(LINES, 23, quad_segs=64).tolist()).astype(int)
    expected[:, 32:] = 255
    for catalog in catalogs:
        index = build_index(make.config(catalog=catalog, split={"validation": 0, "holdout": 0, "block_size": 8}))
        for scene in index.scenes:
            np.testing.assert_array_equal(index.labels(scene).read(0, 0, SIZE, SIZE), expected)
            assert area in scene.files


def test_facts_of_a_scene_tell_how_its_labels_are_read(make, image):
    path = _two_layers(make, "area", "roofs")
    scene = {
        "image": image, "label": path, "label_layer": "roofs", "label_field": "k", "label_buffer_m": 2.5,
        "label_unknown": "unlabelled", "labelled_area": [{"rows": [0, 60]}],
    }  # fmt: skip
    config = make.config(scene, classes={1: "roof", 5: "road"}, allow_absent=["road"], split={"holdout": 0})
    facts = scene_facts(build_index(config).scenes[0])
    assert facts["labels"] == (
        "shapes (layer roofs; k; unlabelled outside; grown by 2.5 m); what is no class is unlabelled"
    )
    assert facts["labelled area"] == "1 rectangle(s)"
    assert facts["label values"] == "1 is class 0, 5 is class 1"

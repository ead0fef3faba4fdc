"""Areas of pixels and of polygons on the ground, compared with pyproj.Geod. correctness 79."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize, shapes

from ununennium.data.scenes.ground import GroundTally, area_of_outline, pixel_areas, straight_pixels

GEOD = pyproj.Geod(ellps="WGS84")
# Geod's areas are differences of areas up to the Earth's, 5.1e14 m2: of 48 m2 at the pole it was seen 0.008 m2 off.
GEOD_ROUNDING_M2 = 2 / 32
"""Two steps of a float64 at 2.6e14 m2: around a pole Geod subtracts from the area of a hemisphere."""
CUSTOM = "+proj=lcc +lat_1=40 +lat_2=60 +lat_0=50 +lon_0=10 +x_0=300000 +ellps=GRS80 +units=us-ft"
PLACES = {
    "EPSG:4326": (-180, 180, -89, 89),
    "EPSG:3857": (-179, 179, -84, 84),
    "EPSG:3413": (-180, 180, 55, 90),
    "EPSG:3031": (-180, 180, -90, -55),
    "EPSG:32633": (9, 21, -80, 84),
    "EPSG:32701": (-183, -171, -80, 5),
    "EPSG:5070": (-125, -70, 24, 50),
    "EPSG:2263": (-75, -72, 40, 41.5),
    "EPSG:4807": (-5, 10, 42, 51),
    "+proj=sinu +R=6371007.181 +units=m": (-60, 60, -70, 70),
    CUSTOM: (-10, 30, 35, 65),
}


def scene_at(crs, longitude, latitude, pixel_m, height=100, width=120, turned=0.0):
    """What a scene says of its grid: pixels of about ``pixel_m`` on the ground around a place."""
    known = pyproj.CRS.from_user_input(crs)
    wkt, unit = known.to_wkt(), known.axis_info[0].unit_conversion_factor
    if known.is_geographic:
        unit *= 6371008.8
    x, y = pyproj.Transformer.from_crs("EPSG:4326", wkt, always_xy=True).transform(longitude, latitude)
    grid = rasterio.Affine.translation(x, y) * rasterio.Affine.rotation(turned)
    grid *= rasterio.Affine.scale(pixel_m / unit, -pixel_m / unit)
    grid *= rasterio.Affine.translation(-width / 2, -height / 2)
    return SimpleNamespace(crs=wkt, transform=tuple(grid)[:6], affine=grid, height=height, width=width)


def on_the_ellipsoid(scene, polygon):
    """Square metres of a polygon in columns and rows, its edges cut to a quarter of a pixel."""
    move = pyproj.Transformer.from_crs(scene.crs, "EPSG:4326", always_xy=True)
    a, b, c, d, e, f = scene.transform

    def placed(points):
        cols, rows = points.T
        return np.column_stack(move.transform(a * cols + b * rows + c, d * cols + e * rows + f))

    return abs(GEOD.geometry_area_perimeter(shapely.transform(shapely.segmentize(polygon, 0.25), placed))[0])


def _tally(values, valid, weights):
    return np.bincount(values[valid], None if weights is None else weights[valid], 2)


@st.composite
def blots(draw):
    """A polygon of whole pixels in a scene of 100 x 120, with holes now and then, as a map has them."""
    number = draw(st.integers(3, 9))
    radii = draw(st.lists(st.floats(3, 48), min_size=number, max_size=number))
    angles = np.linspace(0, 2 * np.pi, number, endpoint=False)
    star = shapely.Polygon(np.column_stack([60 + radii * np.cos(angles), 50 + radii * np.sin(angles)]))
    hole = shapely.Point(60, 50).buffer(draw(st.floats(0, 8)))
    left = star.difference(hole)
    burned = rasterize([(star if left.is_empty else left, 1)], out_shape=(100, 120), dtype="uint8")
    burned[20:31, 10:14] = 1
    found = [shapely.geometry.shape(each) for each, value in shapes(burned, connectivity=4) if value == 1]
    return max(found, key=lambda each: each.area), burned


@pytest.mark.parametrize("crs", PLACES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_areas_of_random_polygons_are_those_of_geod(crs, data):
    """Polygons up to 50 km across, of pixels from 10 cm to 500 m, on grids that are turned and not."""
    west, east, south, north = PLACES[crs]
    longitude = data.draw(st.floats(west, east))
    latitude = data.draw(st.floats(south, north))
    pixel = 10 ** data.draw(st.floats(-1, np.log10(500)))
    turned = data.draw(st.sampled_from([0.0, 0.0, 31.0]))
    if crs == "EPSG:4326" and abs(latitude) > 85:
        pixel = min(pixel, 100.0)  # a grid that reaches over the pole has no ground there
    scene = scene_at(crs, longitude, latitude, pixel, turned=turned)
    areas = pixel_areas(scene)
    polygon, burned = data.draw(blots())
    expected = pytest.approx(on_the_ellipsoid(scene, polygon), rel=1e-4, abs=GEOD_ROUNDING_M2)
    assert area_of_outline(polygon, areas) == expected
    tally = GroundTally(scene, _tally, 2)
    for row in range(0, 100, 40):
        tally.add(row, 0, burned[row : row + 40], np.ones_like(burned[row : row + 40], bool))
    of_polygons = sum(
        area_of_outline(shapely.geometry.shape(each), areas) for each, value in shapes(burned, connectivity=4) if value
    )
    assert tally.m2[1] == pytest.approx(of_polygons, rel=1e-6)
    whole = on_the_ellipsoid(scene, shapely.box(0, 0, 120, 100))
    assert tally.m2.sum() == pytest.approx(whole, rel=1e-4, abs=GEOD_ROUNDING_M2)


def test_the_area_at_the_pole_is_the_ellipsoids_not_the_planes():
    scene = scene_at("EPSG:3413", 0, 90, 100)
    sizes = pixel_areas(scene).window(0, 0, 100, 120)
    assert sizes.mean() == pytest.approx(100**2 / 0.9700**2, rel=1e-3)  # EPSG:3413 is true at 70 N
    assert on_the_ellipsoid(scene, shapely.box(0, 0, 120, 100)) == pytest.approx(
        np.broadcast_to(sizes, (100, 120)).sum(), rel=1e-4
    )


def test_a_global_grid_has_the_area_of_the_earth():
    for first, height in ((90.0, 180), (90.5, 181)):  # pixels as areas, and rows that are centred on the poles
        wkt = pyproj.CRS.from_epsg(4326).to_wkt()
        scene = SimpleNamespace(crs=wkt, transform=(1.0, 0.0, 0.0, 0.0, -1.0, first), height=height, width=360)
        assert pixel_areas(scene).window(0, 0, height, 360).sum() * 360 == pytest.approx(510_065_621_724_089, rel=1e-9)


def test_large_scenes_have_small_tables():
    """100,000 x 100,000 pixels of 10 m: a table of nodes, from which windows follow."""
    scene = scene_at("EPSG:32633", 15, 50, 10, height=100_000, width=100_000)
    areas = pixel_areas(scene)
    assert areas._values.size < 10_000
    for row, col in ((0, 0), (99_900, 50_000), (31_234, 99_000)):
        there = areas.window(row, col, 50, 60).sum()
        ground = on_the_ellipsoid(scene, shapely.box(col, row, col + 60, row + 50))
        assert there == pytest.approx(ground, rel=1e-4)


def test_a_plane_of_no_place_on_earth_measures_itself():
    wkt = 'LOCAL_CS["site",UNIT["US survey foot",0.304800609601219],AXIS["x",EAST],AXIS["y",NORTH]]'
    scene = SimpleNamespace(crs=wkt, transform=(2.0, 0.0, 0.0, 0.0, -2.0, 0.0), height=3, width=4)
    assert pixel_areas(scene).window(0, 0, 3, 4).mean() == pytest.approx(4 * 0.304800609601219**2)
    assert pixel_areas(SimpleNamespace(crs=None)) is None


@pytest.mark.parametrize("crs", ["EPSG:3857", "EPSG:32633", "EPSG:4326", CUSTOM])
def test_edges_are_cut_where_straight_lines_are_curves(crs):
    """Edges of the length that is given stay within a tenth of a pixel of the geodesic between their ends."""
    scene = scene_at(crs, 12, 60, 30, height=2000, width=2000)
    length = straight_pixels(scene, 0.1)
    move = pyproj.Transformer.from_crs(scene.crs, "EPSG:4326", always_xy=True)
    for row in (10, 1990):
        line = np.array([[0.0, row], [min(length, 2000) / 2, row], [min(length, 2000), row]])
        (west, south), (x, y), (east, north) = np.column_stack(move.transform(*_placed(scene, line)))
        azimuth, _, distance = GEOD.inv(west, south, east, north)
        there = GEOD.fwd(west, south, azimuth, distance / 2)[:2]
        assert GEOD.inv(x, y, *there)[2] < 0.15 * 30
    assert length < 2000


def _placed(scene, points):
    a, b, c, d, e, f = scene.transform
    return a * points[:, 0] + b * points[:, 1] + c, d * points[:, 0] + e * points[:, 1] + f

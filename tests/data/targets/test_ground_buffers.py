"""Buffers in metres on the ground, against pyproj's geodesics."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from ununennium.data import build_index
from ununennium.data.targets.ground_buffers import buffered

GEOD = pyproj.Geod(ellps="WGS84")
PLACES = {
    "EPSG:4326": (st.floats(-180, 180), st.floats(-84, 84)),
    "EPSG:3857": (st.floats(-179, 179), st.floats(-80, 80)),
    "EPSG:32633": (st.floats(12, 18), st.floats(1, 83)),
    "EPSG:3413": (st.floats(-180, 180), st.floats(61, 88)),
    "EPSG:5070": (st.floats(-120, -70), st.floats(25, 49)),
    "+proj=laea +lat_0=10 +lon_0=20 +datum=WGS84 +units=us-ft": (st.floats(10, 30), st.floats(0, 20)),
}


def _there(crs):
    return pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True)


@pytest.mark.parametrize("crs", PLACES)
@settings(deadline=None, max_examples=15)
@given(data=st.data(), distance=st.floats(1, 5000))
def test_a_point_becomes_a_circle_on_the_ground(crs, data, distance):
    """correctness 78: widths are metres on the ground, to 1 %."""
    longitude, latitude = (data.draw(each) for each in PLACES[crs])
    point = shapely.Point(_there(crs).transform(longitude, latitude))
    circle = buffered(np.array([point]), crs, distance, 1e9)[0]
    x, y = shapely.get_coordinates(circle).T
    back = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    longitudes, latitudes = back.transform(x, y)
    found = GEOD.inv(np.full(len(x), longitude), np.full(len(x), latitude), longitudes, latitudes)[2]
    np.testing.assert_allclose(found, distance, rtol=0.003, atol=1e-3)
    if crs == "EPSG:4326":
        assert np.ptp(x) < 180  # in one piece, across the antimeridian too


@pytest.mark.parametrize("crs", PLACES)
@settings(deadline=None, max_examples=10)
@given(data=st.data(), distance=st.floats(20, 500), heading=st.floats(0, 360), seed=st.integers(0, 9))
def test_a_line_is_as_wide_as_it_should_be(crs, data, distance, heading, seed):
    longitude, latitude = (data.draw(each) for each in PLACES[crs])
    longitude = min(max(longitude, -178), 178)
    latitude = min(max(latitude, -83), 83)
    end = GEOD.fwd(longitude, latitude, heading, 3000)[:2]
    there = _there(crs)
    line = shapely.LineString([there.transform(longitude, latitude), there.transform(*end)])
    band = buffered(np.array([line]), crs, distance, line.length / 20)[0]
    along = shapely.get_coordinates(shapely.segmentize(line, line.length / 400))
    back = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    lons, lats = back.transform(*along.T)
    rng = np.random.default_rng(seed)
    for _ in range(12):
        k = rng.integers(len(lons))
        lon, lat = GEOD.fwd(lons[k], lats[k], rng.uniform(0, 360), rng.uniform(0, 2) * distance)[:2]
        nearest = GEOD.inv(np.full(len(lons), lon), np.full(len(lons), lat), lons, lats)[2].min()
        inside = band.contains(shapely.Point(there.transform(lon, lat)))
        if nearest < 0.98 * distance:
            assert inside
        elif nearest > 1.02 * distance:
            assert not inside


def test_a_line_across_a_continent_keeps_its_width():
    line = shapely.LineString([(-120, 50), (-70, 50)])
    band = buffered(np.array([line]), "EPSG:4326", 1000.0, 0.1)[0]
    for longitude in np.linspace(-119, -71, 25):
        for azimuth in (0, 180):
            assert band.contains(shapely.Point(GEOD.fwd(longitude, 50, azimuth, 985)[:2]))
            assert not band.contains(shapely.Point(GEOD.fwd(longitude, 50, azimuth, 1015)[:2]))


def _road_widths(make, crs, transform, heading):
    """Width in metres of a road of 2 x 30 m, from its labelled pixels on an image of 256 x 256."""
    pixels = np.random.default_rng(0).integers(1, 1000, (1, 256, 256)).astype(np.uint16)
    image = make.raster("image.tif", pixels, crs=crs, transform=transform)
    columns = [(10.0, 128.0), (246.0, 128.0)] if heading == "east" else [(128.0, 10.0), (128.0, 246.0)]
    import geopandas

    line = shapely.LineString([transform * point for point in columns])
    path = make.folder / "road.fgb"
    geopandas.GeoDataFrame(geometry=[line], crs=crs).to_file(path)
    scene = {"image": image, "label": str(path), "label_buffer_m": 30.0}
    index = build_index(make.config(scene, split={"block_size": 16, "buffer": 0}))
    labels = index.labels(index.scenes[0]).read(0, 0, 256, 256)
    across = labels[:, 60:196].sum(0) if heading == "east" else labels[60:196].sum(1)
    back = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    corners = [(128, 120), (128, 136)] if heading == "east" else [(120, 128), (136, 128)]
    (lon, lat), (other_lon, other_lat) = (back.transform(*(transform * corner)) for corner in corners)
    return across.mean() * GEOD.inv(lon, lat, other_lon, other_lat)[2] / 16


@pytest.mark.parametrize("heading", ["east", "north"])
@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", rasterio.Affine(2e-5, 0, 24.0, 0, -1e-5, 60.0)),
        ("EPSG:4326", rasterio.Affine(2e-5, 0, 179.998, 0, -1e-5, 60.0)),
        ("EPSG:3857", rasterio.Affine(2, 0, 2_000_000, 0, -2, 8_000_000)),
        ("EPSG:32635", rasterio.Affine(1, 0, 500000, 0, -1, 6_650_000)),
    ],
)
def test_pixels_of_a_road_are_as_wide_on_the_ground_as_it_is(make, crs, transform, heading):
    assert _road_widths(make, crs, transform, heading) == pytest.approx(60, rel=0.02)

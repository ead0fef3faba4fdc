"""Longitudes across the antimeridian and around the poles, compared with pyproj and with boxes drawn by hand."""

import numpy as np
import pyproj
import pytest
import shapely

from ununennium.data.scenes.antimeridian import (
    bbox_of,
    box_meets,
    boxes_meet,
    copies_within,
    normal_box,
    split,
    to_degrees,
    turn_of,
    unwrapped,
)

GEOD = pyproj.Geod(ellps="WGS84")


def _square(crs, longitude, latitude, half=20_000.0, pieces=64):
    """A square of a CRS around a place, its edges in pieces."""
    x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(longitude, latitude)
    return shapely.segmentize(shapely.box(x - half, y - half, x + half, y + half), 2 * half / pieces)


def test_a_ring_across_the_antimeridian_becomes_continuous_and_others_stay():
    crossing = shapely.Polygon([(179, 0), (-179, 0), (-179, 1), (179, 1)])
    globe = shapely.box(-180, -60, 180, 60)
    wide = shapely.segmentize(shapely.box(-100, 0, 100, 10), 50)
    shapes = unwrapped(np.array([crossing, globe, wide, shapely.Point(3, 4), None], dtype=object))
    assert shapes[0].bounds == (179, 0, 181, 1)
    assert shapes[0].area == pytest.approx(2)
    assert list(shapes[1:]) == [globe, wide, shapely.Point(3, 4), None]
    lines = unwrapped(shapely.LineString([(179, 0), (-179, 1)]))
    assert lines.bounds == (179, 0, 181, 1)


def test_a_hole_on_the_other_side_moves_with_its_outline():
    outline = [(178, 0), (-178, 0), (-178, 4), (178, 4)]
    west, east = [(179, 1), (179.5, 1), (179.5, 2)], [(-179.5, 1), (-179, 1), (-179, 2)]
    polygon = unwrapped(shapely.Polygon(outline, [west, east]))
    assert polygon.bounds == (178, 0, 182, 4)
    assert polygon.area == pytest.approx(16 - 2 * 0.25)
    assert split(polygon).area == pytest.approx(16 - 2 * 0.25)


@pytest.mark.parametrize(("west", "east"), [(-180, 180), (179, 181), (0, 360), (-181, -179)])
def test_copies_reach_into_the_range_of_an_image(west, east):
    shapes = np.array([shapely.box(-179.9, 0, -179.8, 1), shapely.box(10, 0, 11, 1), shapely.box(179.8, 0, 179.9, 1)])
    copies, places = copies_within(shapes, west, east)
    assert list(places) == ([0, 1, 2] if east - west == 360 else [0, 2])
    for copy, place in zip(copies, places, strict=True):
        assert west <= copy.bounds[0]
        assert copy.bounds[2] <= east
        assert (copy.bounds[0] - shapes[place].bounds[0]) % 360 == pytest.approx(0, abs=1e-9)
    everywhere, places = copies_within(shapes[1:2], -10, 800)
    assert list(places) == [0, 0, 0]
    assert sorted(copy.bounds[0] for copy in everywhere) == [10, 370, 730]


def test_turns_of_other_units():
    assert turn_of("EPSG:4326") == 360
    assert turn_of("EPSG:4807") == 400  # NTF (Paris), in gon
    assert turn_of("EPSG:3857") is None
    copies, _ = copies_within(np.array([shapely.box(-199, 0, -198, 1)]), 200, 203, turn=400)
    assert copies[0].bounds == (201, 0, 202, 1)


@pytest.mark.parametrize(("crs", "longitude", "latitude"), [
    ("EPSG:32701", 180, -17), ("EPSG:32660", 180, 66), ("EPSG:3832", 180, 10), ("EPSG:3413", 180, 71),
    ("EPSG:3338", 180, 52),
])  # fmt: skip
def test_a_scene_across_the_antimeridian_is_split_in_two(crs, longitude, latitude):
    shape = _square(crs, longitude, latitude)
    parts = split(to_degrees(shape, crs))
    assert parts.geom_type == "MultiPolygon"
    west, south, east, north = bbox_of(parts)
    assert west > 179
    assert east < -179
    assert south < latitude < north
    whole = abs(GEOD.geometry_area_perimeter(to_degrees(shape, crs))[0])
    assert abs(GEOD.geometry_area_perimeter(shapely.orient_polygons(parts))[0]) == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize(("crs", "latitude"), [("EPSG:3413", 90), ("EPSG:3031", -90), ("EPSG:6931", 90)])
@pytest.mark.parametrize("shift", [0.0, 7_000.0])
def test_a_scene_that_holds_a_pole_reaches_it(crs, latitude, shift):
    shape = shapely.affinity.translate(_square(crs, 0, latitude), shift, shift / 2)
    there = split(to_degrees(shape, crs))
    west, south, east, north = bbox_of(there)
    assert (west, east) == (-180, 180)
    assert (north if latitude > 0 else south) == latitude
    pieces = shapely.segmentize(there, 0.1)
    ground = abs(GEOD.geometry_area_perimeter(shape if turn_of(crs) else _by_vertices(shape, crs))[0])
    assert abs(GEOD.geometry_area_perimeter(shapely.orient_polygons(pieces))[0]) == pytest.approx(ground, rel=1e-3)


def test_an_area_around_the_pole_hole_keeps_the_hole():
    ring = _square("EPSG:3413", 0, 90).difference(_square("EPSG:3413", 0, 90, half=5_000))
    there = split(to_degrees(ring, "EPSG:3413"))
    assert not there.intersects(shapely.Point(30, 89.99))
    assert there.bounds[3] < 90
    area = abs(GEOD.geometry_area_perimeter(shapely.orient_polygons(shapely.segmentize(there, 0.1)))[0])
    assert area == pytest.approx((40_000**2 - 10_000**2) / 0.9408, rel=1e-3)  # areal scale at the pole


def test_corners_at_the_pole_do_not_cut_the_scene():
    """The pole is a corner of pixels in many grids: a quarter of the cap is a quarter."""
    shape = shapely.segmentize(shapely.box(0, 0, 100_000, 100_000), 10_000)
    there = split(to_degrees(shape, "EPSG:3413"))
    assert there.bounds == pytest.approx((45, there.bounds[1], 135, 90))
    half = shapely.segmentize(shapely.box(-100_000, 0, 100_000, 100_000), 10_000)
    area = split(to_degrees(half, "EPSG:3413")).area
    assert area == pytest.approx(2 * there.area, rel=1e-6)


def test_degrees_from_0_to_360_and_beyond_the_poles_are_brought_back():
    assert split(shapely.box(200, -91, 210, 91)).bounds == (-160, -90, -150, 90)
    both = split(to_degrees(shapely.box(170, 0, 190, 10), "EPSG:4326"))
    assert sorted(part.bounds for part in both.geoms) == [(-180, 0, -170, 10), (170, 0, 180, 10)]
    assert bbox_of(both) == [170, 0, -170, 10]
    nad27 = to_degrees(shapely.box(179, 50, 181, 51), "EPSG:4267")
    assert nad27.bounds[2] - nad27.bounds[0] == pytest.approx(2, abs=0.01)
    assert bbox_of(split(shapely.box(0, -90, 360, 90))) == [-180, -90, 180, 90]


@pytest.mark.parametrize(("one", "other", "meet"), [
    ([178, -19, 180, -16], [179.5, -18, -179.5, -17], True),
    ([-180, -19, -172, -13], [179.5, -18, -179.5, -17], True),
    ([179.2, -19, -179.2, -16], [178, -18, 179, -17], False),
    ([170, 0, 190, 1], [-175, 0, -174, 1], True),
    ([350, 0, 370, 1], [-5, 0, 5, 1], True),
    ([0, 0, 360, 1], [-100, 0.5, -99, 2], True),
    ([178, 0, 180, 1], [-180, 0, -179, 1], True),
    ([178, 0, 180, 1], [-179.9, 0, -179, 1], False),
    ([178, 0, 0, 180, 1, 50], [179, 0.5, 7, -179, 2, 9], True),
    ([178, 0, 180, 1], [178, 2, 180, 3], False),
])  # fmt: skip
def test_boxes_meet_across_the_antimeridian(one, other, meet):
    assert boxes_meet(one, other) is boxes_meet(other, one) is meet


def test_boxes_and_shapes_meet():
    split_footprint = shapely.MultiPolygon([shapely.box(179, 0, 180, 1), shapely.box(-180, 0, -179, 1)])
    as_drawn = shapely.Polygon([(179, 0), (-179, 0), (-179, 1), (179, 1)])
    for shape in (split_footprint, as_drawn):
        assert box_meets([-179.5, 0, -170, 1], shape)
        assert box_meets([170, 0, 179.5, 1], shape)
        assert not box_meets([-10, 0, 10, 1], shape)
    assert normal_box([170, 0, 190, 1]) == [170, 0, -170, 1]
    assert normal_box([-190, 0, -170, 1]) == [170, 0, -170, 1]


def _by_vertices(shape, crs):
    move = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    return shapely.transform(shape, lambda p: np.column_stack(move.transform(p[:, 0], p[:, 1])))

"""Longitudes across the antimeridian and around the poles, on geometries and bounding boxes.

Geometries are shapely's with (longitude, latitude). ``unwrapped`` makes the edges of a shape continuous,
``copies_within`` moves shapes into the range of longitudes of an image, and ``split`` cuts them into -180 to 180 as
RFC 7946 says in section 3.1.9. ``turn`` is a whole turn in the unit of the longitudes: 360 degrees, 400 gon.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

Points = npt.NDArray[np.float64]

_WHOLE = 1 - 1e-9  # of a turn: an edge from -180 to 180 is drawn along a parallel, around the globe
_POLE = 1e-9  # degrees


def turn_of(crs: str) -> float | None:
    """A whole turn in the unit of a CRS's longitudes; None where its coordinates are no longitude and latitude.

    Args:
        crs: anything that pyproj reads.
    """
    known = pyproj.CRS.from_user_input(crs)
    if not known.is_geographic:
        return None
    return round(2 * math.pi / known.axis_info[0].unit_conversion_factor, 9)


def unwrapped(shapes: Any, turn: float = 360.0, *, keep_whole_turns: bool = True) -> Any:
    """Shapes whose edges are shorter than half a turn: what crosses the antimeridian goes on beyond it.

    A ring from 179 to -179 becomes one from 179 to 181. A ring around a pole is closed over the pole.

    Args:
        shapes: array of geometries, or one.
        turn: in the unit of the longitudes.
        keep_whole_turns: edges of a whole turn, from -180 to 180, are meant as such: a box around the globe.
    """
    listed = np.atleast_1d(np.asarray(shapes, dtype=object))
    bounds = shapely.bounds(listed)
    wide = np.flatnonzero(bounds[:, 2] - bounds[:, 0] > turn / 2)
    if not len(wide):
        return shapes
    result = listed.copy()
    for position in wide:
        result[position] = _unwrapped(listed[position], turn, keep_whole_turns)
    return result if isinstance(shapes, np.ndarray) else result[0]


def copies_within(shapes: Any, west: float, east: float, turn: float = 360.0) -> tuple[Any, npt.NDArray[np.intp]]:
    """Copies of shapes, moved by whole turns, that reach into a range of longitudes.

    Args:
        shapes: array of geometries, each with continuous edges (``unwrapped``).
        west: least longitude; the range may lie anywhere, such as 179 to 181 or 0 to 360.
        east: greatest longitude.
        turn: in the unit of the longitudes.

    Returns:
        The copies, and the place of each in ``shapes``, in ascending order. Shapes that do not reach into the range
        have none.
    """
    listed = np.asarray(shapes, dtype=object)
    bounds = shapely.bounds(listed).reshape(-1, 4)
    with np.errstate(invalid="ignore"):
        first = np.ceil((west - bounds[:, 2]) / turn)
        last = np.floor((east - bounds[:, 0]) / turn)
    known = np.flatnonzero(np.isfinite(first) & np.isfinite(last))
    if not len(known):
        return listed[:0], np.zeros(0, np.intp)
    copies, positions = [], []
    for turns in range(int(first[known].min()), int(last[known].max()) + 1):
        here = known[(first[known] <= turns) & (turns <= last[known])]
        copies.append(listed[here] if turns == 0 else moved(listed[here], turns * turn))
        positions.append(here)
    if not copies:
        return listed[:0], np.zeros(0, np.intp)
    order = np.argsort(np.concatenate(positions), kind="stable")
    return np.concatenate(copies)[order], np.concatenate(positions)[order]


def moved(shapes: Any, longitude: float) -> Any:
    """Shapes moved east by ``longitude``."""
    return shapely.transform(shapes, lambda points: points + np.array([longitude, 0.0]))


def split(shape: Any) -> Any:
    """A geometry in degrees with continuous edges, in -180 to 180 and -90 to 90: in parts where it crosses +-180."""
    west, south, east, north = shape.bounds
    if west >= -180 and east <= 180 and south >= -90 and north <= 90:
        return shape
    if not shapely.is_valid(shape):
        shape = shapely.make_valid(shape)
    kind = shapely.get_dimensions(shape)
    worlds: list[Any] = []
    for turns in range(math.floor((west + 180) / 360), math.ceil((east - 180) / 360) + 1):
        middle = 360.0 * turns
        inside = shapely.intersection(shape, shapely.box(middle - 180, -90, middle + 180, 90))
        inside = moved(inside, -middle) if turns else inside
        kept = [part for part in shapely.get_parts(inside) if shapely.get_dimensions(part) == kind]
        worlds += [_collected(kept, kind)] if kept else []
    whole = shapely.union_all(worlds) if len(worlds) > 1 else worlds[0]  # what goes around the globe meets itself
    parts = shapely.get_parts(whole)
    return parts[0] if len(parts) == 1 else whole


def to_degrees(shapes: Any, crs: str) -> Any:
    """Geometries of a CRS as WGS 84 longitude and latitude, continuous, around the poles too; ``split`` cuts them.

    Edges are moved by their vertices: those that are curves in WGS 84 need vertices close enough to each other.

    Args:
        shapes: array of geometries in coordinates of the CRS, or one.
        crs: anything that pyproj reads.
    """
    move, turn = _to_wgs84(crs)
    if turn is not None:
        return _from_geographic(shapes, move, turn)

    def degrees(points: Points) -> Points:
        return np.column_stack(move.transform(points[:, 0], points[:, 1]))

    there = shapely.transform(shapes, degrees)
    listed = np.atleast_1d(np.asarray(there, dtype=object))
    bounds = shapely.bounds(listed)
    at_pole = (np.abs(bounds[:, [1, 3]]) > 90 - _POLE).any(axis=1) | ~np.isfinite(bounds).all(axis=1)
    for position in np.flatnonzero(at_pole):
        listed[position] = _with_pole_vertices(_finite(listed[position]))
    return unwrapped(listed if isinstance(shapes, np.ndarray) else listed[0], keep_whole_turns=False)


@functools.lru_cache(maxsize=32)
def _to_wgs84(crs: str) -> tuple[pyproj.Transformer, float | None]:
    """Transformer to WGS 84, and a whole turn of a CRS in plain degrees (or other angles)."""
    turn = None if pyproj.CRS.from_user_input(crs).is_derived else turn_of(crs)
    return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True), turn


def bbox_of(shape: Any) -> list[float]:
    """Bounding box of a geometry that ``split`` made: west is greater than east where it crosses +-180 (RFC 7946, 5.2).

    Returns:
        [west, south, east, north], west and east in -180 to 180.
    """
    west, south, east, north = (float(side) for side in shape.bounds)
    parts = shapely.get_parts(shape)
    if west > -180 or east < 180 or len(parts) == 1:
        return [west, south, east, north]
    spans = sorted((float(part.bounds[0]), float(part.bounds[2])) for part in parts)
    reach, widest, gap = spans[0][1], 0.0, None
    for first, last in spans[1:]:
        if first - reach > widest:
            widest, gap = first - reach, (first, reach)
        reach = max(reach, last)
    return [west, south, east, north] if gap is None else [gap[0], south, gap[1], north]


def boxes_meet(one: Sequence[float], other: Sequence[float]) -> bool:
    """Tell whether two bounding boxes touch, of 4 or 6 numbers, across the antimeridian too (west > east, 0 to 360)."""
    return any(shapely.intersects(part, _parts_of_box(other)).any() for part in _parts_of_box(one))


def box_meets(box: Sequence[float], shape: Any) -> bool:
    """Tell whether a bounding box and a geometry touch; both may lie across the antimeridian, split or not."""
    return bool(shapely.intersects(_parts_of_box(box), split(unwrapped(shape))).any())


def normal_box(box: Sequence[float]) -> list[float]:
    """[west, south, east, north] in -180 to 180, west > east where the box crosses +-180."""
    half = len(box) // 2
    west, south, east, north = box[0], box[1], box[half], box[half + 1]
    if -180 <= west <= 180 and -180 <= east <= 180:
        return [west, south, east, north]
    if east - west >= 360:
        return [-180.0, south, 180.0, north]
    return [(west + 180) % 360 - 180, south, 180 - (180 - east) % 360, north]


def _parts_of_box(box: Sequence[float]) -> Any:
    """A bounding box as boxes in -180 to 180, of which one that ends at 180 touches what begins at -180."""
    west, south, east, north = normal_box(box)
    spans = [(west, east)] if west <= east else [(west, 180.0), (-180.0, east)]
    if east == 180:
        spans.append((-180.0, -180.0))
    if west == -180:
        spans.append((180.0, 180.0))
    return np.array([_rectangle(first, south, last, north) for first, last in spans], dtype=object)


def _rectangle(west: float, south: float, east: float, north: float) -> Any:
    """A box, or the line or point that is left of it."""
    if (west, south) == (east, north):
        return shapely.Point(west, south)
    if west == east or south == north:
        return shapely.LineString([(west, south), (east, north)])
    return shapely.box(west, south, east, north)


def _from_geographic(shapes: Any, move: pyproj.Transformer, turn: float) -> Any:
    """Longitudes keep their whole turns, which a change of datum or prime meridian would lose."""
    pole = turn / 4

    def degrees(points: Points) -> Points:
        east, north = (np.asarray(each) for each in move.transform(points[:, 0], np.clip(points[:, 1], -pole, pole)))
        return np.column_stack([east + 360.0 * np.round(points[:, 0] / turn - east / 360.0), north])

    return shapely.transform(shapes, degrees)


def _finite(shape: Any) -> Any:
    """Polygons without the vertices that lie beyond the edge of the projection."""
    if np.isfinite(shapely.get_coordinates(shape)).all() or not isinstance(shape, shapely.Polygon):
        return shape
    rings = [shapely.get_coordinates(ring) for ring in (shape.exterior, *shape.interiors)]
    kept = [ring[np.isfinite(ring).all(axis=1)] for ring in rings]
    kept = [np.vstack([ring, ring[:1]]) for ring in kept if len(ring) > 2]
    return shapely.Polygon(kept[0], kept[1:]) if kept else shapely.Polygon()


def _unwrapped(shape: Any, turn: float, keep_whole_turns: bool) -> Any:
    kind = shapely.get_type_id(shape)
    if kind == shapely.GeometryType.POLYGON:
        return _unwrapped_polygon(shape, turn, keep_whole_turns)
    if kind in (shapely.GeometryType.LINESTRING, shapely.GeometryType.LINEARRING):
        points = shapely.get_coordinates(shape)
        return shapely.LineString(_continuous(points, turn, keep_whole_turns))
    if kind == shapely.GeometryType.POINT:
        return shape
    parts = [_unwrapped(part, turn, keep_whole_turns) for part in shapely.get_parts(shape)]
    return _collected(parts, shapely.get_dimensions(shape))


def _unwrapped_polygon(polygon: Any, turn: float, keep_whole_turns: bool) -> Any:
    rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
    if all(np.array_equal(ring, _continuous(ring, turn, keep_whole_turns)) for ring in rings):
        return polygon
    outer = _ring(polygon.exterior, turn, keep_whole_turns)
    holes = [_ring(ring, turn, keep_whole_turns) for ring in polygon.interiors]
    if not holes:
        return outer
    west, _, east, _ = outer.bounds
    near = [hole for ring in holes for hole in copies_within(np.array([ring]), west, east, turn)[0]]
    return shapely.difference(shapely.make_valid(outer), shapely.union_all(shapely.make_valid(np.array(near))))


def _ring(ring: Any, turn: float, keep_whole_turns: bool) -> Any:
    """A polygon of a ring with continuous edges; one that goes around a pole holds it."""
    points = _continuous(shapely.get_coordinates(ring), turn, keep_whole_turns)
    (first, _), (last, latitude) = points[0], points[-1]
    if abs(last - first) > turn / 2:
        pole = math.copysign(turn / 4, float(points[:, 1].mean()))
        points = np.vstack([points, [(last, pole), (first, pole), (first, latitude)]])
    return shapely.Polygon(points)


def _continuous(points: Points, turn: float, keep_whole_turns: bool) -> Points:
    steps = np.diff(points[:, 0])
    turns = np.where(np.abs(steps) > turn / 2, np.round(steps / turn), 0.0)
    if keep_whole_turns:
        turns[np.abs(steps) >= turn * _WHOLE] = 0.0
    result = points.copy()
    result[1:, 0] -= turn * np.cumsum(turns)
    return result


def _with_pole_vertices(shape: Any) -> Any:
    """Shapes whose vertices at a pole, which have any longitude, have those of their neighbours, before and after."""
    if not (np.abs(shapely.get_coordinates(shape)[:, 1]) > 90 - _POLE).any():
        return shape
    kind = shapely.get_type_id(shape)
    if kind == shapely.GeometryType.POLYGON:
        return shapely.Polygon(_led_to_pole(shape.exterior), [_led_to_pole(ring) for ring in shape.interiors])
    if kind in (shapely.GeometryType.MULTIPOLYGON, shapely.GeometryType.GEOMETRYCOLLECTION):
        parts = [_with_pole_vertices(part) for part in shapely.get_parts(shape)]
        return _collected(parts, shapely.get_dimensions(shape))
    return shape


def _led_to_pole(ring: Any) -> Points:
    points = shapely.get_coordinates(ring)[:-1]
    at_pole = np.abs(points[:, 1]) > 90 - _POLE
    if at_pole.all():
        return np.vstack([points, points[:1]])
    start = int(np.flatnonzero(~at_pole)[0])
    points, at_pole = np.roll(points, -start, axis=0), np.roll(at_pole, -start)
    led: list[tuple[float, float]] = []
    for position, (longitude, latitude) in enumerate(points):
        if at_pole[position]:
            following = (position + 1) % len(points)
            led += [(led[-1][0], latitude)]
            longitude = led[-1][0] if at_pole[following] else points[following, 0]
        led.append((longitude, latitude))
    return np.array([*led, led[0]])


def _collected(parts: Sequence[Any], dimensions: int) -> Any:
    """Parts of one dimension as one geometry; collections within are taken apart."""
    flat = list(shapely.get_parts(np.array(parts, dtype=object))) if parts else []
    if all(shapely.get_dimensions(part) == dimensions for part in flat):
        maker = (shapely.MultiPoint, shapely.MultiLineString, shapely.MultiPolygon)[max(int(dimensions), 0)]
        return maker(flat)
    return shapely.GeometryCollection(flat)

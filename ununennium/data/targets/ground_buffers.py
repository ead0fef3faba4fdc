"""Buffers in metres on the ground, in whatever CRS the shapes are."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely
from pyproj.crs import ProjectedCRS
from pyproj.crs.coordinate_operation import AzimuthalEquidistantConversion

from ununennium.data.scenes.antimeridian import turn_of
from ununennium.errors import DataError

_CELL = 1.0  # degrees: shapes whose centres share a cell are buffered in one plane
_LARGEST_M = 300_000.0  # of a shape in one plane, where distances are then right to 1e-4
_QUARTER_SEGMENTS = 16  # of a circle: its chords are within 0.2 % of the radius


def buffered(shapes: npt.NDArray[Any], crs: str, distance_m: float, longest_edge: float) -> npt.NDArray[Any]:
    """Shapes grown by a distance along geodesics, to about 0.2 % of it.

    Each is buffered in the plane of an azimuthal equidistant projection around the cell of a degree that it lies in;
    one that is larger than that allows is cut into parts.

    Args:
        shapes: shapely geometries.
        crs: of their coordinates, which those of the buffers are in, too.
        distance_m: metres to each side.
        longest_edge: in units of the CRS; longer ones get vertices before they are moved to the plane.

    Raises:
        DataError: the CRS has no place on the Earth.
    """
    system = pyproj.CRS.from_user_input(crs)
    if system.geodetic_crs is None:
        raise DataError(f"label_buffer_m = {distance_m:g}: metres on the ground are unknown in the CRS {system.name}")
    grown = np.empty(len(shapes), dtype=object)
    parts, owners = _parts(shapely.make_valid(shapely.segmentize(shapes, longest_edge)), system)
    to_ground = pyproj.Transformer.from_crs(system, system.geodetic_crs, always_xy=True)
    turn = turn_of(crs)
    bounds = shapely.bounds(parts)
    x, y = (bounds[:, 0] + bounds[:, 2]) / 2, (bounds[:, 1] + bounds[:, 3]) / 2
    longitudes, latitudes = to_ground.transform(x, y)
    cells: dict[tuple[float, float], list[int]] = defaultdict(list)
    for position, (longitude, latitude) in enumerate(zip(longitudes, latitudes, strict=True)):
        cells[round(longitude / _CELL) * _CELL, round(latitude / _CELL) * _CELL].append(position)
    whole = np.empty(len(parts), dtype=object)
    for (longitude, latitude), positions in cells.items():
        plane = ProjectedCRS(AzimuthalEquidistantConversion(latitude, longitude), geodetic_crs=system.geodetic_crs)
        there = pyproj.Transformer.from_crs(system, plane, always_xy=True)
        flat = shapely.transform(parts[positions], lambda points, move=there: _moved(points, move))
        flat = shapely.buffer(flat, distance_m, quad_segs=_QUARTER_SEGMENTS)
        back = pyproj.Transformer.from_crs(plane, system, always_xy=True)
        for position, shape in zip(positions, flat, strict=True):
            middle = x[position]
            whole[position] = shapely.transform(shape, lambda p, back=back, m=middle: _near(_moved(p, back), m, turn))
    for position in range(len(shapes)):
        mine = whole[owners == position] if len(parts) > len(shapes) else whole[[position]]
        grown[position] = mine[0] if len(mine) == 1 else shapely.union_all(mine)
    return grown


def _moved(points: npt.NDArray[np.float64], move: pyproj.Transformer) -> npt.NDArray[np.float64]:
    return np.column_stack(move.transform(points[:, 0], points[:, 1]))


def _near(points: npt.NDArray[np.float64], longitude: float, turn: float | None) -> npt.NDArray[np.float64]:
    if turn is not None:
        points[:, 0] -= turn * np.round((points[:, 0] - longitude) / turn)
    return points


def _parts(shapes: npt.NDArray[Any], system: pyproj.CRS) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Shapes, those that are too large for one plane cut into parts; and the place of the shape that each is of."""
    unit = system.axis_info[0].unit_conversion_factor
    largest = _LARGEST_M / (unit * 6_378_137.0 if system.is_geographic else unit)
    bounds = shapely.bounds(shapes)
    numbers = np.maximum(1, np.ceil((bounds[:, 2:] - bounds[:, :2]) / largest)).astype(int)
    if (numbers == 1).all():
        return shapes, np.arange(len(shapes))
    parts: list[Any] = []
    owners: list[int] = []
    for position, (shape, (columns, rows)) in enumerate(zip(shapes, numbers, strict=True)):
        west, south, east, north = bounds[position]
        xs, ys = np.linspace(west, east, columns + 1), np.linspace(south, north, rows + 1)
        boxes = shapely.box(xs[:-1, None], ys[None, :-1], xs[1:, None], ys[None, 1:]).ravel()
        cut = [shape] if len(boxes) == 1 else [each for each in shapely.intersection(shape, boxes) if not each.is_empty]
        parts += cut
        owners += [position] * len(cut)
    return np.array(parts, dtype=object), np.array(owners, np.intp)

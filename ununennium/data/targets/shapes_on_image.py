"""Shapes brought to the grid of an image: its CRS, its range of longitudes, and no more of them than reach it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
import shapely

from ununennium.data.scenes.antimeridian import copies_within, turn_of, unwrapped
from ununennium.data.scenes.scene import Scene
from ununennium.errors import DataError

_SAMPLES = 33  # of the image, along each side
_SURROUNDINGS = 0.5  # of the image's sides, beyond it
_EDGES = 32  # parts of the surroundings that no edge is longer than, so that it bends as its CRS does
_METRES_PER_DEGREE = 110_000.0
_STRETCH = 6.0  # of metres in a projection, such as Mercator's at 80 degrees

Points = npt.NDArray[np.float64]


def on_image(
    geometries: npt.NDArray[Any], crs: str | None, scene: Scene, margin_m: float = 0.0
) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Shapes near an image, in its coordinates.

    Longitudes are moved by whole turns into the image's range, so that -179 lies on an image that reaches from 179 to
    181, or from 0 to 360. Parts of large shapes that are far from the image are cut off, and long edges get vertices:
    the vertices alone would be moved to the other CRS, and a parallel is no straight line there.

    Args:
        geometries: shapely geometries, none of them empty.
        crs: of their coordinates; None where they are in the image's.
        scene: scene that gives the grid.
        margin_m: metres beyond the image in which shapes are wanted at least.

    Returns:
        The shapes in the image's CRS, and the place of each in ``geometries``, ascending; one that reaches an image of
        a whole turn at both sides is there twice.

    Raises:
        DataError: a shape on the image has coordinates that its CRS cannot express.
    """
    if scene.crs is None or crs is None or not len(geometries):
        return geometries, np.arange(len(geometries))
    is_same = bool(rasterio.CRS.from_user_input(crs) == rasterio.CRS.from_user_input(scene.crs))
    around = _surroundings(scene, margin_m)
    turn = turn_of(crs)
    if not is_same:
        around = _moved(around, scene.crs, crs)
        if turn is not None:
            around = _over_pole(_near(around, around[len(around) // 2, 0], turn), turn)
    west, south, east, north = _bounds(around)
    near, positions = geometries, np.arange(len(geometries))
    if turn is not None:
        near, positions = copies_within(unwrapped(near, turn), west, east, turn)
    bounds = shapely.bounds(near).reshape(-1, 4)
    meets = (bounds[:, 0] <= east) & (bounds[:, 2] >= west) & (bounds[:, 1] <= north) & (bounds[:, 3] >= south)
    near, positions, bounds = near[meets], positions[meets], bounds[meets]
    if is_same or not len(near):
        return near, positions
    near, positions = _cut(near, positions, bounds, (west, south, east, north))
    near = shapely.segmentize(near, max(east - west, north - south) / _EDGES)
    there = shapely.transform(near, lambda points: _moved(points, crs, scene.crs))
    target_turn = turn_of(scene.crs)
    if target_turn is not None:
        middle = (scene.affine * (scene.width / 2, scene.height / 2))[0]
        there = shapely.transform(there, lambda points: _near(points, middle, target_turn))
    for position, shape in zip(positions, there, strict=True):
        if not np.isfinite(shapely.get_coordinates(shape)).all():
            raise DataError(
                f"scene {scene.name!r}: shape {position + 1} of {len(geometries)} has coordinates that the image's CRS "
                "cannot express; cut it to the image"
            )
    return there, positions


def _surroundings(scene: Scene, margin_m: float) -> Points:
    """Points (N, 2) of the image and of what surrounds it, in its coordinates; the middle one is its centre."""
    assert scene.crs is not None
    turn = turn_of(scene.crs)
    x, y = scene.affine * (scene.width / 2, scene.height / 2)
    per_metre = _STRETCH / float(rasterio.CRS.from_user_input(scene.crs).linear_units_factor[1]) if turn is None else 0
    if turn is not None:
        cosine = max(float(np.cos(2 * np.pi * y / turn)), 0.02)
        per_metre = turn / 360.0 / _METRES_PER_DEGREE / cosine
    margin = margin_m * per_metre / min(scene.resolution)
    sides = []
    for length in (scene.width, scene.height):
        beyond = _SURROUNDINGS * length + margin
        sides.append(np.linspace(-beyond, length + beyond, _SAMPLES))
    cols, rows = np.meshgrid(*sides)
    x, y = scene.affine * (cols.ravel(), rows.ravel())
    if turn is not None:
        y = np.clip(y, -turn / 4, turn / 4)
    return np.column_stack([x, y])


def _over_pole(points: Points, turn: float) -> Points:
    """Points (N, 2); where they lie all around a pole, with that pole and every longitude."""
    west, south, east, north = _bounds(points)
    if not east - west > 0.75 * turn:
        return points
    pole = turn / 4 if north + south > 0 else -turn / 4
    middle = (west + east) / 2
    return np.vstack([points, [(middle - turn / 2, pole), (middle + turn / 2, pole)]])


def _bounds(points: Points) -> tuple[float, float, float, float]:
    finite = points[np.isfinite(points).all(1)]
    if not len(finite):
        return -np.inf, -np.inf, np.inf, np.inf
    low, high = finite.min(0), finite.max(0)
    pad = 0.02 * (high - low)  # a side may bulge between two points
    (west, south), (east, north) = low - pad, high + pad
    return float(west), float(south), float(east), float(north)


def _near(points: Points, longitude: float, turn: float) -> Points:
    """Points (N, 2) with longitudes within half a turn of one."""
    if not np.isfinite(longitude):
        return points
    moved = points.copy()
    moved[:, 0] -= turn * np.round((points[:, 0] - longitude) / turn)
    return moved


def _moved(points: Points, source: str, target: str) -> Points:
    move = pyproj.Transformer.from_crs(source, target, always_xy=True)
    return np.column_stack(move.transform(points[:, 0], points[:, 1]))


def _cut(
    shapes: npt.NDArray[Any], positions: npt.NDArray[np.intp], bounds: Points, around: tuple[float, float, float, float]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.intp]]:
    """Shapes without what lies far outside of a box, where another CRS may have no coordinates for it."""
    west, south, east, north = around
    if not np.isfinite(around).all():
        return shapes, positions
    beyond_x, beyond_y = east - west, north - south
    far = (bounds[:, 0] < west - beyond_x) | (bounds[:, 2] > east + beyond_x)
    far |= (bounds[:, 1] < south - beyond_y) | (bounds[:, 3] > north + beyond_y)
    if not far.any():
        return shapes, positions
    box = shapely.box(west - beyond_x / 2, south - beyond_y / 2, east + beyond_x / 2, north + beyond_y / 2)
    kept = shapes.copy()
    kept[far] = shapely.intersection(shapely.make_valid(shapes[far]), box)
    present = ~shapely.is_empty(kept)
    return kept[present], positions[present]

"""Pixels on the ground: their areas on the WGS 84 ellipsoid, and how far edges may run without a vertex.

Areas of pixels vary smoothly over a scene. They are known exactly by row on a grid in degrees, and elsewhere at the
nodes of a grid that is made finer until areas between its nodes follow from them to 2e-5. The area of a polygon of
whole pixels is the sum of its pixels', found from its corners alone.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
import shapely

from ununennium.data.scenes.scene import Scene

_METRES_PER_DEGREE = 111_320.0

FloatArray = npt.NDArray[np.float64]

_GEOD = pyproj.Geod(ellps="WGS84")
_TOLERANCE = 2e-5
_SAME = 1e-7
_FIRST_CELLS = 8
_MOST_CELLS = 2**18
_STEP_M = 1.0, 1000.0  # least and most, of differences that derivatives are taken from
_EDGE_M = 5000.0
_WINDOW_PIXELS = 2**20

Tally = Callable[[npt.NDArray[Any], npt.NDArray[np.bool_], FloatArray | None], npt.NDArray[Any]]


class PixelAreas(Protocol):
    """Areas of a scene's pixels in square metres.

    Attributes:
        uniform: of every pixel, if all are alike.
    """

    uniform: float | None

    def window(self, row: int, col: int, height: int, width: int) -> FloatArray:
        """Areas of the pixels of a window: (height, width), or (height, 1) where all columns are alike."""
        ...

    def above_left(self, rows: FloatArray, cols: FloatArray) -> FloatArray:
        """Areas of the rectangles between the scene's upper left corner and corners of pixels."""
        ...


def area_of_outline(polygon: Any, areas: PixelAreas) -> float:
    """Square metres of a polygon of whole pixels, in columns and rows: the sum over its upright edges of the pixels to
    their left."""
    total = 0.0
    for number, ring in enumerate((polygon.exterior, *polygon.interiors)):
        columns, rows = shapely.get_coordinates(ring).T
        left = areas.above_left(rows[1:], columns[1:]) - areas.above_left(rows[:-1], columns[1:])
        total += abs(float(left.sum())) if number == 0 else -abs(float(left.sum()))
    return total


def pixel_areas(scene: Scene) -> PixelAreas | None:
    """Areas of a scene's pixels; None where they are unknown: without a CRS, or in one that PROJ cannot transform."""
    return None if scene.crs is None else _pixel_areas(scene.crs, scene.transform, scene.height, scene.width)


def straight_pixels(scene: Scene, tolerance: float) -> float:
    """Length of edges, in pixels, that leave neither the geodesic nor the straight line in longitude and latitude
    between their ends by more than ``tolerance`` pixels, anywhere in the scene; at least 1, infinite without a CRS."""
    ground = None if scene.crs is None else _ground_of(scene.crs)
    if ground is None:
        return np.inf
    to_degrees = functools.partial(_placed_degrees, ground, scene.affine)
    across = np.linspace(0, scene.width, 7)[1:-1]
    down = np.linspace(0, scene.height, 7)[1:-1]
    cols, rows = (each.ravel() for each in np.meshgrid(across, down))
    with np.errstate(invalid="ignore", divide="ignore"):
        size = np.sqrt(_density(ground, scene.affine, rows, cols, _step(ground, scene)))
        length = float(np.clip(_EDGE_M / np.nanmedian(size), 1, max(scene.width, scene.height)))
        worst = 0.0
        for x, y in ((0.5, 0.0), (0.0, 0.5), (0.35, 0.35), (0.35, -0.35)):
            ends = [to_degrees(rows + sign * y * length, cols + sign * x * length) for sign in (-1, 1)]
            strayed = _strayed_m(ends[0], ends[1], to_degrees(rows, cols)) / size
            worst = max(worst, float(np.nanmax(strayed, initial=0.0)))
    return max(1.0, length * (tolerance / worst) ** 0.5) if worst else np.inf


class GroundTally:
    """Counts pixels and their square metres by class, windows at a time.

    Args:
        scene: scene of the counted pixels.
        tally: ``(values, valid, weights) -> (K,)``: pixels of each class without weights, else sums of weights.
        num_classes: classes K.

    Attributes:
        pixels: int64 (K,).
        m2: float64 (K,); None where areas are unknown.
    """

    def __init__(self, scene: Scene, tally: Tally, num_classes: int) -> None:
        self._areas = pixel_areas(scene)
        self._tally = tally
        self.pixels = np.zeros(num_classes, np.int64)
        self.m2: FloatArray | None = None if self._areas is None else np.zeros(num_classes)

    def add(self, row: int, col: int, values: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
        """Count a window whose first pixel is at ``row`` and ``col``: values (..., rows, columns)."""
        height, width = valid.shape
        if self._areas is not None and self.m2 is not None:
            if self._areas.uniform is not None:
                self.m2 += self._areas.uniform * self._tally(values, valid, None)
            else:
                rows = max(1, _WINDOW_PIXELS // max(width, 1))
                for first in range(0, height, rows):
                    part = slice(first, first + rows)
                    shape = valid[part].shape
                    sizes = np.broadcast_to(self._areas.window(row + first, col, *shape), shape)
                    self.m2 += self._tally(values[..., part, :], valid[part], sizes)
        self.pixels += self._tally(values, valid, None)


class _Rows:
    """Areas by row."""

    def __init__(self, sizes: FloatArray) -> None:
        self._sizes = sizes
        self._above = np.concatenate([[0.0], np.cumsum(sizes)])
        self.uniform = float(sizes[0]) if (sizes == sizes[0]).all() else None

    def window(self, row: int, col: int, height: int, width: int) -> FloatArray:
        return self._sizes[row : row + height, None]

    def above_left(self, rows: FloatArray, cols: FloatArray) -> FloatArray:
        above: FloatArray = np.interp(rows, np.arange(len(self._above)), self._above)
        return above * cols


class _Nodes:
    """Areas between nodes, bilinearly.

    Args:
        rows: of the nodes, whole numbers from 0 to the scene's height.
        cols: likewise.
        values: square metres of a pixel at each node, (rows, columns).
    """

    def __init__(self, rows: FloatArray, cols: FloatArray, values: FloatArray) -> None:
        self.uniform: float | None = None
        self._rows, self._cols, self._values = rows, cols, values
        self._left = _integrated(values, cols, axis=1)
        self._above = _integrated(values, rows, axis=0)
        self._both = _integrated(self._left, rows, axis=0)

    def window(self, row: int, col: int, height: int, width: int) -> FloatArray:
        position, part = _located(_centres(row, height), self._rows)
        lines = self._values[position] * (1 - part)[:, None] + self._values[position + 1] * part[:, None]
        position, part = _located(_centres(col, width), self._cols)
        areas: FloatArray = lines[:, position] * (1 - part) + lines[:, position + 1] * part
        return areas

    def above_left(self, rows: FloatArray, cols: FloatArray) -> FloatArray:
        i, u = _located(cols, self._cols)
        j, v = _located(rows, self._rows)
        wide, high = np.diff(self._cols)[i], np.diff(self._rows)[j]

        def left(sums: FloatArray, values: FloatArray, line: npt.NDArray[np.intp]) -> FloatArray:
            found: FloatArray = sums[line, i] + wide * (
                values[line, i] * (u - u**2 / 2) + values[line, i + 1] * u**2 / 2
            )
            return found

        upper, lower = left(self._left, self._values, j), left(self._left, self._values, j + 1)
        areas: FloatArray = left(self._both, self._above, j) + high * (upper * (v - v**2 / 2) + lower * v**2 / 2)
        return areas


def _centres(first: int, number: int) -> FloatArray:
    return np.arange(first, first + number, dtype=np.float64) + 0.5


def _located(positions: FloatArray, nodes: FloatArray) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """The node before each place, and the part of the way to the next."""
    before = np.clip(np.searchsorted(nodes, positions, side="right") - 1, 0, len(nodes) - 2)
    return before, (positions - nodes[before]) / (nodes[before + 1] - nodes[before])


def _integrated(values: FloatArray, positions: FloatArray, axis: int) -> FloatArray:
    """Sums of the trapezoids from the first place to each."""
    turned = np.moveaxis(values, axis, 0)
    sums = np.zeros_like(turned)
    np.cumsum((turned[1:] + turned[:-1]) / 2 * np.diff(positions)[:, None], axis=0, out=sums[1:])
    return np.moveaxis(sums, 0, axis)


@functools.lru_cache(maxsize=8)
def _pixel_areas(crs: str, transform: tuple[float, ...], height: int, width: int) -> PixelAreas | None:
    known = pyproj.CRS.from_wkt(crs)
    a, b, _, d, e, top = transform
    if known.geodetic_crs is None:  # of a site or a drawing: a plane
        unit = known.axis_info[0].unit_conversion_factor if known.axis_info else 1.0
        return _Rows(np.full(height, abs(a * e - b * d) * unit**2))
    if known.is_geographic and not known.is_derived and not b and not d and _is_wgs84(known):
        radians = known.axis_info[0].unit_conversion_factor
        return _Rows(_zones(np.arange(height + 1, dtype=np.float64) * e + top, radians) * abs(a) * radians)
    ground = _ground_of(crs)
    if ground is None:
        return None
    affine = rasterio.Affine(*transform[:6])
    return _at_nodes(ground, affine, height, width)


def _at_nodes(ground: pyproj.Transformer, affine: rasterio.Affine, height: int, width: int) -> PixelAreas | None:
    step = _step_of(ground, affine, height, width)
    for cells in (_FIRST_CELLS * 2**power for power in itertools.count()):
        rows, cols = (np.unique(np.linspace(0, side, min(cells, side) + 1).round()) for side in (height, width))
        values = _density(ground, affine, rows[:, None], cols[None], step)
        between = _density(ground, affine, _middles(rows)[:, None], _middles(cols)[None], step)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = (values[1:, 1:] + values[:-1, 1:] + values[1:, :-1] + values[:-1, :-1]) / 4
            wrong = float(np.nanmax(np.abs(between / mean - 1), initial=0.0))
        whole = len(rows) > height and len(cols) > width
        if wrong < _TOLERANCE or whole or (len(rows) * len(cols) * 4 > _MOST_CELLS):
            break
    if not np.isfinite(values).any():
        return None
    values = _filled(values)
    if np.ptp(values) < _SAME * values.max():
        return _Rows(np.full(height, values.mean()))
    if (np.ptp(values, axis=1) < _SAME * values.max(axis=1)).all():
        return _Rows(np.interp(_centres(0, height), rows, values.mean(axis=1)))
    return _Nodes(rows, cols, values)


def _middles(positions: FloatArray) -> FloatArray:
    return (positions[1:] + positions[:-1]) / 2


def _filled(values: FloatArray) -> FloatArray:
    """Nodes beyond the edge of the projection take the areas of the nearest in their row, or column."""
    for axis in (1, 0):
        lines = np.moveaxis(values.copy(), axis, 1)
        for line in lines:
            known = np.flatnonzero(np.isfinite(line))
            if 0 < len(known) < len(line):
                positions = np.arange(len(line))
                after = np.clip(np.searchsorted(known, positions), 0, len(known) - 1)
                before = np.maximum(after - 1, 0)
                nearer = np.abs(known[after] - positions) <= np.abs(known[before] - positions)
                line[:] = line[np.where(nearer, known[after], known[before])]
        values = np.moveaxis(lines, 1, axis)
    return values


def _is_wgs84(crs: pyproj.CRS) -> bool:
    """Tell whether a CRS's ellipsoid is WGS 84's, to less than a millimetre."""
    ellipsoid = crs.ellipsoid
    return ellipsoid is not None and bool(
        np.allclose((ellipsoid.semi_major_metre, ellipsoid.semi_minor_metre), (_GEOD.a, _GEOD.b), rtol=0, atol=1e-3)
    )


def _zones(latitudes: FloatArray, radians: float) -> FloatArray:
    """Areas between neighbouring parallels for each radian of longitude (J. P. Snyder, Map Projections: A Working
    Manual, 1987, equation 3-12)."""
    sine = np.sin(np.clip(latitudes * radians, -np.pi / 2, np.pi / 2))
    eccentricity = _GEOD.es**0.5
    term = sine / (1 - (eccentricity * sine) ** 2) + np.arctanh(eccentricity * sine) / eccentricity
    areas: FloatArray = np.abs(np.diff(term)) * _GEOD.b**2 / 2
    return areas


@functools.lru_cache(maxsize=32)
def _ground_of(crs: str) -> pyproj.Transformer | None:
    """From a CRS to WGS 84 longitude and latitude."""
    try:
        return pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    except pyproj.exceptions.ProjError:
        return None


def _step(ground: pyproj.Transformer, scene: Scene) -> float:
    return _step_of(ground, scene.affine, scene.height, scene.width)


def _step_of(ground: pyproj.Transformer, affine: rasterio.Affine, height: int, width: int) -> float:
    """Pixels between the ends of a difference that a derivative is taken from."""
    rows, cols = (each.ravel() for each in np.meshgrid(np.linspace(0, height, 9), np.linspace(0, width, 9)))
    size = _density(ground, affine, rows, cols, 0.25) ** 0.5
    if not np.isfinite(size).any():
        return 0.25
    return float(np.clip(np.nanmedian(size) / 2, *_STEP_M) / np.nanmedian(size))


def _density(
    ground: pyproj.Transformer, affine: rasterio.Affine, rows: FloatArray, cols: FloatArray, step: float
) -> FloatArray:
    """Square metres for each pixel at places: the cross product of the derivatives of places in space by column and
    row; NaN beyond the edge of the projection."""
    rows, cols = np.broadcast_arrays(rows, cols)
    by_col = _space(ground, affine, rows, cols + step) - _space(ground, affine, rows, cols - step)
    by_row = _space(ground, affine, rows + step, cols) - _space(ground, affine, rows - step, cols)
    density: FloatArray = np.linalg.norm(np.cross(by_col, by_row), axis=-1) / (2 * step) ** 2
    return density


def _space(ground: pyproj.Transformer, affine: rasterio.Affine, rows: FloatArray, cols: FloatArray) -> FloatArray:
    """Geocentric metres (..., 3) of places on the ellipsoid."""
    longitude, latitude = np.radians(_placed_degrees(ground, affine, rows, cols))
    across = _GEOD.a / np.sqrt(1 - _GEOD.es * np.sin(latitude) ** 2)
    return np.stack(
        [
            across * np.cos(latitude) * np.cos(longitude),
            across * np.cos(latitude) * np.sin(longitude),
            across * (1 - _GEOD.es) * np.sin(latitude),
        ],
        axis=-1,
    )


def _placed_degrees(
    ground: pyproj.Transformer, affine: rasterio.Affine, rows: FloatArray, cols: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Longitudes and latitudes of places in a scene; NaN beyond the edge of the projection."""
    x, y = affine.a * cols + affine.b * rows + affine.c, affine.d * cols + affine.e * rows + affine.f
    longitude, latitude = (np.asarray(each, np.float64) for each in ground.transform(x, y))
    off = ~(np.isfinite(longitude) & np.isfinite(latitude))
    return np.where(off, np.nan, longitude), np.where(off, np.nan, latitude)


def _strayed_m(
    start: tuple[FloatArray, FloatArray], stop: tuple[FloatArray, FloatArray], middle: tuple[FloatArray, FloatArray]
) -> FloatArray:
    """Metres by which the middle of an edge lies beside the geodesic, or the line in degrees, between its ends."""
    known: npt.NDArray[np.bool_] = np.isfinite(start[0] + start[1] + stop[0] + stop[1] + middle[0] + middle[1])
    (west, south), (east, north), (x, y) = ((lon[known], lat[known]) for lon, lat in (start, stop, middle))
    if not len(west):
        return np.full(len(known), np.nan)
    azimuth, _, distance = _GEOD.inv(west, south, east, north)
    geodesic = _GEOD.fwd(west, south, azimuth, np.asarray(distance) / 2)[:2]
    line = west + _turned(east - west) / 2, (south + north) / 2
    metre = np.radians(1) * _GEOD.a
    along = np.stack([_turned(east - west) * np.cos(np.radians(y)), north - south])
    along /= np.linalg.norm(along, axis=0)
    strayed = np.full(len(known), np.nan)
    beside = [
        np.abs(_turned(np.asarray(lon) - x) * np.cos(np.radians(y)) * along[1] - (np.asarray(lat) - y) * along[0])
        for lon, lat in (geodesic, line)
    ]
    strayed[known] = np.max(beside, axis=0) * metre
    return strayed


def _turned(degrees: FloatArray) -> FloatArray:
    """Differences of longitudes in -180 to 180."""
    turned: FloatArray = (degrees + 180) % 360 - 180
    return turned


def metres(crs: str | None, size: tuple[float, float]) -> tuple[float, float]:
    """Sizes of a pixel in metres; where the CRS is in degrees, those of a degree on the equator."""
    unit = 1.0
    if crs is not None:
        system = rasterio.CRS.from_user_input(crs)
        unit = _METRES_PER_DEGREE if system.is_geographic else float(system.linear_units_factor[1])
    return size[0] * unit, size[1] * unit

"""Ground that scenes on different grids share: what one of them judges, another must not train on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from rasterio.features import rasterize
from rasterio.warp import transform_bounds
from shapely.geometry.base import BaseGeometry

from ununennium.data.scenes.antimeridian import split, to_degrees, turn_of, unwrapped
from ununennium.data.scenes.ground import metres
from ununennium.data.scenes.scene import Scene
from ununennium.data.scenes.vector_shapes import to_crs
from ununennium.data.targets.shapes_on_image import on_image

BoolArray = npt.NDArray[np.bool_]
Box = tuple[int, int, int, int]  # top, left, bottom, right in pixels; bottom and right are one past the last

_SLIVER = 0.01  # pixels
_TOUCHING = 1e-6  # share of a scene's ground; neighbours that only touch share no more
_PAD = 0.01  # of a scene's width in degrees: its straight sides bulge between the points along them
_PARTS_PER_SIDE = 8  # a straight side in one CRS is a curve in another


@dataclass(frozen=True)
class Judged:
    """A part of a scene that is in ``fold`` of a scene on another grid.

    Attributes:
        fold: VALIDATION or HOLDOUT.
        shape: in pixels of the scene: x is the column, y the row.
        buffer: pixels around it that are near it.
    """

    fold: int
    shape: BaseGeometry
    buffer: int
    _grown: BaseGeometry = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_grown", self.shape.buffer(self.buffer, join_style="mitre"))

    def touched(self, row: int, col: int, height: int, width: int) -> BoolArray:
        """Pixels of a window that share ground with it, bool (height, width)."""
        return _burn(self.shape, row, col, height, width)

    def near(self, row: int, col: int, height: int, width: int) -> BoolArray:
        """Pixels of a window that are at most ``buffer`` pixels away from it, bool (height, width)."""
        return _burn(self._grown, row, col, height, width)


def shape_in(scene: Scene, others: Mapping[str, tuple[Scene, Sequence[Box]]], reach: int) -> BaseGeometry | None:
    """The union of boxes of other scenes in pixels of ``scene``.

    Args:
        scene: scene of the shape.
        others: name to scene and boxes in its own pixels.
        reach: pixels around the scene that matter too.

    Returns:
        None if nothing of them lies there.
    """
    if scene.crs is None:
        return None
    extent = shapely.box(-reach, -reach, scene.width + reach, scene.height + reach)
    shapes: list[BaseGeometry] = []
    for other, boxes in others.values():
        if other.crs is None or not boxes or not _may_overlap(scene, other, reach):
            continue
        ground, _ = on_image(_on_the_ground(other, boxes), other.crs, scene, _metres(scene, reach))
        pixels = shapely.transform(ground, lambda points: _apply(~scene.affine, points))
        shapes += [shape for shape in pixels if shape.intersects(extent)]
    return shapely.union_all(shapes) if shapes else None


def geojson_of(scene: Scene, box: Box) -> dict[str, Any]:
    """A box of a scene as a GeoJSON geometry: longitude and latitude, or (column, row) if its place is not known."""
    if scene.crs is None or _bounds(scene) is None:
        top, left, bottom, right = box
        geometry: dict[str, Any] = shapely.geometry.mapping(shapely.box(left, top, right, bottom))
    else:
        geometry = shapely.geometry.mapping(split(to_degrees(_on_the_ground(scene, [box])[0], scene.crs)))
    return geometry


def in_pixels(shape: BaseGeometry, crs: str | None, scene: Scene, reach: int) -> BaseGeometry:
    """A shape in pixels of the scene, a hundredth of a pixel smaller: what only touches a pixel does not cover it.

    Args:
        shape: in coordinates of ``crs``, or in pixels where the scene has no CRS.
        crs: of its coordinates.
        scene: scene of the shape.
        reach: pixels around the scene that matter too; what lies farther away may be missing.
    """
    if scene.crs is not None:
        assert crs is not None
        ground, _ = on_image(np.array([shape]), crs, scene, _metres(scene, reach))
        shape = shapely.union_all(shapely.transform(ground, lambda points: _apply(~scene.affine, points)))
    return shapely.buffer(shape, -_SLIVER, join_style="mitre")


def geojson_of_shape(scene: Scene, shape: BaseGeometry) -> tuple[Box, dict[str, Any]] | None:
    """The part of a shape (in pixels of the scene) that lies in the scene: its bounding box, and as GeoJSON."""
    inside = shapely.buffer(shape, _SLIVER, join_style="mitre").intersection(
        shapely.box(0, 0, scene.width, scene.height)
    )
    if inside.is_empty or not inside.area:
        return None
    left, top, right, bottom = inside.bounds
    box = int(np.floor(top)), int(np.floor(left)), int(np.ceil(bottom)), int(np.ceil(right))
    if scene.crs is not None and _bounds(scene) is not None:
        ground = shapely.transform(inside, lambda points: _apply(scene.affine, points))
        inside = split(to_degrees(ground, scene.crs))
    return box, dict(shapely.geometry.mapping(inside))


def pixels_across(other: Scene, scene: Scene) -> float:
    """Size of another scene's pixel in pixels of this one; 0 if the two cannot share ground."""
    if other.crs is None or scene.crs is None or not _may_overlap(scene, other, 0):
        return 0.0
    row, col = other.height // 2, other.width // 2
    ground = to_crs(_on_the_ground(other, [(row, col, row + 1, col + 1)]), other.crs, scene.crs)[0]
    turn = turn_of(scene.crs)
    ground = ground if turn is None else unwrapped(ground, turn)
    left, top, right, bottom = shapely.transform(ground, lambda points: _apply(~scene.affine, points)).bounds
    return float(max(right - left, bottom - top))


def overlapping(scenes: Sequence[Scene]) -> list[tuple[Scene, Scene, float]]:
    """Pairs of scenes that share ground, with the share of the smaller one's; by their extents, whatever is valid."""
    placed = [(scene, _extent(scene)) for scene in scenes if scene.crs is not None and _bounds(scene) is not None]
    shapes = [shape for _, shape in placed]
    found: list[tuple[Scene, Scene, float]] = []
    if not shapes:
        return found
    for one, other in sorted(zip(*shapely.STRtree(shapes).query(shapes, predicate="intersects").tolist(), strict=True)):
        area = shapes[one].intersection(shapes[other]).area / min(shapes[one].area, shapes[other].area)
        if one < other and area > _TOUCHING:
            found.append((placed[one][0], placed[other][0], float(area)))
    return found


def shared_places(
    one: Scene, other: Scene, number: int, rng: np.random.Generator
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Random pixels of a scene whose centres lie in another one, and the pixels they lie in there.

    Args:
        one: a scene with a CRS.
        other: another one.
        number: pixels wanted; fewer may be found.
        rng: draws them.

    Returns:
        (row, column) in each scene, int64 (N, 2).
    """
    assert one.crs is not None
    assert other.crs is not None
    corners = shapely.points([(0, 0), (other.width, 0), (other.width, other.height), (0, other.height)])
    ground = to_crs(shapely.transform(corners, lambda points: _apply(other.affine, points)), other.crs, one.crs)
    seen = _apply(~one.affine, _near(shapely.get_coordinates(ground), one))
    low = np.clip(np.floor(seen.min(0)), 0, (one.width - 1, one.height - 1)).astype(int)
    high = np.clip(np.ceil(seen.max(0)), low + 1, (one.width, one.height)).astype(int)
    ours = rng.integers(low, high, (number, 2))
    centres = shapely.points(np.column_stack(one.affine * (ours[:, 0] + 0.5, ours[:, 1] + 0.5)))
    moved = to_crs(centres, one.crs, other.crs)
    theirs = np.floor(_apply(~other.affine, _near(shapely.get_coordinates(moved), other)))
    inside = (theirs >= 0).all(1) & (theirs < (other.width, other.height)).all(1)
    return ours[inside][:, ::-1], theirs[inside][:, ::-1].astype(np.int64)


@lru_cache(maxsize=4096)
def _extent(scene: Scene, reach: int = 0) -> BaseGeometry:
    """The scene and ``reach`` pixels around it in longitude and latitude, in parts across the antimeridian."""
    assert scene.crs is not None
    around = -reach, -reach, scene.height + reach, scene.width + reach
    whole: BaseGeometry = split(to_degrees(_on_the_ground(scene, [around])[0], scene.crs))
    return whole


def _near(points: npt.NDArray[np.float64], scene: Scene) -> npt.NDArray[np.float64]:
    """Points (N, 2) in a scene's CRS, with longitudes moved by whole turns to the scene's middle."""
    assert scene.crs is not None
    turn = turn_of(scene.crs)
    if turn is None:
        return points
    middle = (scene.affine * (scene.width / 2, scene.height / 2))[0]
    turns = np.round((points[:, 0] - middle) / turn)
    return np.column_stack([points[:, 0] - turn * turns, points[:, 1]])


def _metres(scene: Scene, pixels: int) -> float:
    return pixels * max(metres(scene.crs, scene.resolution))


def _on_the_ground(scene: Scene, boxes: Iterable[Box]) -> Any:
    """Boxes in the scene's CRS, an array of polygons with points along their sides."""
    corners = np.array([(left, top, right, bottom) for top, left, bottom, right in boxes], np.float64)
    length = np.maximum(corners[:, 2] - corners[:, 0], corners[:, 3] - corners[:, 1]) / _PARTS_PER_SIDE
    shapes = shapely.segmentize(shapely.box(*corners.T), length)
    return shapely.transform(shapes, lambda points: _apply(scene.affine, points))


def _apply(affine: rasterio.Affine, points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return np.column_stack(affine * (points[:, 0], points[:, 1]))


def _burn(shape: BaseGeometry, row: int, col: int, height: int, width: int) -> BoolArray:
    if not shape.intersects(shapely.box(col, row, col + width, row + height)):
        return np.zeros((height, width), np.bool_)
    origin = rasterio.Affine.translation(col, row)
    burned: BoolArray = rasterize([shape], (height, width), transform=origin, all_touched=True) > 0
    return burned


def _may_overlap(one: Scene, other: Scene, reach: int) -> bool:
    """Tell whether the bounds of two scenes in longitude and latitude meet, with ``reach`` pixels around the first."""
    if _bounds(one, reach) is None or _bounds(other) is None:
        return False
    boxes = [shapely.box(*part.bounds) for part in shapely.get_parts(_extent(one, reach))]
    its_boxes = [shapely.box(*part.bounds) for part in shapely.get_parts(_extent(other))]
    pad = max(max(box.bounds[2] - box.bounds[0], box.bounds[3] - box.bounds[1]) for box in boxes) * _PAD
    return any(box.distance(its) <= pad for box in boxes for its in its_boxes)


@lru_cache(maxsize=4096)
def _bounds(scene: Scene, reach: int = 0) -> tuple[float, float, float, float] | None:
    """West, south, east, north in degrees; None if the CRS has no known place on the Earth."""
    crs = rasterio.CRS.from_user_input(scene.crs)
    if not (crs.is_geographic or crs.is_projected):
        return None
    extent = -reach, -reach, scene.height + reach, scene.width + reach
    ground = shapely.total_bounds(_on_the_ground(scene, [extent]))
    found: tuple[float, float, float, float] = transform_bounds(crs, rasterio.CRS.from_epsg(4326), *ground)
    return found if np.isfinite(found).all() else None

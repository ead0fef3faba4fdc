"""Split of the pixels into folds: whole spatial blocks, with a buffer on the training side.

Blocks lie on a grid that is anchored in the CRS, so that scenes which share a CRS and a resolution and overlap on the
ground agree on every block. Each remaining group of scenes (another CRS, resolution or origin of pixels) has a grid of
its own; where scenes of different groups overlap, what one of them judges the other does not train on
(``ununennium.data.splits.overlaps``). So the same place never trains in one scene and is judged in another.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import shapely

from ununennium.config import RegionConfig, SplitConfig
from ununennium.data.scenes.antimeridian import turn_of
from ununennium.data.scenes.reader import clip
from ununennium.data.scenes.scene import Scene
from ununennium.data.splits import overlaps
from ununennium.data.splits.stratify import Block
from ununennium.errors import ConfigError

NONE, TRAIN, VALIDATION, HOLDOUT = 0, 1, 2, 3
FOLDS = {"train": TRAIN, "validation": VALIDATION, "holdout": HOLDOUT}

FoldArray = npt.NDArray[np.uint8]
# Rectangles in pixels of a group's grid: fold, row, row after, column, column after.
Rectangle = tuple[str, int, int, int, int, int]


class Drawn(NamedTuple):
    """Shapes that say the fold of the ground they cover.

    Attributes:
        crs: of the shapes.
        shapes: fold; the scene in whose pixels the shape is, None if it is in ``crs``; and the shape as WKT.
    """

    crs: str | None
    shapes: list[tuple[int, str | None, str]]


class Split:
    """The fold of every pixel.

    Args:
        scenes: the scenes that are split.
        block_size: side of a block in pixels.
        buffer: training pixels this close (in rows or columns) to another fold are left out.
        rectangles: folds given by the user; the later one wins, and they win over blocks.
        blocks: folds of blocks.
        drawn: folds by shapes, instead of blocks.
        whole: folds of whole scenes by name, instead of all else: places may be in several folds (a split by time).
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        block_size: int,
        buffer: int,
        rectangles: Sequence[Rectangle],
        blocks: Mapping[Block, int],
        *,
        drawn: Drawn | None = None,
        whole: Mapping[str, int] | None = None,
    ) -> None:
        self.block_size = block_size
        self.buffer = buffer
        self.rectangles = list(rectangles)
        self.blocks = dict(blocks)
        self.drawn = drawn
        self.whole = None if whole is None else dict(whole)
        self._places = {scene.name: place_on_grid(scene) for scene in scenes}
        self._scenes = {scene.name: scene for scene in scenes}
        self._elsewhere: dict[str, list[overlaps.Judged]] = {}
        self._shapes: dict[str, list[overlaps.Judged]] = {}

    def folds(self, scene: Scene, row: int, col: int, height: int, width: int) -> FoldArray:
        """Fold of each pixel of a window.

        Returns:
            uint8 (height, width): TRAIN, VALIDATION, HOLDOUT, or NONE for the buffer and outside the scene.
        """
        folds = np.zeros((height, width), np.uint8)
        inside = clip(row, col, height, width, scene)
        if inside is None:
            return folds
        here, (top, left, its_height, its_width) = inside
        folds[here] = self._compute(scene, top, left, its_height, its_width)
        return folds

    def _compute(self, scene: Scene, row: int, col: int, height: int, width: int) -> FoldArray:
        if self.whole is not None:
            return np.full((height, width), self.whole[scene.name], np.uint8)
        reach = self.buffer
        raw = self._assigned(scene, row - reach, col - reach, height + 2 * reach, width + 2 * reach)
        folds = raw[reach : reach + height, reach : reach + width].copy()
        if (raw > TRAIN).any():
            folds[(folds == TRAIN) & _any_within(raw > TRAIN, reach)] = NONE
        if scene.name not in self._elsewhere:
            self._elsewhere[scene.name] = self._judged_elsewhere(scene)
        for judged in self._elsewhere[scene.name]:
            folds[(folds == TRAIN) & judged.near(row, col, height, width)] = NONE
            if judged.fold == HOLDOUT:
                folds[(folds == VALIDATION) & judged.touched(row, col, height, width)] = NONE
        return folds

    def _judged_elsewhere(self, scene: Scene) -> list[overlaps.Judged]:
        """Ground of this scene that validates or is held out in scenes on other grids."""
        group = self._places[scene.name][0]
        others = [other for name, other in self._scenes.items() if self._places[name][0] != group]
        if self.drawn is not None:
            # All grids see the same shapes, and judge the pixels that touch them: up to a pixel more than the shape.
            coarsest = max((overlaps.pixels_across(other, scene) for other in others), default=0.0)
            return [
                overlaps.Judged(judged.fold, judged.shape, self.buffer + math.ceil(coarsest))
                for judged in self._drawn_on(scene)
                if judged.fold != TRAIN and coarsest
            ]
        found = []
        for fold in (VALIDATION, HOLDOUT):
            boxes = {other.name: (other, self._judged(other, fold)) for other in others}
            shape = overlaps.shape_in(scene, boxes, self.buffer)
            if shape is not None:
                found.append(overlaps.Judged(fold, shape, self.buffer))
        return found

    def _judged(self, scene: Scene, fold: int) -> list[overlaps.Box]:
        """(top, left, bottom, right) of the parts of a scene that are in a fold, in its pixels."""
        group, first_row, first_col = self._places[scene.name]
        size = self.block_size
        boxes = [
            (its_group, its_fold, row * size, (row + 1) * size, col * size, (col + 1) * size)
            for (its_group, row, col), its_fold in sorted(self.blocks.items())
        ]
        found = []
        for its_group, its_fold, top, bottom, left, right in [*boxes, *self.rectangles]:
            if (its_group, its_fold) != (group, fold):
                continue
            inside = clip(top - first_row, left - first_col, bottom - top, right - left, scene)
            if inside is not None:
                row, col, height, width = inside[1]
                found.append((row, col, row + height, col + width))
        return found

    def _judged_shapes(self, scene: Scene, fold: int) -> list[tuple[overlaps.Box, dict[str, Any]]]:
        """Bounding boxes and GeoJSON geometries of the parts of a scene that are in a fold."""
        if self.whole is not None:
            boxes = [(0, 0, scene.height, scene.width)] if self.whole[scene.name] == fold else []
        elif self.drawn is not None:
            drawn = [judged.shape for judged in self._drawn_on(scene) if judged.fold == fold]
            return [found for shape in drawn if (found := overlaps.geojson_of_shape(scene, shape)) is not None]
        else:
            boxes = self._judged(scene, fold)
        return [(box, overlaps.geojson_of(scene, box)) for box in boxes]

    def _assigned(self, scene: Scene, row: int, col: int, height: int, width: int) -> FoldArray:
        """Folds before the buffer is taken."""
        if self.drawn is not None:
            return self._drawn_folds(scene, row, col, height, width)
        group, first_row, first_col = self._places[scene.name]
        row, col = row + first_row, col + first_col
        block_rows = np.arange(row, row + height) // self.block_size
        block_cols = np.arange(col, col + width) // self.block_size
        rows, its_row = np.unique(block_rows, return_inverse=True)
        cols, its_col = np.unique(block_cols, return_inverse=True)
        table = np.array([[self.blocks.get((group, int(r), int(c)), TRAIN) for c in cols] for r in rows], np.uint8)
        folds: FoldArray = table[its_row][:, its_col]
        for its_group, fold, top, bottom, left, right in self.rectangles:
            if its_group == group:
                folds[max(top - row, 0) : max(bottom - row, 0), max(left - col, 0) : max(right - col, 0)] = fold
        return folds

    def _drawn_on(self, scene: Scene) -> list[overlaps.Judged]:
        """The drawn shapes in the scene's pixels: training first and holdout last, so that it wins."""
        assert self.drawn is not None
        if scene.name not in self._shapes:
            found = []
            for fold, name, wkt in sorted(self.drawn.shapes, key=lambda shape: shape[0]):
                if name == scene.name if scene.crs is None else name is None:
                    shape = overlaps.in_pixels(shapely.from_wkt(wkt), self.drawn.crs, scene, self.buffer)
                    found.append(overlaps.Judged(fold, shape, 0))
            self._shapes[scene.name] = found
        return self._shapes[scene.name]

    def _drawn_folds(self, scene: Scene, row: int, col: int, height: int, width: int) -> FoldArray:
        assert self.drawn is not None
        only_drawn = any(fold == TRAIN for fold, _, _ in self.drawn.shapes)
        folds: FoldArray = np.full((height, width), NONE if only_drawn else TRAIN, np.uint8)
        for judged in self._drawn_on(scene):
            folds[judged.touched(row, col, height, width)] = judged.fold
        return folds

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the scenes are kept by the index."""
        return {
            "block_size": self.block_size,
            "buffer": self.buffer,
            "rectangles": [list(rectangle) for rectangle in self.rectangles],
            "blocks": [[*block, fold] for block, fold in sorted(self.blocks.items())],
            "drawn": None if self.drawn is None else list(self.drawn),
            "whole": self.whole,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], scenes: Sequence[Scene]) -> Split:
        """The inverse of ``to_dict``."""
        blocks = {(group, row, col): fold for group, row, col, fold in values["blocks"]}
        rectangles = [tuple(rectangle) for rectangle in values["rectangles"]]
        drawn = None
        if values["drawn"] is not None:
            crs, shapes = values["drawn"]
            drawn = Drawn(crs, [tuple(shape) for shape in shapes])
        whole = values["whole"]
        return cls(scenes, values["block_size"], values["buffer"], rectangles, blocks, drawn=drawn, whole=whole)

    @property
    def sha256(self) -> str:
        """Hash of the blocks, rectangles and buffer."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def to_geojson(self) -> dict[str, Any]:
        """Blocks and rectangles of validation and holdout per scene, as GeoJSON features.

        Coordinates are longitude and latitude (RFC 7946), or pixels (column, row) for a scene without CRS; ``rows`` and
        ``columns`` of each feature are [first, one past the last] in the scene.
        """
        features = []
        for scene in self._scenes.values():
            for name, fold in FOLDS.items():
                for box, shape in self._judged_shapes(scene, fold) if fold != TRAIN else ():
                    top, left, bottom, right = box
                    scene_index = {"rows": [top, bottom], "columns": [left, right]}
                    properties = {"scene": scene.name, "fold": name, **scene_index}
                    features.append({"type": "Feature", "properties": properties, "geometry": shape})
        return {"type": "FeatureCollection", "features": features}


def place_on_grid(scene: Scene) -> tuple[str, int, int]:
    """The scene's group, and its first row and column on the group's pixel grid.

    North-up scenes of one CRS and resolution whose pixels coincide share a group; any other scene is one by itself.
    Scenes in degrees share one only where both lie in -180 to 180, or both in the same whole turns beyond: columns of
    one place differ between longitudes of 181 and -179.
    """
    a, b, c, d, e, f = scene.transform
    if scene.crs is None or b or d or a <= 0 or e >= 0:
        return f"scene {scene.name}", 0, 0
    col, row = c / a, f / e
    col_shift, row_shift = round(col % 1, 2) % 1, round(row % 1, 2) % 1
    crs = hashlib.sha256(scene.crs.encode()).hexdigest()[:12]
    group = f"crs {crs} pixel {a:.9g} x {-e:.9g} shift {col_shift}, {row_shift}{_turns(scene)}"
    return group, round(row - row_shift), round(col - col_shift)


def _turns(scene: Scene) -> str:
    """The whole turns that a scene in degrees reaches into; empty within -180 to 180."""
    assert scene.crs is not None
    turn = turn_of(scene.crs)
    if turn is None:
        return ""
    pixel, west = scene.transform[0], scene.transform[2]
    first = math.floor((west + pixel / 2) / turn + 0.5)
    last = math.floor((west + pixel * (scene.width - 0.5)) / turn + 0.5)
    return "" if first == last == 0 else f" turns {first} to {last}"


def rectangles_of(scenes: Sequence[Scene], config: SplitConfig) -> list[Rectangle]:
    """The user's regions on the groups' grids; holdout last, so that it wins.

    Raises:
        ConfigError: a region names no scene, or lies outside of it.
    """
    found: list[Rectangle] = []
    for field, fold in (("validation_regions", VALIDATION), ("holdout_regions", HOLDOUT)):
        for scene_index, region in enumerate(getattr(config, field)):
            found += _rectangles(scenes, region, fold, f"data.split.{field}.{scene_index}")
    return found


def _rectangles(scenes: Sequence[Scene], region: RegionConfig, fold: int, field: str) -> list[Rectangle]:
    chosen = [scene for scene in scenes if region.scene in (None, scene.name)]
    if not chosen:
        names = ", ".join(scene.name for scene in scenes)
        raise ConfigError(f"{field}.scene", region.scene, f"there is no such scene; there are: {names}")
    found = []
    for scene in chosen:
        group, first_row, first_col = place_on_grid(scene)
        for axis, (start, _), length in (("rows", region.rows, scene.height), ("columns", region.columns, scene.width)):
            if start >= length:
                raise ConfigError(f"{field}.{axis}", start, f"scene {scene.name!r} has {axis} 0..{length - 1}")
        bottom = scene.height if region.rows[1] is None else min(region.rows[1], scene.height)
        right = scene.width if region.columns[1] is None else min(region.columns[1], scene.width)
        rows = (first_row + region.rows[0], first_row + bottom)
        found.append((group, fold, *rows, first_col + region.columns[0], first_col + right))
    return found


def _any_within(mask: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    """Tell whether a pixel within ``reach`` rows and columns is set, for the interior ``reach`` from the edges."""
    size = 2 * reach + 1
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64 if mask.size >= 2**31 else np.int32)
    sums[1:, 1:] = mask.cumsum(0, sums.dtype).cumsum(1)
    inside: npt.NDArray[np.bool_] = (
        sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    ) > 0
    return inside

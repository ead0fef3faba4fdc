"""Which pixels train, validate and are held out: whole spatial blocks, with a buffer on the training side.

Blocks lie on a grid that is anchored in the CRS, so that scenes which share a CRS and a resolution and overlap on the
ground agree on every block: the same place never trains in one scene and is judged in another. Each remaining group of
scenes (another CRS or resolution, or no georeference) has a grid of its own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.config import RegionConfig, SplitConfig
from ununennium.data.catalog import Scene
from ununennium.errors import ConfigError

NONE, TRAIN, VALIDATION, HOLDOUT = 0, 1, 2, 3
FOLDS = {"train": TRAIN, "validation": VALIDATION, "holdout": HOLDOUT}

FoldArray = npt.NDArray[np.uint8]
Block = tuple[str, int, int]  # group, block row, block column
# Rectangles in pixels of a group's grid: fold, row, row after, column, column after.
Rectangle = tuple[str, int, int, int, int, int]

_KEEP_PIXELS = 64 * 2**20


class Split:
    """The fold of every pixel.

    Args:
        scenes: the scenes that are split.
        block_size: side of a block in pixels.
        buffer: training pixels this close (in rows or columns) to another fold are left out.
        rectangles: folds given by the user; the later one wins, and they win over blocks.
        blocks: folds of blocks.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        block_size: int,
        buffer: int,
        rectangles: Sequence[Rectangle],
        blocks: Mapping[Block, int],
    ) -> None:
        self.block_size = block_size
        self.buffer = buffer
        self.rectangles = list(rectangles)
        self.blocks = dict(blocks)
        self._places = {scene.name: place_on_grid(scene) for scene in scenes}
        self._scenes = {scene.name: scene for scene in scenes}
        self._whole: dict[str, FoldArray] = {}

    def folds(self, scene: Scene, row: int, col: int, height: int, width: int) -> FoldArray:
        """Fold of each pixel of a window.

        Returns:
            uint8 (height, width): TRAIN, VALIDATION, HOLDOUT, or NONE for the buffer and outside the scene.
        """
        if scene.width * scene.height <= _KEEP_PIXELS:
            if scene.name not in self._whole:
                self._whole[scene.name] = self._compute(scene, 0, 0, scene.height, scene.width)
            folds = np.zeros((height, width), np.uint8)
            top, left = max(row, 0), max(col, 0)
            bottom, right = min(row + height, scene.height), min(col + width, scene.width)
            if top < bottom and left < right:
                inside = self._whole[scene.name][top:bottom, left:right]
                folds[top - row : bottom - row, left - col : right - col] = inside
            return folds
        folds = self._compute(scene, row, col, height, width)
        rows, cols = np.arange(row, row + height), np.arange(col, col + width)
        folds[(rows < 0) | (rows >= scene.height)] = NONE
        folds[:, (cols < 0) | (cols >= scene.width)] = NONE
        return folds

    def _compute(self, scene: Scene, row: int, col: int, height: int, width: int) -> FoldArray:
        reach = self.buffer
        raw = self._assigned(scene, row - reach, col - reach, height + 2 * reach, width + 2 * reach)
        folds = raw[reach : reach + height, reach : reach + width].copy()
        near_others = _any_within(raw > TRAIN, reach)
        folds[(folds == TRAIN) & near_others] = NONE
        return folds

    def _assigned(self, scene: Scene, row: int, col: int, height: int, width: int) -> FoldArray:
        """Folds before the buffer is taken."""
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

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; the scenes are kept by the index."""
        return {
            "block_size": self.block_size,
            "buffer": self.buffer,
            "rectangles": [list(rectangle) for rectangle in self.rectangles],
            "blocks": [[*block, fold] for block, fold in sorted(self.blocks.items())],
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], scenes: Sequence[Scene]) -> Split:
        """The inverse of ``to_dict``."""
        blocks = {(group, row, col): fold for group, row, col, fold in values["blocks"]}
        rectangles = [tuple(rectangle) for rectangle in values["rectangles"]]
        return cls(scenes, values["block_size"], values["buffer"], rectangles, blocks)

    @property
    def sha256(self) -> str:
        """Hash of everything that decides a pixel's fold."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def holdout_sha256(self) -> str:
        """Hash of the held-out pixels alone: two splits that agree on it judge models on the same ground."""
        held = {
            "rectangles": [list(r) for r in self.rectangles if r[1] == HOLDOUT],
            "blocks": [list(block) for block, fold in sorted(self.blocks.items()) if fold == HOLDOUT],
            "block_size": self.block_size,
        }
        return hashlib.sha256(json.dumps(held, sort_keys=True).encode()).hexdigest()

    def to_geojson(self) -> dict[str, Any]:
        """Blocks and rectangles of validation and holdout per scene, as GeoJSON features in the scene's CRS."""
        names = {fold: name for name, fold in FOLDS.items()}
        features = []
        for name, (group, first_row, first_col) in self._places.items():
            scene = self._scenes[name]
            size = self.block_size
            shapes = [
                (fold, row * size, (row + 1) * size, col * size, (col + 1) * size)
                for (its_group, row, col), fold in sorted(self.blocks.items())
                if its_group == group and fold != TRAIN
            ]
            shapes += [(r[1], *r[2:]) for r in self.rectangles if r[0] == group]
            for fold, top, bottom, left, right in shapes:
                top, bottom = (min(max(edge - first_row, 0), scene.height) for edge in (top, bottom))
                left, right = (min(max(edge - first_col, 0), scene.width) for edge in (left, right))
                if top >= bottom or left >= right:
                    continue
                corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
                ring = [list(scene.affine * corner) for corner in corners]
                features.append(
                    {
                        "type": "Feature",
                        "properties": {"scene": name, "fold": names[fold]},
                        "geometry": {"type": "Polygon", "coordinates": [ring]},
                    }
                )
        return {"type": "FeatureCollection", "features": features}


def place_on_grid(scene: Scene) -> tuple[str, int, int]:
    """The scene's group, and its first row and column on the group's pixel grid.

    North-up scenes of one CRS and resolution whose pixels coincide share a group; any other scene is one by itself.
    """
    a, b, c, d, e, f = scene.transform
    if scene.crs is None or b or d or a <= 0 or e >= 0:
        return f"scene {scene.name}", 0, 0
    col, row = c / a, f / e
    shift = f"{round(col % 1 % 0.99, 1)}, {round(row % 1 % 0.99, 1)}"
    crs = hashlib.sha256(scene.crs.encode()).hexdigest()[:12]
    return f"crs {crs} pixel {a:.6g} x {-e:.6g} shift {shift}", round(row), round(col)


def rectangles_of(scenes: Sequence[Scene], config: SplitConfig) -> list[Rectangle]:
    """The user's regions on the groups' grids; holdout last, so that it wins.

    Raises:
        ConfigError: a region names no scene, or lies outside of it.
    """
    found: list[Rectangle] = []
    for field, fold in (("validation_regions", VALIDATION), ("holdout_regions", HOLDOUT)):
        for place, region in enumerate(getattr(config, field)):
            found += _rectangles(scenes, region, fold, f"data.split.{field}.{place}")
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


def assign_blocks(
    histograms: Mapping[Block, npt.NDArray[np.int64]], shares: Mapping[int, float], seed: int
) -> dict[Block, int]:
    """Deal blocks to folds so that each fold gets its share of the blocks of each class (iterative stratification).

    The blocks of the rarest class that is left are dealt first, each to the fold that wants that class most (Sechidis
    et al. 2011). The result depends on the blocks, the shares and the seed alone, not on the order of scenes.

    Args:
        histograms: labelled pixels per class of each block, int64 (K,).
        shares: fold -> share of the blocks; they sum to 1.
        seed: decides ties.
    """
    blocks = sorted(block for block, counts in histograms.items() if counts.any())
    order = [blocks[place] for place in np.random.default_rng(seed).permutation(len(blocks))]
    folds = [fold for fold, share in sorted(shares.items()) if share > 0]
    present = {block: histograms[block] > 0 for block in order}
    wanted = {fold: shares[fold] * np.sum([present[b] for b in order], axis=0) for fold in folds} if order else {}
    room = {fold: shares[fold] * len(order) for fold in folds}
    dealt: dict[Block, int] = {}
    while len(dealt) < len(order):
        left = [block for block in order if block not in dealt]
        counts = np.sum([present[block] for block in left], axis=0)
        rarest = int(np.where(counts > 0, counts, counts.max() + 1).argmin())
        for block in left:
            if not present[block][rarest]:
                continue
            fold = max(folds, key=lambda f: (round(wanted[f][rarest], 9), round(room[f], 9), -f))
            dealt[block] = fold
            wanted[fold] = wanted[fold] - present[block]
            room[fold] -= 1
    return dealt


def _any_within(mask: npt.NDArray[np.bool_], reach: int) -> npt.NDArray[np.bool_]:
    """Whether any pixel within ``reach`` rows and columns is set, for the interior that is ``reach`` from the edges."""
    size = 2 * reach + 1
    sums = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.int64)
    sums[1:, 1:] = mask.cumsum(0).cumsum(1)
    inside: npt.NDArray[np.bool_] = (
        sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    ) > 0
    return inside

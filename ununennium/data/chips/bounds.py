"""Bounds of training chips in a scene."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ununennium.data.chips.index import CELL, ChipIndex
from ununennium.data.splits.splits import TRAIN


def bounds_per_scene(index: ChipIndex) -> list[tuple[int, int, int, int]]:
    """Rows and columns of each scene that its training cells span: chips stay within them where they fit."""
    bounds = []
    for scene_index, scene in enumerate(index.scenes):
        corners = index.cells.places[index.cells.places[:, 0] == scene_index, 1:]
        if not len(corners):
            bounds.append((0, scene.height, 0, scene.width))
            continue
        top, left = corners.min(0).tolist()
        bottom, right = np.minimum(corners.max(0) + CELL, (scene.height, scene.width)).tolist()
        bounds.append(_trim(index, scene_index, top, bottom, left, right))
    return bounds


def _trim(
    index: ChipIndex, scene_index: int, top: int, bottom: int, left: int, right: int
) -> tuple[int, int, int, int]:
    """The rectangle without outer rows and columns that hold no training pixel: cells reach over the fold's edge."""
    scene = index.scenes[scene_index]

    def trains(row: int, col: int, height: int, width: int) -> npt.NDArray[np.bool_]:
        mask: npt.NDArray[np.bool_] = index.split.folds(scene, row, col, height, width) == TRAIN
        return mask

    rows = range(top, bottom)
    cols = range(left, right)
    first = next(row for row in rows if trains(row, left, 1, right - left).any())
    last = next(row for row in reversed(rows) if trains(row, left, 1, right - left).any())
    west = next(col for col in cols if trains(top, col, bottom - top, 1).any())
    east = next(col for col in reversed(cols) if trains(top, col, bottom - top, 1).any())
    return first, last + 1, west, east + 1


def first_of_chip(centre: int, size: int, low: int, high: int, length: int) -> int:
    """First row or column of a chip around ``centre``: within [low, high) if it fits, within the scene anyway."""
    first = min(max(centre - size // 2, low), high - size) if high - low >= size else (low + high - size) // 2
    return min(max(first, 0), length - size)

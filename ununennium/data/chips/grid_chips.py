"""Chips on a regular grid, for validation: each pixel of the fold once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.data.chips.dataset import ChipDataset
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.memory import DecodedCache
from ununennium.data.chips.regions import Window
from ununennium.data.chips.statistics import BandStatistics
from ununennium.errors import DataError


class GridChips(ChipDataset):
    """Chips on a grid over one fold; over all chips, each labelled pixel of the fold is in one target exactly once.

    Chips see the whole image around the fold. At a scene's far edges a chip moves inward, and its target leaves out
    what the chip before has.

    Args:
        index: index of scenes and labels.
        statistics: for the normalisation.
        chip_size: side of a chip.
        fold: VALIDATION or HOLDOUT (or TRAIN).
        cache: of decoded regions.
        raw: do not normalise: ``DeviceTransform`` will.
    """

    def __init__(
        self,
        index: ChipIndex,
        statistics: BandStatistics,
        *,
        chip_size: int,
        fold: int,
        cache: DecodedCache | None = None,
        raw: bool = False,
    ) -> None:
        super().__init__(index, statistics, chip_size, 0, cache, raw)
        self.fold = fold
        self._chips: list[tuple[Window, int, int]] = []
        for scene_index in range(len(index.scenes)):
            self._chips += self._chips_of(scene_index)
        if not self._chips and index.task.least_labelled:
            raise DataError(
                f"no patch of {chip_size} pixels lies by half in the fold; lower data.chip_size or raise "
                "data.split.block_size"
            )

    def __len__(self) -> int:
        return len(self._chips)

    def _chips_of(self, scene_index: int) -> list[tuple[Window, int, int]]:
        """The chips of a scene, region after region: a window to decode, and the chip's place on the grid."""
        scene, size = self.index.scenes[scene_index], self.chip_size
        height, width = (max(1, int(side) // size) * size for side in self.regions.shapes[scene_index])
        found = []
        for top in range(0, scene.height, height):
            for left in range(0, scene.width, width):
                bottom, right = min(top + height, scene.height), min(left + width, scene.width)
                first_row, first_col = min(top, scene.height - size), min(left, scene.width - size)
                window = Window(scene_index, first_row, first_col, bottom - first_row, right - first_col)
                found += [
                    (window, row, col)
                    for row in range(top, bottom, size)
                    for col in range(left, right, size)
                    if self._is_judged(scene_index, row, col)
                ]
        return found

    def _is_judged(self, scene_index: int, row: int, col: int) -> bool:
        window = row, col, self.chip_size, self.chip_size
        mine = self.index.split.folds(self.index.scenes[scene_index], *window) == self.fold
        enough = mine.sum() >= max(1, self.index.task.least_labelled * mine.size)
        return bool(enough and self.index.is_labelled(self.targets[scene_index].read(*window)[mine]).any())

    def place_of(self, key: int) -> tuple[int, int, int]:
        """Number of the scene, first row and first column of a chip."""
        window, row, col = self._chips[key]
        scene = self.index.scenes[window.scene_index]
        return window.scene_index, min(row, scene.height - self.chip_size), min(col, scene.width - self.chip_size)

    def _fill(self, key: int, image: npt.NDArray[Any], target: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> bool:
        window, row, col = self._chips[key]
        size = self.chip_size
        _, first_row, first_col = self.place_of(key)
        decoded = self._decoded(window, self.fold)
        top, left = first_row - window.row, first_col - window.col
        part = ..., slice(top, top + size), slice(left, left + size)
        is_valid = None if decoded.is_valid is None else decoded.is_valid[part]
        self._fill_raw((decoded.pixels[part], is_valid, decoded.target[part]), image, target, valid)
        target[: row - first_row] = self.index.fill  # the chip before has these
        target[:, : col - first_col] = self.index.fill
        if not self.raw:
            self._normalise(image, is_valid)
        return is_valid is None

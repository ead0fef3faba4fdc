"""Chips: random ones to train on, and a grid of them to validate."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ununennium.config import AugmentConfig
from ununennium.data.index import CELL, ChipIndex
from ununennium.data.labels import LabelReader
from ununennium.data.reader import SceneReader
from ununennium.data.splits import TRAIN
from ununennium.data.statistics import BandStatistics, normalise
from ununennium.data.transforms import augment
from ununennium.errors import DataError
from ununennium.tasks import TargetReader

_ANY = -1  # instead of a class


class _Chips:
    """What both kinds of chips share: readers of all scenes, and statistics."""

    def __init__(self, index: ChipIndex, statistics: BandStatistics, chip_size: int) -> None:
        if len(statistics.mean) != len(index.bands):
            raise DataError(f"statistics of {len(statistics.mean)} bands do not fit {len(index.bands)} bands")
        self.index = index
        self.statistics = statistics
        self.chip_size = chip_size
        self.readers: list[SceneReader] = [index.reader(scene) for scene in index.scenes]
        self.labels: list[LabelReader] = [index.labels(scene) for scene in index.scenes]
        self.targets: list[TargetReader] = [index.targets(scene) for scene in index.scenes]


class TrainingChips(_Chips, Dataset[tuple[Tensor, Tensor]]):
    """Random chips of the training fold; chip ``(epoch, i)`` is a function of (seed, epoch, i) alone.

    A share ``class_balance`` of the chips is centred on a pixel of a class that is drawn evenly among all but the most
    common one; the others lie anywhere. A chip shows no pixel of another fold: those are invalid, hence 0, and
    whatever does not train is ``ignore_index`` in the target.

    Args:
        index: where the labels are.
        statistics: for the normalisation.
        chip_size: side of a chip.
        seed: of the chips' places and augmentation.
        class_balance: share of class-centred chips.
        augmentation: which changes are made.

    Raises:
        DataError: no pixel trains.
    """

    def __init__(
        self,
        index: ChipIndex,
        statistics: BandStatistics,
        *,
        chip_size: int,
        seed: int,
        class_balance: float = 0.5,
        augmentation: AugmentConfig | None = None,
    ) -> None:
        super().__init__(index, statistics, chip_size)
        self.seed = seed
        self.class_balance = class_balance
        self.augmentation = augmentation or AugmentConfig()
        if not len(index.cells):
            raise DataError("no labelled pixel trains; see data.split")
        counts = index.cells.counts
        # A pixel of a class (the last row: of any) is drawn by its rank among all cells; int64 (classes + 1, cells).
        self._cumulative = np.ascontiguousarray(np.column_stack((counts, counts.sum(1))).cumsum(0).T)
        totals = counts.sum(0)
        present = np.flatnonzero(totals)
        self._rare = present[present != totals.argmax()] if len(present) > 1 else present
        self._bounds = _bounds_per_scene(index)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Image float32 (bands, size, size), and target (size, size) of chip ``key = (epoch, i)``.

        The target is int64, or float32 for a regression.
        """
        rng = np.random.default_rng([self.seed, *key])
        place, row, col = self._draw(rng)
        scene, size = self.index.scenes[place], self.chip_size
        image, valid = self.readers[place].read(row, col, size, size)
        folds = self.index.split.folds(scene, row, col, size, size)
        valid &= folds <= TRAIN  # the buffer may be seen, validation and holdout may not
        target = self.targets[place].read(row, col, size, size)
        target[(folds != TRAIN) | ~valid] = self.index.fill
        image = normalise(image, valid, self.statistics)
        image, target = augment(image, valid, target, self.augmentation, rng)
        return torch.from_numpy(self.index.arrange(image)), torch.from_numpy(target)

    def _draw(self, rng: np.random.Generator) -> tuple[int, int, int]:
        """Scene, first row and first column of a chip."""
        wanted = int(rng.choice(self._rare)) if rng.random() < self.class_balance else _ANY
        cumulative = self._cumulative[wanted]
        rank = int(rng.integers(cumulative[-1]))
        number = int(np.searchsorted(cumulative, rank, side="right"))
        place, row, col = self._pixel(number, wanted, rank - int(cumulative[number - 1] if number else 0))
        size, (top, bottom, left, right) = self.chip_size, self._bounds[place]
        scene = self.index.scenes[place]
        if wanted == _ANY:  # anywhere that holds the pixel, so that places at the edge are no rarer than others
            row, col = row + int(rng.integers(size)) - size // 2, col + int(rng.integers(size)) - size // 2
        return place, _first(row, size, top, bottom, scene.height), _first(col, size, left, right, scene.width)

    def _pixel(self, number: int, wanted: int, rank: int) -> tuple[int, int, int]:
        """Scene, row and column of the ``rank``-th training pixel of a class in a cell, in reading order."""
        place, row, col = self.index.cells.places[number].tolist()
        scene = self.index.scenes[place]
        window = row, col, min(CELL, scene.height - row), min(CELL, scene.width - col)
        labels = self.labels[place].read(*window)
        chosen = (self.index.split.folds(scene, *window) == TRAIN) & self.readers[place].read_valid(*window)
        chosen &= (labels == wanted) if wanted != _ANY else (labels != self.index.ignore_index)
        pixels = np.flatnonzero(chosen)
        if rank >= len(pixels):
            raise DataError(
                f"scene {scene.name!r} is not as it was indexed, at row {row}, column {col}; index it again"
            )
        pixel = int(pixels[rank])
        return place, row + pixel // window[3], col + pixel % window[3]


class GridChips(_Chips, Dataset[tuple[Tensor, Tensor]]):
    """Chips on a grid over one fold; over all chips, each labelled pixel of the fold is in one target exactly once.

    Chips see the whole image around the fold. At a scene's far edges a chip moves inward, and its target leaves out
    what the chip before has.

    Args:
        index: where the labels are.
        statistics: for the normalisation.
        chip_size: side of a chip.
        fold: VALIDATION or HOLDOUT (or TRAIN).
    """

    def __init__(self, index: ChipIndex, statistics: BandStatistics, *, chip_size: int, fold: int) -> None:
        super().__init__(index, statistics, chip_size)
        self.fold = fold
        self._chips: list[tuple[int, int, int]] = []
        for place, scene in enumerate(index.scenes):
            for row in range(0, scene.height, chip_size):
                for col in range(0, scene.width, chip_size):
                    if index.is_labelled(self._target(place, row, col)).any():
                        self._chips.append((place, row, col))

    def __len__(self) -> int:
        return len(self._chips)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        """Image float32 (bands, size, size), and target (size, size), int64, or float32 for a regression."""
        place, row, col = self._chips[number]
        scene, size = self.index.scenes[place], self.chip_size
        first_row, first_col = min(row, scene.height - size), min(col, scene.width - size)
        image, valid = self.readers[place].read(first_row, first_col, size, size)
        own = self._target(place, row, col)
        target = self.index.no_target(size, size)
        target[row - first_row :, col - first_col :] = own[: size - (row - first_row), : size - (col - first_col)]
        target[~valid] = self.index.fill
        image = self.index.arrange(normalise(image, valid, self.statistics))
        return torch.from_numpy(image), torch.from_numpy(target)

    def _target(self, place: int, row: int, col: int) -> npt.NDArray[Any]:
        window = row, col, self.chip_size, self.chip_size
        mine = self.index.split.folds(self.index.scenes[place], *window) == self.fold
        if not mine.any():
            return self.index.no_target(*mine.shape)
        target = self.targets[place].read(*window)
        target[~mine] = self.index.fill
        return target


def _bounds_per_scene(index: ChipIndex) -> list[tuple[int, int, int, int]]:
    """Rows and columns of each scene that its training cells span: chips stay within them where they fit."""
    bounds = []
    for place, scene in enumerate(index.scenes):
        corners = index.cells.places[index.cells.places[:, 0] == place, 1:]
        if not len(corners):
            bounds.append((0, scene.height, 0, scene.width))
            continue
        top, left = corners.min(0).tolist()
        bottom, right = np.minimum(corners.max(0) + CELL, (scene.height, scene.width)).tolist()
        bounds.append(_trim(index, place, top, bottom, left, right))
    return bounds


def _trim(index: ChipIndex, place: int, top: int, bottom: int, left: int, right: int) -> tuple[int, int, int, int]:
    """The rectangle without outer rows and columns that hold no training pixel: cells reach over the fold's edge."""
    scene = index.scenes[place]

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


def _first(centre: int, size: int, low: int, high: int, length: int) -> int:
    """First row or column of a chip around ``centre``: within [low, high) if it fits, within the scene anyway."""
    first = min(max(centre - size // 2, low), high - size) if high - low >= size else (low + high - size) // 2
    return min(max(first, 0), length - size)

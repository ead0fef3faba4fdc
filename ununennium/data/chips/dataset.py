"""Chips: random ones to train on, and a grid of them to validate."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ununennium.config import AugmentConfig
from ununennium.data.chips.bounds import bounds_per_scene, first_of_chip
from ununennium.data.chips.index import CELL, ChipIndex
from ununennium.data.chips.memory import Buffers, Decoded, DecodedCache
from ununennium.data.chips.randomness import generator
from ununennium.data.chips.regions import IntArray, Regions, Window
from ununennium.data.chips.statistics import BandStatistics
from ununennium.data.chips.transforms import apply_own, drop_bands, shade, turn, zoom
from ununennium.data.scenes.raster import GDAL_REGION_CACHE_BYTES
from ununennium.data.scenes.reader import SceneReader
from ununennium.data.splits.splits import TRAIN
from ununennium.data.targets.targets import TargetReader
from ununennium.errors import DataError
from ununennium.importing import instantiate

CACHE_BYTES = 256 * 2**20
"""Memory for decoded data of a dataset of its own; ``data.cache_mb`` says it for those of a run."""
_STRIP = 256

Pair = tuple[Tensor, Tensor]


Batch = Pair | dict[str, Tensor]


class Samples(list[Batch]):
    """The chips of a batch, as views of the tensors that are the batch already.

    Attributes:
        batch: images (B, channels, size, size), and targets (B, size, size); of raw chips a mapping with ``image``,
            ``target`` and, unless everything is valid, ``valid``.
    """

    batch: Batch


def as_batch(samples: Samples) -> Batch:
    """The batch that ``samples`` are views of: a loader's ``collate_fn`` that copies nothing."""
    return samples.batch


class ChipDataset(Dataset[Batch], ABC):
    """Base of both kinds of chips: readers of all scenes, what they decoded, and statistics."""

    def __init__(
        self,
        index: ChipIndex,
        statistics: BandStatistics,
        chip_size: int,
        seed: int,
        cache: DecodedCache | None,
        raw: bool,
    ) -> None:
        if len(statistics.mean) != len(index.bands):
            raise DataError(f"statistics of {len(statistics.mean)} bands do not fit {len(index.bands)} bands")
        self.index = index
        self.statistics = statistics
        self.chip_size = chip_size
        self.readers: list[SceneReader] = [index.reader(scene) for scene in index.scenes]
        self.targets: list[TargetReader] = [index.targets(scene) for scene in index.scenes]
        self._mean, self._std, self._log_floor = (
            np.asarray(values * index.num_dates, np.float32)[:, None, None]  # a band has the same at every date
            for values in (statistics.mean, statistics.std, statistics.log_floor)
        )
        self._target_dtype = np.dtype(index.task.target_dtype)
        if self._target_dtype.kind == "i":  # class numbers are kept in what is wide enough for them
            self._target_dtype = np.promote_types(
                np.min_scalar_type(index.ignore_index), np.min_scalar_type(len(index.classes))
            )
        self._cache = DecodedCache(CACHE_BYTES) if cache is None else cache
        self.raw = raw
        square = chip_size, chip_size
        image_dtype = np.result_type(*(reader.dtype for reader in self.readers)) if raw else np.dtype(np.float32)
        self._buffers = Buffers(
            ((len(self._mean), *square), image_dtype),
            (square, self._target_dtype if raw else index.task.target_dtype),
            (square, np.bool_),
        )
        per_pixel = [
            reader.num_channels * reader.dtype.itemsize + 1 + self._target_dtype.itemsize for reader in self.readers
        ]
        self.regions = Regions(index.scenes, per_pixel, chip_size, self._cache.budget_bytes, seed)

    def __getitems__(self, keys: Sequence[Any]) -> Samples:
        """The chips of a batch; ``as_batch`` takes them as they are, any other ``collate_fn`` one by one."""
        images, targets, valid = self._buffers.take(len(keys))
        all_valid = True
        with np.errstate(invalid="ignore", over="ignore"):  # of pixels that are not valid
            for key, image, target, mask in zip(keys, images, targets, valid, strict=True):
                all_valid &= self._fill(key, image, target, mask)
        samples = Samples()
        if self.raw:
            raw = {"image": torch.from_numpy(images), "target": torch.from_numpy(targets)}
            samples.batch = raw if all_valid else {**raw, "valid": torch.from_numpy(valid)}
            samples.extend(
                {name: part[scene_index] for name, part in samples.batch.items()} for scene_index in range(len(keys))
            )
        else:
            samples.batch = torch.from_numpy(self.index.arrange(images)), torch.from_numpy(targets)
            samples.extend(zip(*samples.batch, strict=True))
        return samples

    def __getitem__(self, key: Any) -> Batch:
        """Image float32 (channels, size, size) or, stacked, (dates, bands, size, size), and target (size, size).

        Of raw chips a mapping: ``image`` in the file's dtype, always (channels, size, size), ``target`` in the smallest
        integer type that will do, and ``valid``, bool (size, size), where not everything is valid.
        """
        return self.__getitems__([key])[0]

    @abstractmethod
    def _fill(self, key: Any, image: npt.NDArray[Any], target: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> bool:
        """Write a chip into the parts of a batch (``valid`` of raw chips only); returns whether all of it is valid."""

    def _fill_raw(
        self,
        parts: Sequence[npt.NDArray[Any] | None],
        image: npt.NDArray[Any],
        target: npt.NDArray[Any],
        valid: npt.NDArray[np.bool_],
    ) -> bool:
        pixels, is_valid, labels = parts
        image[...] = pixels
        target[...] = labels
        valid[...] = True if is_valid is None else is_valid
        return is_valid is None or bool(is_valid.all())

    def _decoded(self, window: Window, fold: int | None) -> Decoded:
        """A window's pixels and targets: of training if ``fold`` is None, or of that fold."""
        key = (fold, window)
        return self._cache.get(key, self.regions.num_bytes(window), lambda: self._decode(window, fold))

    def _decode(self, window: Window, fold: int | None) -> Decoded:
        scene_index, left, width = window.scene_index, window.col, window.width
        scene = self.index.scenes[scene_index]
        pixels, is_valid = self.readers[scene_index].decode(
            window.row, left, window.height, width, cache_bytes=GDAL_REGION_CACHE_BYTES
        )
        target = np.empty(is_valid.shape, self._target_dtype)
        for first in range(0, window.height, _STRIP):
            rows = slice(first, min(first + _STRIP, window.height))
            top, height = window.row + first, rows.stop - first
            labels = self.targets[scene_index].read(top, left, height, width)
            folds = self.index.split.folds(scene, top, left, height, width)
            labels[(folds != (TRAIN if fold is None else fold)) | ~is_valid[rows]] = self.index.fill
            target[rows] = labels
            if fold is None:
                is_valid[rows] &= folds <= TRAIN  # the buffer may be seen, validation and holdout may not
        return Decoded(pixels, None if is_valid.all() else is_valid, target)

    def _normalise(self, image: npt.NDArray[np.float32], is_valid: npt.NDArray[np.bool_] | None) -> None:
        """As ``statistics.normalise``, in place."""
        if len(self._log_floor):
            np.log(np.maximum(image, self._log_floor, out=image), out=image)
        image -= self._mean
        image /= self._std
        if is_valid is not None:
            np.copyto(image, 0.0, where=~is_valid)


class Plan(NamedTuple):
    """Positions of an epoch's chips, before a pixel is read; each array has an item per chip.

    Attributes:
        wanted: int64, the class whose pixels are drawn from; the number of classes for any.
        cells: int64, the place of a cell in the index.
        ranks: int64, the number of a pixel among those of the class in the cell.
        regions: int64, the region that the cell lies in.
    """

    wanted: IntArray
    cells: IntArray
    ranks: IntArray
    regions: IntArray


class TrainingChips(ChipDataset):
    """Random chips of the training fold; chip ``(epoch, i)`` is a function of (seed, epoch, i) alone.

    A share ``class_balance`` of the chips is centred on a pixel of a class that is drawn evenly among all but the most
    common one; the others lie anywhere. A chip shows no pixel of another fold: those are invalid, hence 0, and
    whatever does not train is ``ignore_index`` in the target, or NaN of a regression.

    Args:
        index: index of scenes and labels.
        statistics: for the normalisation.
        chip_size: side of a chip.
        num_chips: chips per epoch.
        seed: of the chips' places and augmentation.
        class_balance: share of class-centred chips.
        augmentation: augmentations to apply.
        cache: of decoded regions; its budget decides how large they are.
        raw: neither normalise nor augment: ``DeviceTransform`` will.

    Raises:
        DataError: no pixel trains.
        ConfigError: a chip alone is larger than the cache.
    """

    def __init__(
        self,
        index: ChipIndex,
        statistics: BandStatistics,
        *,
        chip_size: int,
        num_chips: int,
        seed: int,
        class_balance: float = 0.5,
        augmentation: AugmentConfig | None = None,
        cache: DecodedCache | None = None,
        raw: bool = False,
    ) -> None:
        super().__init__(index, statistics, chip_size, seed, cache, raw)
        self.num_chips = num_chips
        self.seed = seed
        self.class_balance = class_balance
        self.augmentation = augmentation or AugmentConfig()
        own = self.augmentation.transform
        self._own = None if own is None else instantiate(own.target, own.kwargs, field="data.augment.transform")
        if not len(index.cells):
            raise DataError("no labelled pixel trains; see data.split")
        counts = index.cells.counts
        # A pixel of a class (the last row: of any) is drawn by its rank among all cells; int64 (classes + 1, cells).
        self._cumulative = np.ascontiguousarray(np.column_stack((counts, counts.sum(1))).cumsum(0).T)
        totals = counts.sum(0)
        present = np.flatnonzero(totals)
        self._rare = present[present != totals.argmax()] if len(present) > 1 else present
        self._bounds = bounds_per_scene(index)
        self._planned: tuple[int, Plan] | None = None
        # Columns are read twice as fast where rows do not begin a power of two of bytes apart.
        padded = np.empty((len(self._mean), chip_size, chip_size + 16), np.float32)
        self._scratch = padded[..., :chip_size]

    def __len__(self) -> int:
        return self.num_chips

    def plan(self, epoch: int) -> Plan:
        """Positions of an epoch's chips."""
        if self._planned is None or self._planned[0] != epoch:
            self._planned = epoch, self._plan(epoch)
        return self._planned[1]

    def chip_regions(self, epoch: int) -> IntArray:
        """The region of each chip of an epoch, int64 (num_chips,)."""
        return self.plan(epoch).regions

    def _plan(self, epoch: int) -> Plan:
        balance, choice, rank = (
            generator(stream, self.seed, epoch).random(self.num_chips) for stream in ("balance", "class", "rank")
        )
        rare = self._rare[(choice * len(self._rare)).astype(np.int64)]
        wanted = np.where(balance < self.class_balance, rare, len(self.index.classes))
        ranks = (rank * self._cumulative[wanted, -1]).astype(np.int64)
        cells = np.empty_like(ranks)
        for value in np.unique(wanted):
            its = wanted == value
            cells[its] = np.searchsorted(self._cumulative[value], ranks[its], side="right")
        ranks -= np.where(cells > 0, self._cumulative[wanted, cells - 1], 0)
        return Plan(wanted, cells, ranks, self.regions.of(self.index.cells.places[cells], epoch))

    def _fill(
        self, key: tuple[int, int], image: npt.NDArray[Any], target: npt.NDArray[Any], valid: npt.NDArray[np.bool_]
    ) -> bool:
        epoch, number = key
        window = self.regions.window(int(self.plan(epoch).regions[number]), epoch)
        decoded = self._decoded(window, None)
        rng = generator("chip", self.seed, epoch, number)
        row, col = self._draw(key, window, decoded, rng)
        part = ..., slice(row - window.row, None), slice(col - window.col, None)
        size = slice(self.chip_size)
        if self.raw:
            parts = [None if array is None else array[part][..., size, size] for array in decoded]
            return self._fill_raw(parts, image, target, valid)
        arrays = [array[part][..., size, size] for array in decoded if array is not None]
        if self.augmentation.quarter_turns:
            self._scratch[...] = arrays[0]
            arrays[0] = self._scratch
        pixels, *masks, labels = turn(arrays, self.augmentation, rng)
        image[...] = pixels
        target[...] = labels
        mask = masks[0] if masks else None
        self._normalise(image, mask)
        mask = zoom(image, mask, target, self.index.fill, self.augmentation, rng)
        shade(image, mask, self.augmentation, rng)
        drop_bands(image.reshape(self.index.num_dates, -1, *image.shape[1:]), self.augmentation, rng)
        if self._own is not None:
            apply_own(self._own, image, mask, target, rng)
        return mask is None

    def _draw(
        self, key: tuple[int, int], window: Window, decoded: Decoded, rng: np.random.Generator
    ) -> tuple[int, int]:
        """First row and first column of a chip in its scene."""
        row, col, anywhere = self._pixel(key, window, decoded)
        size, scene_index = self.chip_size, window.scene_index
        scene, (top, bottom, left, right) = self.index.scenes[scene_index], self._bounds[scene_index]
        if anywhere:  # anywhere that holds the pixel, so that places at the edge are no rarer than others
            row, col = row + int(rng.integers(size)) - size // 2, col + int(rng.integers(size)) - size // 2
        row = first_of_chip(row, size, top, bottom, scene.height)
        col = first_of_chip(col, size, left, right, scene.width)
        return (
            min(max(row, window.row), window.row + window.height - size),
            min(max(col, window.col), window.col + window.width - size),
        )

    def _pixel(self, key: tuple[int, int], window: Window, decoded: Decoded) -> tuple[int, int, bool]:
        """Row and column of the pixel that a chip is drawn by, and whether the chip lies anywhere around it."""
        plan, number = self.plan(key[0]), key[1]
        wanted, rank = int(plan.wanted[number]), int(plan.ranks[number])
        _, row, col = self.index.cells.places[plan.cells[number]].tolist()
        top, left = row - window.row, col - window.col
        labels = decoded.target[top : top + CELL, left : left + CELL]
        anywhere = wanted == len(self.index.classes)
        pixels = np.flatnonzero(self.index.is_labelled(labels, None if anywhere else wanted))
        if rank >= len(pixels):
            raise DataError(
                f"scene {self.index.scenes[window.scene_index].name!r} is not as it was indexed, at row {row}, "
                f"column {col}; index it again"
            )
        down, right = divmod(int(pixels[rank]), labels.shape[1])
        return row + down, col + right, anywhere

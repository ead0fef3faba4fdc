"""Fingerprint of training data: the facts by which ``ununennium.discover.recipe`` chooses the settings of a run."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.statistics import BandStatistics
from ununennium.data.splits.splits import TRAIN

_MOST_PIXELS = 4_000_000
"""Label pixels that are looked at for the size of objects."""


@dataclass(frozen=True)
class Fingerprint:
    """Facts of the training data and of the machine.

    Attributes:
        task: name of the task.
        classes: class names.
        class_pixels: labelled training pixels of each class.
        object_px: median width of the objects of all classes but the commonest, in pixels, along rows and columns; None
            if unknown.
        in_channels: bands, times dates.
        smallest_side: of all scenes, in pixels.
        block_size: side of the split's blocks, in pixels.
        skew: of each band's range, the part above the median over the part below it (2nd to 98th percentile); the
            median over bands.
        is_positive: every band's 2nd percentile is above 0.
        num_pixels: pixels of all scenes.
        cores: CPU cores of this machine.
        has_gpu: whether PyTorch finds a CUDA device.
        steps_in_budget: optimizer steps that fit the time that the user gives; None without one.
    """

    task: str
    classes: tuple[str, ...]
    class_pixels: tuple[int, ...]
    object_px: float | None
    in_channels: int
    smallest_side: int
    block_size: int
    skew: float
    is_positive: bool
    num_pixels: int
    cores: int
    has_gpu: bool
    steps_in_budget: int | None = None

    @property
    def training_pixels(self) -> int:
        """Labelled pixels of the training fold."""
        return sum(self.class_pixels)

    @property
    def shares(self) -> dict[str, float]:
        """Share of each class that has training pixels."""
        return {
            name: count / self.training_pixels
            for name, count in zip(self.classes, self.class_pixels, strict=True)
            if count
        }

    @property
    def rarest(self) -> str:
        """Class with the fewest training pixels, of those that have some."""
        return min(self.shares, key=lambda name: self.shares[name])


def fingerprint_of(index: ChipIndex, statistics: BandStatistics) -> Fingerprint:
    """Fingerprint of indexed data, on this machine.

    Args:
        index: index of the scenes, with its split.
        statistics: of the training fold, linear.
    """
    from torch import cuda

    low, middle, high = (np.asarray(statistics.percentiles[name]) for name in ("p2", "p50", "p98"))
    below, above = np.maximum(middle - low, 1e-12), high - middle
    counts = index.labelled["train"]
    rarer = [number for number in range(len(counts)) if number != int(np.argmax(counts))]
    return Fingerprint(
        task=index.task.name,
        classes=tuple(index.classes),
        class_pixels=tuple(counts),
        object_px=_object_width(index, rarer) if index.task.kind == "classes" else None,
        in_channels=index.in_channels,
        smallest_side=min(min(scene.height, scene.width) for scene in index.scenes),
        block_size=index.split.block_size,
        skew=float(np.median(above / below)),
        is_positive=bool((low > 0).all()),
        num_pixels=sum(scene.height * scene.width for scene in index.scenes),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        has_gpu=cuda.is_available(),
    )


def run_lengths(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Lengths of the runs of true pixels along the rows of ``mask`` (rows, columns)."""
    edges = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(np.int8).ravel())
    return np.flatnonzero(edges == -1) - np.flatnonzero(edges == 1)


def _object_width(index: ChipIndex, numbers: Sequence[int]) -> float | None:
    """Median width of what is labelled as one of the classes, weighted by pixels so that specks do not decide."""
    lengths = [np.concatenate([run_lengths(mask), run_lengths(mask.T)]) for mask in _masks(index, numbers)]
    every = np.sort(np.concatenate(lengths)) if lengths else np.empty(0, np.int64)
    if not len(every):
        return None
    by_pixels = np.cumsum(every)
    return float(every[np.searchsorted(by_pixels, by_pixels[-1] / 2)])


def _masks(index: ChipIndex, numbers: Sequence[int]) -> Iterator[npt.NDArray[np.bool_]]:
    """Training pixels of each class, strip by strip, until enough were looked at."""
    seen = 0
    for scene in index.scenes:
        labels = index.labels(scene)
        rows = max(1, min(scene.height, _MOST_PIXELS // scene.width))
        for row in range(0, scene.height, rows):
            window = row, 0, min(rows, scene.height - row), scene.width
            found, training = labels.read(*window), index.split.folds(scene, *window) == TRAIN
            yield from (mask for number in numbers if (mask := (found == number) & training).any())
            seen += found.size
            if seen >= _MOST_PIXELS:
                return

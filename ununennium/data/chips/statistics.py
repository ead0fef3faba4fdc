"""Statistics per band of the training pixels alone, and the normalisation that uses them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.percentiles import Histogram
from ununennium.data.scenes.reader import BoolArray, FloatArray
from ununennium.data.splits.splits import TRAIN
from ununennium.errors import ConfigError, DataError

PERCENTILES = (2.0, 50.0, 98.0)

_EXACT = {"uint8", "int8", "uint16", "int16"}
_LOG_FLOOR = 0.5
"""Share of the 2nd percentile below which values are cut before their logarithm: dead pixels would dominate it."""


@dataclass(frozen=True)
class BandStatistics:
    """Per-band statistics of valid training pixels.

    Attributes:
        mean: of each band, in the model's order; of the logarithm of its values where there is a ``log_floor``.
        std: standard deviation of each band, of what ``mean`` is of; 1 for a constant band, which then is 0 after
            normalisation.
        num_pixels: valid training pixels they were computed from.
        minimum: of each band.
        maximum: of each band.
        percentiles: ``p2``, ``p50`` and ``p98`` of each band: exact for whole numbers of up to 16 bits, else within
            0.025 % of the value (``data.chips.percentiles``). Empty, like minimum and maximum, where unknown.
        log_floor: smallest value of each band whose logarithm is taken, lower ones are raised to it; empty where values
            are standardised as they are.
    """

    mean: list[float]
    std: list[float]
    num_pixels: int
    minimum: list[float] = field(default_factory=list)
    maximum: list[float] = field(default_factory=list)
    percentiles: dict[str, list[float]] = field(default_factory=dict)
    log_floor: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All that is known, as JSON takes it; ``log_floor`` only where there is one, as earlier versions wrote it."""
        return {name: value for name, value in asdict(self).items() if name != "log_floor" or value}

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        Path(path).write_text(self.to_text(), encoding="utf-8")

    def to_text(self) -> str:
        """As JSON."""
        return json.dumps(self.to_json(), indent=2) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> BandStatistics:
        """The inverse of ``save``."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


def compute_statistics(index: ChipIndex) -> BandStatistics:
    """Statistics of the valid pixels of the training fold, in a streaming pass over strips, or two for ``log``.

    Means and squared deviations of strips are merged in float64 (Chan et al. 1979), which loses nothing to large
    offsets; percentiles come from histograms.

    Args:
        index: index of the scenes, whose ``transform`` applies.

    Raises:
        DataError: the training fold has no valid pixel.
        ConfigError: ``log`` of a band with many values of 0 or less.
    """
    exact = all(str(index.reader(scene).dtype) in _EXACT for scene in index.scenes)
    num_bands = len(index.bands)
    histograms = [Histogram(exact=exact) for _ in range(num_bands)]
    moments = _Moments(num_bands)
    minimum, maximum = np.full(num_bands, np.inf), np.full(num_bands, -np.inf)
    for values in _training_pixels(index):
        for histogram, band in zip(histograms, values, strict=True):
            histogram.add(band)
        minimum, maximum = np.minimum(minimum, values.min(1)), np.maximum(maximum, values.max(1))
        moments.add(values)
    if not moments.count:
        raise DataError("the training fold has no valid pixel; check data.nodata and data.split")
    found = np.clip(
        [histogram.percentiles(PERCENTILES) for histogram in histograms], minimum[:, None], maximum[:, None]
    )
    floor = _log_floor(index, found[:, 0]) if index.transform == "log" else None
    if floor is not None:
        moments = _Moments(num_bands)
        for values in _training_pixels(index):
            moments.add(np.log(np.maximum(values, floor[:, None])))
    return BandStatistics(
        moments.mean.tolist(),
        moments.std().tolist(),
        moments.count,
        minimum.tolist(),
        maximum.tolist(),
        {f"p{share:g}": values.tolist() for share, values in zip(PERCENTILES, found.T, strict=True)},
        [] if floor is None else floor.tolist(),
    )


class _Moments:
    """Mean and squared deviations of each band, merged chunk by chunk."""

    def __init__(self, num_bands: int) -> None:
        self.count, self.mean, self._squares = 0, np.zeros(num_bands), np.zeros(num_bands)

    def add(self, values: FloatArray) -> None:
        """Merge values (bands, number)."""
        number = values.shape[1]
        pixels = values.astype(np.float64)
        its_mean = pixels.mean(1)
        delta = its_mean - self.mean
        total = self.count + number
        self._squares += ((pixels - its_mean[:, None]) ** 2).sum(1) + delta**2 * self.count * number / total
        self.mean += delta * number / total
        self.count = total

    def std(self) -> npt.NDArray[np.float64]:
        """Standard deviation of each band; 1 for a constant one."""
        std = np.sqrt(self._squares / self.count)
        return np.where(std > 0, std, 1.0)


def _training_pixels(index: ChipIndex) -> Iterator[FloatArray]:
    """Valid pixels of the training fold, (bands, number) of a strip; a band's pixels of all dates count alike."""
    num_bands = len(index.bands)
    for scene in index.scenes:
        reader = index.reader(scene)
        for row, height in reader.strips():
            used = index.split.folds(scene, row, 0, height, scene.width) == TRAIN
            if not used.any():
                continue
            image, valid = reader.read(row, 0, height, scene.width)
            by_date = image[:, used & valid].reshape(scene.num_dates, num_bands, -1)
            if by_date.shape[2]:
                yield by_date.swapaxes(0, 1).reshape(num_bands, -1)


def _log_floor(index: ChipIndex, low: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    for band, value in zip(index.bands, low, strict=True):
        if value <= 0:
            raise ConfigError(
                "data.transform", "log", f"band {band} has values of 0 or less (2nd percentile {value:g}); give linear"
            )
    return _LOG_FLOOR * low


def normalise(image: FloatArray, valid: BoolArray, statistics: BandStatistics) -> FloatArray:
    """``(image - mean) / std`` per band, of its logarithm where the statistics have a ``log_floor``; 0 where invalid.

    Args:
        image: float32 (bands, height, width), or (dates x bands, height, width).
        valid: bool (height, width).
        statistics: of as many bands; those of a band are the same at every date.
    """
    num_dates = len(image) // len(statistics.mean)
    mean = np.asarray(statistics.mean * num_dates, np.float32)[:, None, None]
    std = np.asarray(statistics.std * num_dates, np.float32)[:, None, None]
    if statistics.log_floor:
        image = np.log(np.maximum(image, np.asarray(statistics.log_floor * num_dates, np.float32)[:, None, None]))
    scaled: FloatArray = (image - mean) / std
    scaled[:, ~valid] = 0.0
    return scaled

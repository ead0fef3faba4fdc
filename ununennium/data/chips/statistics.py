"""Statistics per band of the training pixels alone, and the normalisation that uses them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.percentiles import Histogram
from ununennium.data.scenes.reader import BoolArray, FloatArray
from ununennium.data.splits.splits import TRAIN
from ununennium.errors import DataError

PERCENTILES = (2.0, 50.0, 98.0)

_EXACT = {"uint8", "int8", "uint16", "int16"}


@dataclass(frozen=True)
class BandStatistics:
    """Per-band statistics of valid training pixels.

    Attributes:
        mean: of each band, in the model's order.
        std: standard deviation of each band; 1 for a constant band, which then is 0 after normalisation.
        num_pixels: valid training pixels they were computed from.
        minimum: of each band.
        maximum: of each band.
        percentiles: ``p2``, ``p50`` and ``p98`` of each band: exact for whole numbers of up to 16 bits, else within
            0.025 % of the value (``data.chips.percentiles``). Empty, like minimum and maximum, where unknown.
    """

    mean: list[float]
    std: list[float]
    num_pixels: int
    minimum: list[float] = field(default_factory=list)
    maximum: list[float] = field(default_factory=list)
    percentiles: dict[str, list[float]] = field(default_factory=dict)

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        Path(path).write_text(self.to_text(), encoding="utf-8")

    def to_text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def load(cls, path: str | Path) -> BandStatistics:
        """The inverse of ``save``."""
        return cls(**json.loads(Path(path).read_text(encoding="utf-8")))


def compute_statistics(index: ChipIndex) -> BandStatistics:
    """Statistics of the valid pixels of the training fold, in one streaming pass over strips.

    Means and squared deviations of strips are merged in float64 (Chan et al. 1979), which loses nothing to large
    offsets; percentiles come from histograms.

    Raises:
        DataError: the training fold has no valid pixel.
    """
    readers = [index.reader(scene) for scene in index.scenes]
    num_bands = len(index.bands)
    exact = all(str(reader.dtype) in _EXACT for reader in readers)
    histograms = [Histogram(exact=exact) for _ in range(num_bands)]
    count, mean, squares = 0, np.zeros(num_bands), np.zeros(num_bands)
    minimum, maximum = np.full(num_bands, np.inf), np.full(num_bands, -np.inf)
    for reader in readers:
        scene = reader.scene
        for row, height in reader.strips():
            used = index.split.folds(scene, row, 0, height, scene.width) == TRAIN
            if not used.any():
                continue
            image, valid = reader.read(row, 0, height, scene.width)
            # Of a stack, a band's pixels of all dates count alike.
            by_date = image[:, used & valid].reshape(scene.num_dates, num_bands, -1)
            values = by_date.swapaxes(0, 1).reshape(num_bands, -1)
            number = values.shape[1]
            if not number:
                continue
            for histogram, band in zip(histograms, values, strict=True):
                histogram.add(band)
            minimum, maximum = np.minimum(minimum, values.min(1)), np.maximum(maximum, values.max(1))
            pixels = values.astype(np.float64)
            its_mean = pixels.mean(1)
            delta = its_mean - mean
            squares += ((pixels - its_mean[:, None]) ** 2).sum(1) + delta**2 * count * number / (count + number)
            mean += delta * number / (count + number)
            count += number
    if not count:
        raise DataError("the training fold has no valid pixel; check data.nodata and data.split")
    std = np.sqrt(squares / count)
    found = np.clip(
        [histogram.percentiles(PERCENTILES) for histogram in histograms], minimum[:, None], maximum[:, None]
    )
    return BandStatistics(
        mean.tolist(),
        np.where(std > 0, std, 1.0).tolist(),
        count,
        minimum.tolist(),
        maximum.tolist(),
        {f"p{share:g}": values.tolist() for share, values in zip(PERCENTILES, found.T, strict=True)},
    )


def normalise(image: FloatArray, valid: BoolArray, statistics: BandStatistics) -> FloatArray:
    """``(image - mean) / std`` per band, and 0 where invalid.

    Args:
        image: float32 (bands, height, width), or (dates x bands, height, width).
        valid: bool (height, width).
        statistics: of as many bands; those of a band are the same at every date.
    """
    num_dates = len(image) // len(statistics.mean)
    mean = np.asarray(statistics.mean * num_dates, np.float32)[:, None, None]
    std = np.asarray(statistics.std * num_dates, np.float32)[:, None, None]
    scaled: FloatArray = (image - mean) / std
    scaled[:, ~valid] = 0.0
    return scaled

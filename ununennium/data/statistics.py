"""Mean and standard deviation per band, of the training pixels alone, and the normalisation that uses them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ununennium.data.reader import BoolArray, FloatArray
from ununennium.data.splits import TRAIN
from ununennium.errors import DataError

if TYPE_CHECKING:
    from ununennium.data.index import ChipIndex


@dataclass(frozen=True)
class BandStatistics:
    """Per-band statistics.

    Attributes:
        mean: of each band, in the model's order.
        std: standard deviation of each band; 1 for a constant band, which then is 0 after normalisation.
        num_pixels: valid training pixels they were computed from.
    """

    mean: list[float]
    std: list[float]
    num_pixels: int

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
    offsets.

    Raises:
        DataError: the training fold has no valid pixel.
    """
    count, mean, squares = 0, np.zeros(len(index.bands)), np.zeros(len(index.bands))
    for scene in index.scenes:
        reader = index.reader(scene)
        for row, height in reader.strips():
            used = index.split.folds(scene, row, 0, height, scene.width) == TRAIN
            if not used.any():
                continue
            image, valid = reader.read(row, 0, height, scene.width)
            pixels = image[:, used & valid].astype(np.float64)
            number = pixels.shape[1]
            if not number:
                continue
            its_mean = pixels.mean(1)
            delta = its_mean - mean
            squares += ((pixels - its_mean[:, None]) ** 2).sum(1) + delta**2 * count * number / (count + number)
            mean += delta * number / (count + number)
            count += number
    if not count:
        raise DataError("the training fold has no valid pixel; check data.nodata and data.split")
    std = np.sqrt(squares / count)
    return BandStatistics(mean.tolist(), np.where(std > 0, std, 1.0).tolist(), count)


def normalise(image: FloatArray, valid: BoolArray, statistics: BandStatistics) -> FloatArray:
    """``(image - mean) / std`` per band, and 0 where invalid.

    Args:
        image: float32 (bands, height, width).
        valid: bool (height, width).
        statistics: of as many bands.
    """
    mean = np.asarray(statistics.mean, np.float32)[:, None, None]
    std = np.asarray(statistics.std, np.float32)[:, None, None]
    scaled: FloatArray = (image - mean) / std
    scaled[:, ~valid] = 0.0
    return scaled

"""Targets of a regression: a number per pixel from a raster, standardised, NaN where there is none.

What a model is to predict is ``(value - mean) / std`` with the mean and standard deviation of the training fold's
targets: learning rates, gradient clips and a Huber loss's delta then mean the same whatever the unit. Metrics and maps
are in the file's own unit again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ununennium.data.scenes.reader import FloatArray, SceneReader, clip
from ununennium.data.scenes.scene import Scene
from ununennium.data.targets.label_rasters import LabelRaster
from ununennium.data.targets.label_shapes import LabelledArea
from ununennium.data.targets.labels import LabelReader
from ununennium.errors import DataError

IsTraining = Callable[[Scene, int, int, int, int], npt.NDArray[np.bool_]]
"""From a scene, row, column, height and width to which pixels are of the training fold, (height, width)."""


class TargetScale(NamedTuple):
    """Mean and standard deviation of the training fold's targets; the latter is 1 if they are constant."""

    mean: float
    std: float


class ValueReader:
    """Reads windows of a scene's target values.

    Like ``SceneReader``, it opens its file when first read, and again in each process.

    Args:
        scene: a scene whose labels are a raster.
        scale: values are read as ``(value - mean) / std``; None reads them as they are.

    Raises:
        DataError: the scene has no label raster.
    """

    def __init__(self, scene: Scene, scale: TargetScale | None = None) -> None:
        if scene.label is None or scene.label_kind != "raster":
            raise DataError(
                f"scene {scene.name!r}: a regression learns from a raster of values; give data.scenes[].label one on "
                f"the image's grid (it is {scene.label})"
            )
        self.scene = scene
        self.scale = scale
        self._raster = LabelRaster(scene)
        self._area = LabelledArea(scene)

    def read(self, row: int, col: int, height: int, width: int) -> FloatArray:
        """Values of a window, float32 (height, width); NaN where there is none, and outside the scene.

        Raises:
            DataError: the file cannot be read, or a value is infinite.
        """
        values = np.full((height, width), np.nan, np.float32)
        inside = clip(row, col, height, width, self.scene)
        if inside is not None:
            here, window = inside
            values[here] = self._read_inside(*window)
            outside = self._area.outside(*window)
            if outside is not None:
                values[here][outside] = np.nan
        return values

    def _read_inside(self, row: int, col: int, height: int, width: int) -> npt.NDArray[Any]:
        stored, labelled = self._raster.read(row, col, height, width)
        scale, offset = self._raster.unit
        values: npt.NDArray[np.float64] = stored.astype(np.float64)
        if (scale, offset) != (1.0, 0.0):
            values = values * scale + offset
        values[~labelled] = np.nan
        if np.isinf(values).any():
            raise DataError(
                f"{self._raster.what}: {self._raster.path} holds {int(np.isinf(values).sum())} infinite values between "
                f"rows {row} and {row + height}; write NaN, or the file's nodata value, where there is no value"
            )
        return values if self.scale is None else (values - self.scale.mean) / self.scale.std


class PresenceReader(LabelReader):
    """Reads where a scene has target values: label 0 there, ``ignore_index`` elsewhere."""

    def __init__(self, scene: Scene, classes: Sequence[str], ignore_index: int) -> None:
        super().__init__(scene, classes, ignore_index)
        self._values = ValueReader(scene)

    def _from_raster(self, row: int, col: int, height: int, width: int) -> npt.NDArray[Any]:
        values = self._values.read(row, col, height, width)
        dtype = np.promote_types(np.uint8, np.min_scalar_type(self.ignore_index))
        return np.where(np.isnan(values), self.ignore_index, 0).astype(dtype)


def target_scale(readers: Sequence[SceneReader], is_training: IsTraining) -> TargetScale:
    """Mean and standard deviation of the targets of valid training pixels, in one pass over strips, float64.

    Args:
        readers: of the scenes.
        is_training: tells which pixels of a scene's window are of the training fold.

    Raises:
        DataError: there is none.
    """
    count, mean, squares = 0, 0.0, 0.0
    for reader in readers:
        scene, values = reader.scene, ValueReader(reader.scene)
        for row, height in reader.strips():
            window = row, 0, height, scene.width
            used = is_training(scene, *window)
            if not used.any():
                continue
            used &= reader.read_valid(*window)
            targets = values.read(*window)[used].astype(np.float64)
            targets = targets[~np.isnan(targets)]
            if not targets.size:
                continue
            # Chan et al. 1979, as the bands' statistics.
            delta, number = float(targets.mean()) - mean, targets.size
            squares += float(((targets - targets.mean()) ** 2).sum()) + delta**2 * count * number / (count + number)
            mean += delta * number / (count + number)
            count += number
    if not count:
        raise DataError("no pixel of the training fold has a target value; see data.split and the label rasters")
    std = (squares / count) ** 0.5
    return TargetScale(mean, std if std > 0 else 1.0)

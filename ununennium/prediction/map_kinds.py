"""The map that each kind of prediction draws: how it is predicted, and what is written and counted of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from ununennium.models import Patchwise
from ununennium.prediction.writers import ClassMapWriter, PresenceMapWriter, ValueMapWriter
from ununennium.tasks import Kind

if TYPE_CHECKING:
    from torch import nn

    from ununennium.data.scenes.reader import BoolArray
    from ununennium.data.scenes.scene import Scene
    from ununennium.prediction.strips import Output, Strip

_LEAST_TILE = 256


class MapWriter(Protocol):
    """Writes the predicted window of a scene, rows at a time; a context manager."""

    def __enter__(self) -> MapWriter: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, row: int, predicted: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
        """Write the next rows."""
        ...


class MapKind(Protocol):
    """The map of one kind of prediction.

    Attributes:
        output: result to ask of ``predict_strips``.
    """

    output: Output

    def tiling(self, chip_size: int) -> tuple[int, int | None]:
        """Tile and overlap, in pixels, with which a region is predicted; None for the usual overlap."""
        ...

    def dense(self, model: nn.Module) -> nn.Module:
        """``model``, with an output for every pixel."""
        ...

    def writer(self, path: Path, scene: Scene, *, row: int, col: int, height: int, width: int) -> MapWriter:
        """A writer of the predicted window of a scene."""
        ...

    def predict(self, strip: Strip) -> npt.NDArray[Any]:
        """Prediction for each pixel (rows, width), or for each class of it (K, rows, width)."""
        ...

    def tally(
        self, predicted: npt.NDArray[Any], valid: BoolArray, weights: npt.NDArray[np.float64] | None = None
    ) -> npt.NDArray[Any]:
        """Valid pixels for each name in the map's legend, int64 (K,); of ``weights`` (rows, width), such as square
        metres, their sums, float64."""
        ...


class _OfPixels:
    """Tiles of at least 256 pixels, blended; the model as it is."""

    def tiling(self, chip_size: int) -> tuple[int, int | None]:
        """Tiles of at least 256 pixels, with the usual overlap."""
        return max(_LEAST_TILE, chip_size), None

    def dense(self, model: nn.Module) -> nn.Module:
        """As it is."""
        return model


class _OfPatches:
    """Patches side by side, whose output every pixel gets."""

    def tiling(self, chip_size: int) -> tuple[int, int | None]:
        """Patches, without overlap."""
        return chip_size, 0

    def dense(self, model: nn.Module) -> nn.Module:
        """Every pixel gets its patch's output."""
        return Patchwise(model)


class ClassMap(_OfPixels):
    """A class for every pixel.

    Args:
        classes: class names.
    """

    output: Output = "probabilities"

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)

    def writer(self, path: Path, scene: Scene, *, row: int, col: int, height: int, width: int) -> ClassMapWriter:
        """A writer of the predicted window of a scene, one band of class numbers."""
        return ClassMapWriter(path, scene, row=row, col=col, height=height, width=width, classes=self.classes)

    def predict(self, strip: Strip) -> npt.NDArray[Any]:
        """The most probable class of each pixel, int64 (rows, width)."""
        classes: npt.NDArray[Any] = strip.probabilities.argmax(0)
        return classes

    def tally(
        self, predicted: npt.NDArray[Any], valid: BoolArray, weights: npt.NDArray[np.float64] | None = None
    ) -> npt.NDArray[Any]:
        """Valid pixels of each class, int64 (K,), or the sums of their weights, float64."""
        of_valid = None if weights is None else weights[valid]
        return np.bincount(predicted[valid], of_valid, minlength=len(self.classes))


class PatchClassMap(_OfPatches, ClassMap):
    """A class for every patch.

    Args:
        classes: class names.
    """


class PresenceMap(_OfPatches):
    """The classes present in every patch, a band for each class.

    Args:
        classes: class names.
    """

    output: Output = "presences"
    threshold = 0.5

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)

    def writer(self, path: Path, scene: Scene, *, row: int, col: int, height: int, width: int) -> PresenceMapWriter:
        """A writer of the predicted window of a scene, a band for each class."""
        return PresenceMapWriter(path, scene, row=row, col=col, height=height, width=width, classes=self.classes)

    def predict(self, strip: Strip) -> npt.NDArray[Any]:
        """Presence of each class in the pixel's patch, uint8 (K, rows, width)."""
        present: npt.NDArray[Any] = (strip.probabilities >= self.threshold).astype(np.uint8)
        return present

    def tally(
        self, predicted: npt.NDArray[Any], valid: BoolArray, weights: npt.NDArray[np.float64] | None = None
    ) -> npt.NDArray[Any]:
        """Valid pixels whose patch shows each class, int64 (K,), or the sums of their weights, float64."""
        if weights is not None:
            return np.stack([weights[(present == 1) & valid].sum() for present in predicted])
        counts: npt.NDArray[np.int64] = predicted[:, valid].sum(1, dtype=np.int64)
        return counts


class ValueMap(_OfPixels):
    """A number for every pixel, in the targets' own unit.

    Args:
        name: of the quantity.
        mean: a value is ``mean + std * target``.
        std: the same.
    """

    output: Output = "values"

    def __init__(self, name: str, mean: float = 0.0, std: float = 1.0) -> None:
        self.name, self.mean, self.std = name, mean, std

    def writer(self, path: Path, scene: Scene, *, row: int, col: int, height: int, width: int) -> ValueMapWriter:
        """A writer of the predicted window of a scene, in the targets' unit."""
        window = {"row": row, "col": col, "height": height, "width": width}
        return ValueMapWriter(path, scene, **window, name=self.name, mean=self.mean, std=self.std)

    def predict(self, strip: Strip) -> npt.NDArray[Any]:
        """Standardised values, float32 (rows, width)."""
        values: npt.NDArray[Any] = strip.probabilities[0]
        return values

    def tally(
        self, predicted: npt.NDArray[Any], valid: BoolArray, weights: npt.NDArray[np.float64] | None = None
    ) -> npt.NDArray[Any]:
        """Valid pixels, int64 (1,), or the sum of their weights, float64."""
        if weights is not None:
            return np.array([weights[valid].sum()])
        return np.array([valid.sum()], np.int64)


def _value_map(classes: Sequence[str], target_scale: Sequence[float] | None) -> ValueMap:
    mean, std = target_scale or (0.0, 1.0)
    return ValueMap(classes[0], mean, std)


MAP_KINDS: Mapping[Kind, Callable[[Sequence[str], Sequence[float] | None], MapKind]] = {
    "classes": lambda classes, _: ClassMap(classes),
    "patches": lambda classes, _: PatchClassMap(classes),
    "presences": lambda classes, _: PresenceMap(classes),
    "values": _value_map,
}
"""The map of each kind of prediction, from class names and, of values, mean and standard deviation of the targets."""

"""What an evaluation counts, and the map it draws, for each kind of prediction."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ununennium import metrics
from ununennium.data.patches import classes_present, most_common_class
from ununennium.inference.writers import ClassMapWriter, PresenceMapWriter, ValueMapWriter

_LEAST_SHOWN = 0.5

if TYPE_CHECKING:
    from ununennium.data.catalog import Scene
    from ununennium.data.reader import BoolArray
    from ununennium.inference.predict import Band, Output


class MapWriter(Protocol):
    """Writes the predicted window of a scene, rows at a time; a context manager."""

    def __enter__(self) -> MapWriter: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def write(self, row: int, predicted: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
        """Write the next rows."""
        ...


class Scores(Protocol):
    """What an evaluation counts.

    Attributes:
        output: what ``predict_bands`` is to give.
    """

    output: Output

    def writer(self, path: Path, scene: Scene, *, row: int, col: int, height: int, width: int) -> MapWriter:
        """What writes the predicted window of a scene."""
        ...

    def predict(self, band: Band) -> npt.NDArray[Any]:
        """What is predicted for each pixel (rows, width), or for each class of it (K, rows, width)."""
        ...

    def update(self, predicted: npt.NDArray[Any], target: npt.NDArray[Any], valid: BoolArray) -> None:
        """Count the labelled valid pixels of what ``predict`` gave."""
        ...

    def tally(self, predicted: npt.NDArray[Any], valid: BoolArray) -> npt.NDArray[np.int64]:
        """Valid pixels for each name in the map's legend."""
        ...

    @property
    def num_pixels(self) -> int:
        """Pixels that were counted."""
        ...

    @property
    def counts(self) -> list[list[int]]:
        """The confusion matrix; empty if there are no classes."""
        ...

    def metrics(self) -> dict[str, Any]:
        """As ``Evaluation.metrics`` has them."""
        ...


class ClassScores:
    """Counts predicted classes in one confusion matrix.

    Args:
        classes: class names.
        ignore_index: label value of unlabelled pixels.
    """

    output: Output = "probabilities"

    def __init__(self, classes: Sequence[str], ignore_index: int) -> None:
        self.classes = list(classes)
        self.ignore_index = ignore_index
        self.confusion = metrics.ConfusionMatrix(len(self.classes), ignore_index)

    def writer(self, path: Path, scene: Scene, *, row: int, col: int, height: int, width: int) -> ClassMapWriter:
        """What writes the predicted window of a scene."""
        return ClassMapWriter(path, scene, row=row, col=col, height=height, width=width, classes=self.classes)

    def predict(self, band: Band) -> npt.NDArray[Any]:
        """The most probable class of each pixel, int64 (rows, width)."""
        classes: npt.NDArray[Any] = band.probabilities.argmax(0)
        return classes

    def update(self, predicted: npt.NDArray[Any], target: npt.NDArray[Any], valid: BoolArray) -> None:
        """Count the labelled valid pixels.

        Args:
            predicted: what ``predict`` gave.
            target: labels, int64 (rows, width).
            valid: bool (rows, width).
        """
        labels = np.where(valid, target, self.ignore_index)
        self.confusion.update(torch.from_numpy(predicted), torch.from_numpy(labels))

    def tally(self, predicted: npt.NDArray[Any], valid: BoolArray) -> npt.NDArray[np.int64]:
        """Valid pixels of each class, int64 (K,)."""
        counts: npt.NDArray[np.int64] = np.bincount(predicted[valid], minlength=len(self.classes))
        return counts

    @property
    def num_pixels(self) -> int:
        """Pixels that were counted."""
        return int(self.confusion.matrix.sum())

    @property
    def counts(self) -> list[list[int]]:
        """The confusion matrix, rows by label, columns by prediction."""
        rows: list[list[int]] = self.confusion.matrix.tolist()
        return rows

    def metrics(self) -> dict[str, Any]:
        """As ``Evaluation.metrics`` has them."""
        matrix = self.confusion.matrix

        def per_class(values: torch.Tensor) -> dict[str, float]:
            return {"mean": metrics.macro_mean(values), **dict(zip(self.classes, values.tolist(), strict=True))}

        return {
            "IoU": per_class(metrics.iou(matrix)),
            "F1": per_class(metrics.f1(matrix)),
            "precision": per_class(metrics.precision(matrix)),
            "recall": per_class(metrics.recall(matrix)),
            "accuracy": metrics.overall_accuracy(matrix),
            "kappa": metrics.kappa(matrix),
        }


class PatchScores(ClassScores):
    """Counts patches in one confusion matrix, each by the most common class of its labelled valid pixels.

    Args:
        classes: class names.
        ignore_index: label value of unlabelled pixels.
        patch: side of a patch in pixels; a band is one row of them.
    """

    def __init__(self, classes: Sequence[str], ignore_index: int, patch: int) -> None:
        super().__init__(classes, ignore_index)
        self.patch = patch
        self._of_patch = most_common_class(len(self.classes), ignore_index)

    def update(self, predicted: npt.NDArray[Any], target: npt.NDArray[Any], valid: BoolArray) -> None:
        """Count the patches that are valid by half and have a labelled pixel.

        Args:
            predicted: what ``predict`` gave, the same all over a patch.
            target: labels, int64 (rows, width).
            valid: bool (rows, width).
        """
        for part, labels in patches_of(target, valid, self.patch, self.ignore_index):
            seen = predicted[:, part][valid[:, part]][:1]
            self.confusion.update(torch.from_numpy(seen), self._of_patch(labels))


class PresenceScores:
    """Counts, for each class on its own, the patches that show it.

    Args:
        classes: class names.
        ignore_index: label value of unlabelled pixels.
        patch: side of a patch in pixels; a band is one row of them.
    """

    output: Output = "presences"
    threshold = 0.5

    def __init__(self, classes: Sequence[str], ignore_index: int, patch: int) -> None:
        self.classes = list(classes)
        self.ignore_index = ignore_index
        self.patch = patch
        self.presences = metrics.PresenceCounts(len(self.classes))
        self._of_patch = classes_present(len(self.classes))

    def writer(self, path: Path, scene: Scene, *, row: int, col: int, height: int, width: int) -> PresenceMapWriter:
        """What writes the predicted window of a scene, a band for each class."""
        return PresenceMapWriter(path, scene, row=row, col=col, height=height, width=width, classes=self.classes)

    def predict(self, band: Band) -> npt.NDArray[Any]:
        """Whether each class is in the pixel's patch, uint8 (K, rows, width)."""
        present: npt.NDArray[Any] = (band.probabilities >= self.threshold).astype(np.uint8)
        return present

    def update(self, predicted: npt.NDArray[Any], target: npt.NDArray[Any], valid: BoolArray) -> None:
        """Count the patches that are valid by half and have a labelled pixel.

        Args:
            predicted: what ``predict`` gave, the same all over a patch.
            target: as ``PresenceReader`` reads them, float64 (rows, width).
            valid: bool (rows, width).
        """
        for part, labels in patches_of(target, valid, self.patch, np.nan):
            seen = predicted[:, :, part][:, valid[:, part]][:, :1].T.astype(np.bool_)
            self.presences.update(torch.from_numpy(seen), self._of_patch(labels))

    def tally(self, predicted: npt.NDArray[Any], valid: BoolArray) -> npt.NDArray[np.int64]:
        """Valid pixels whose patch shows each class, int64 (K,)."""
        counts: npt.NDArray[np.int64] = predicted[:, valid].sum(1, dtype=np.int64)
        return counts

    @property
    def num_pixels(self) -> int:
        """Patches that were counted."""
        return int(self.presences.counts[0].sum())

    @property
    def counts(self) -> list[list[int]]:
        """Classes that do not exclude each other are not confused with each other."""
        return []

    def metrics(self) -> dict[str, Any]:
        """F1, precision and recall of each class, with their means, and the accuracy."""
        measured: dict[str, Any] = {
            name: {"mean": metrics.macro_mean(values), **dict(zip(self.classes, values.tolist(), strict=True))}
            for name, values in self.presences.per_class().items()
        }
        return {**measured, "accuracy": self.presences.accuracy}


def patches_of(
    target: npt.NDArray[Any], valid: BoolArray, patch: int, fill: float
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The patches of a row of them that are valid by half at least: their columns, and targets (1, rows, columns).

    A sliver at the edge of a scene or of a fold says little of the whole patch that the model is asked about.
    """
    labels = np.where(valid, target, fill)
    for left in range(0, labels.shape[1], patch):
        part = slice(left, left + patch)
        if valid[:, part].sum() >= _LEAST_SHOWN * patch**2:
            yield part, torch.from_numpy(np.ascontiguousarray(labels[None, :, part]))


class ValueScores:
    """Sums errors of predicted values, in standard deviations of the training fold's targets.

    Args:
        name: of the quantity.
        mean: a value is ``mean + std * target``.
        std: the same.
    """

    output: Output = "values"

    def __init__(self, name: str, mean: float = 0.0, std: float = 1.0) -> None:
        self.name, self.mean, self.std = name, mean, std
        self.moments = metrics.RegressionMoments(self.mean, self.std)

    def writer(self, path: Path, scene: Scene, *, row: int, col: int, height: int, width: int) -> ValueMapWriter:
        """What writes the predicted window of a scene, in the targets' unit."""
        window = {"row": row, "col": col, "height": height, "width": width}
        return ValueMapWriter(path, scene, **window, name=self.name, mean=self.mean, std=self.std)

    def predict(self, band: Band) -> npt.NDArray[Any]:
        """Standardised values, float32 (rows, width)."""
        values: npt.NDArray[Any] = band.probabilities[0]
        return values

    def update(self, predicted: npt.NDArray[Any], target: npt.NDArray[Any], valid: BoolArray) -> None:
        """Sum over the labelled valid pixels.

        Args:
            predicted: what ``predict`` gave.
            target: standardised, (rows, width), NaN where unlabelled.
            valid: bool (rows, width).
        """
        truth = np.where(valid, target, np.nan)
        self.moments.update(torch.from_numpy(np.ascontiguousarray(predicted)), torch.from_numpy(truth))

    def tally(self, predicted: npt.NDArray[Any], valid: BoolArray) -> npt.NDArray[np.int64]:
        """Valid pixels, int64 (1,)."""
        return np.array([valid.sum()], np.int64)

    @property
    def num_pixels(self) -> int:
        """Pixels that were counted."""
        return int(self.moments.sums[0])

    @property
    def counts(self) -> list[list[int]]:
        """There are no classes to confuse."""
        return []

    def metrics(self) -> dict[str, Any]:
        """RMSE, MAE, bias and R2."""
        return dict(self.moments.to_metrics())

"""What an evaluation counts, and the map it draws, for each kind of prediction."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from ununennium import metrics
from ununennium.inference.writers import ClassMapWriter

if TYPE_CHECKING:
    from ununennium.data.catalog import Scene
    from ununennium.data.index import ChipIndex
    from ununennium.data.reader import BoolArray
    from ununennium.inference.predict import Band


class ClassScores:
    """Counts predicted classes in one confusion matrix.

    Args:
        index: names the classes, and the value of unlabelled pixels.
    """

    def __init__(self, index: ChipIndex) -> None:
        self.classes = list(index.classes)
        self.ignore_index = index.ignore_index
        self.confusion = metrics.ConfusionMatrix(len(self.classes), index.ignore_index)

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

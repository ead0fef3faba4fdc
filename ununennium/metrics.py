"""Metrics from sums over everything, divided at the end: of classes from one confusion matrix, of values from moments.

With true positives TP, false positives FP and false negatives FN of a class: IoU = TP / (TP + FP + FN) (Jaccard 1901),
F1 = 2 TP / (2 TP + FP + FN), precision = TP / (TP + FP), recall = TP / (TP + FN). A class that is neither in the
labels nor in the predictions has no IoU and no F1: it is NaN, never 0 or 1, and leaves the mean.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ununennium.errors import ConfigError, DataError


class ConfusionMatrix:
    """Counts of (label, prediction) pairs; rows are labels, columns predictions.

    Args:
        num_classes: number of classes K.
        ignore_index: label value that is not counted; None counts every pixel.

    Attributes:
        matrix: int64 tensor of shape (K, K), on the device of the first update.

    Raises:
        ConfigError: fewer than one class.
    """

    def __init__(self, num_classes: int, ignore_index: int | None = None) -> None:
        if num_classes < 1:
            raise ConfigError("num_classes", num_classes, "give the number of classes, at least 1")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.matrix = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def reset(self) -> None:
        """Forget everything counted."""
        self.matrix = torch.zeros_like(self.matrix)

    def update(self, output: Tensor, target: Tensor) -> None:
        """Count one batch.

        Args:
            output: logits or probabilities (N, K, ...), of which the largest counts; or predicted classes, an integer
                tensor of the target's shape.
            target: labels, int64, of shape (N, ...).

        Raises:
            DataError: the shapes do not fit, or a label or prediction is outside the classes.
        """
        prediction = output if output.shape == target.shape and not output.is_floating_point() else output.argmax(1)
        if prediction.shape != target.shape:
            raise DataError(f"output {tuple(output.shape)} does not fit the target {tuple(target.shape)}")
        if output.is_floating_point() and output.shape[1] != self.num_classes:
            raise DataError(f"the output has {output.shape[1]} channels, and there are {self.num_classes} classes")
        target, prediction = target.reshape(-1), prediction.reshape(-1)
        if self.ignore_index is not None:
            counted = target != self.ignore_index
            target, prediction = target[counted], prediction[counted]
        if target.numel() == 0:
            return
        for name, values in (("label", target), ("prediction", prediction)):
            low, high = (int(v) for v in torch.aminmax(values))
            if low < 0 or high >= self.num_classes:
                wrong = low if low < 0 else high
                raise DataError(f"{name} {wrong} is outside the classes 0..{self.num_classes - 1}")
        counts = torch.bincount(target.long() * self.num_classes + prediction.long(), minlength=self.num_classes**2)
        self.matrix = self.matrix.to(counts.device) + counts.reshape(self.num_classes, self.num_classes)

    def to_metrics(self, classes: Sequence[str]) -> dict[str, float]:
        """Flat metrics for a history: means over present classes, and IoU and F1 per class.

        Returns:
            ``{"IoU": .., "F1": .., "accuracy": .., "IoU_<class>": .., "F1_<class>": ..}``.
        """
        per_class_iou, per_class_f1 = iou(self.matrix), f1(self.matrix)
        metrics = {
            "IoU": macro_mean(per_class_iou),
            "F1": macro_mean(per_class_f1),
            "accuracy": overall_accuracy(self.matrix),
        }
        for name, its_iou, its_f1 in zip(classes, per_class_iou.tolist(), per_class_f1.tolist(), strict=True):
            metrics[f"IoU_{name}"] = its_iou
            metrics[f"F1_{name}"] = its_f1
        return metrics


class RegressionMoments:
    """Sums over labelled pixels from which errors follow; those of parts add up to those of the whole.

    Args:
        mean: of the unit in which predictions and targets come: a value is ``mean + std * number``.
        std: the same.

    Attributes:
        sums: float64 (6,): number of pixels, errors (prediction minus target), their squares, their absolute values,
            targets, their squares; all in the unit in which they came.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        self.mean = mean
        self.std = std
        self.sums = torch.zeros(6, dtype=torch.float64)

    def reset(self) -> None:
        """Forget everything summed."""
        self.sums = torch.zeros_like(self.sums)

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add one batch.

        Args:
            output: predictions, of the target's shape or with one channel more, (N, 1, ...).
            target: (N, ...), NaN where unlabelled.

        Raises:
            DataError: the shapes do not fit.
        """
        if output.numel() != target.numel() or output.shape[0] != target.shape[0]:
            raise DataError(f"output {tuple(output.shape)} does not fit the target {tuple(target.shape)}")
        truth = target.reshape(-1)
        labelled = ~truth.isnan()
        truth = truth[labelled].double()
        error = output.reshape(-1)[labelled].double() - truth
        parts = (torch.ones_like(error), error, error.square(), error.abs(), truth, truth.square())
        self.sums = self.sums.to(error.device) + torch.stack([part.sum() for part in parts])

    def to_metrics(self) -> dict[str, float]:
        """``{"RMSE": .., "MAE": .., "bias": .., "R2": ..}`` in the targets' own unit; NaN without pixels.

        Bias is the mean of prediction minus target. R2 is one minus the squared errors over the targets' squared
        deviations from their mean (NaN if they are constant).
        """
        number, error, squares, absolute, truth, truth_squares = self.sums.tolist()
        if not number:
            return dict.fromkeys(("RMSE", "MAE", "bias", "R2"), float("nan"))
        deviations = truth_squares - truth**2 / number
        constant = deviations <= 1e-12 * truth_squares
        return {
            "RMSE": self.std * (squares / number) ** 0.5,
            "MAE": self.std * absolute / number,
            "bias": self.std * error / number,
            "R2": float("nan") if constant else 1 - squares / deviations,
        }


def iou(matrix: Tensor) -> Tensor:
    """Intersection over union per class: (K, K) int64 to (K,) float64, NaN for an absent class."""
    hit, labelled, predicted = _margins(matrix)
    return hit / (labelled + predicted - hit)


def f1(matrix: Tensor) -> Tensor:
    """F1 (Dice) per class: (K, K) int64 to (K,) float64, NaN for an absent class."""
    hit, labelled, predicted = _margins(matrix)
    return 2 * hit / (labelled + predicted)


def precision(matrix: Tensor) -> Tensor:
    """Share of a class's predictions that are right: (K,) float64, NaN for a class never predicted."""
    hit, _, predicted = _margins(matrix)
    return hit / predicted


def recall(matrix: Tensor) -> Tensor:
    """Share of a class's labels that are found: (K,) float64, NaN for a class without labels."""
    hit, labelled, _ = _margins(matrix)
    return hit / labelled


def overall_accuracy(matrix: Tensor) -> float:
    """Share of pixels that are right; NaN without pixels."""
    hit, labelled, _ = _margins(matrix)
    return float(hit.sum() / labelled.sum())


def kappa(matrix: Tensor) -> float:
    """Cohen's kappa (Cohen 1960): agreement beyond that of the same margins by chance; NaN where chance is certain."""
    hit, labelled, predicted = _margins(matrix)
    total = labelled.sum()
    observed = hit.sum() / total
    expected = (labelled * predicted).sum() / total**2
    return float((observed - expected) / (1 - expected))


def macro_mean(values: Tensor) -> float:
    """Mean over the classes that are present (not NaN); NaN if none is."""
    return float(values.nanmean())


def _margins(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Diagonal, row sums (labels) and column sums (predictions), float64."""
    counts = matrix.double()
    return counts.diagonal(), counts.sum(1), counts.sum(0)


class PresenceCounts:
    """Of each class on its own: how often it was there and was seen, was seen only, was there only, or neither.

    Args:
        num_classes: classes K.

    Attributes:
        counts: int64 (K, 4): true positives, false positives, false negatives, true negatives.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(num_classes, 4, dtype=torch.int64)

    def update(self, present: Tensor, target: Tensor) -> None:
        """Count one batch.

        Args:
            present: bool (N, K), what was predicted.
            target: float (N, K) of 0 and 1; NaN is not counted.

        Raises:
            DataError: the shapes do not fit.
        """
        if present.shape != target.shape or target.shape[1] != len(self.counts):
            raise DataError(
                f"predictions {tuple(present.shape)} and targets {tuple(target.shape)} do not fit: both must be "
                f"(batch, {len(self.counts)})"
            )
        there, absent = target == 1.0, target == 0.0
        cases = (present & there, present & absent, ~present & there, ~present & absent)
        self.counts = self.counts.to(target.device) + torch.stack([case.sum(0) for case in cases], 1)

    def per_class(self) -> dict[str, Tensor]:
        """F1, precision and recall, float64 (K,); NaN for a class that is neither there nor seen."""
        hits, false, missed, _ = self.counts.double().cpu().T
        return {
            "F1": 2 * hits / (2 * hits + false + missed),
            "precision": hits / (hits + false),
            "recall": hits / (hits + missed),
        }

    @property
    def accuracy(self) -> float:
        """Share of all (patch, class) pairs that were told right."""
        hits, _, _, rejected = self.counts.sum(0).tolist()
        total = int(self.counts.sum())
        return (hits + rejected) / total if total else float("nan")

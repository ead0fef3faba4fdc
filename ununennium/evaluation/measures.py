"""Metrics from sums that add up, for one sum or for thousands at once: of a holdout, of a slice, of every resample.

What is summed (``kind``), for K classes:

==============  ========  =====================================================================================
kind            cells     in this order
==============  ========  =====================================================================================
``pixels``      K² + 4K   confusion matrix, rows by label, columns by prediction; then, for each class, pixels of
                          its predicted boundary near the labelled one, all of the predicted boundary, of the
                          labelled boundary near the predicted one, all of the labelled boundary
``patches``     K²        confusion matrix
``presences``   4K        for each class true positives, false positives, false negatives, true negatives
``values``      6         pixels, errors (prediction minus target), their squares, their absolute values, targets (less
                          a constant), their squares; in the targets' own unit
==============  ========  =====================================================================================

IoU = TP / (TP + FP + FN) (Jaccard 1901), F1 = 2 TP / (2 TP + FP + FN), kappa as Cohen (1960). A value whose denominator
is 0 is NaN: IoU and F1 of a class that is neither labelled nor predicted, recall of one that is not labelled, precision
of one that is not predicted. The ``mean`` is the macro mean over the classes that are labelled, the same set for every
model; a labelled class without a value (its precision, where it is never predicted) counts as 0 there. A class that is
predicted, and not labelled, costs in the values of the classes whose pixels it took. ``frequency_weighted_*`` weights
each class by its labelled pixels. ``boundary_F1`` is the harmonic mean of the shares of predicted boundary that lie
within ``TOLERANCE_PX`` of a labelled one, and the other way round (Csurka et al. 2013); its mean is over the classes
with a labelled boundary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
Kind = Literal["pixels", "patches", "presences", "values"]

TOLERANCE_PX = 2
"""Distance in pixels (Euclidean) within which two boundaries count as one."""
_ROUNDING = 2 * float(np.finfo(np.float64).eps)


class Measures(Protocol):
    """The metrics of one kind of sums.

    Attributes:
        classes: names that a metric may have a value for; empty where there are none.
        num_cells: length S of a sum.
    """

    classes: list[str]
    num_cells: int

    def counted(self, sums: FloatArray) -> FloatArray:
        """Pixels or patches that were counted: (..., S) to (...)."""
        ...

    def reference(self, sums: FloatArray) -> FloatArray:
        """Counts that labels alone decide, so that they are the same for every model: (..., S) to (..., R)."""
        ...

    def labelled(self, sums: FloatArray, family: str) -> FloatArray:
        """Count of each class in the labels, as ``family`` counts it: (..., S) to (..., K)."""
        ...

    def predicted(self, sums: FloatArray, family: str) -> FloatArray:
        """Count of each class in the prediction: (..., S) to (..., K)."""
        ...

    def per_class(self, sums: FloatArray) -> dict[str, FloatArray]:
        """Metrics with a value for each class: (..., S) to (..., K)."""
        ...

    def overall(self, sums: FloatArray) -> dict[str, FloatArray]:
        """Metrics with one value: (..., S) to (...)."""
        ...


class ClassMeasures:
    """Of one confusion matrix, and of boundaries.

    Args:
        classes: class names.
        boundaries: whether the cells of boundaries follow those of the matrix.
    """

    def __init__(self, classes: Sequence[str], *, boundaries: bool) -> None:
        self.classes = list(classes)
        self.boundaries = boundaries
        self.num_cells = len(self.classes) ** 2 + (4 * len(self.classes) if boundaries else 0)

    def confusion(self, sums: FloatArray) -> FloatArray:
        """The matrices: (..., S) to (..., K, K)."""
        number = len(self.classes)
        return sums[..., : number**2].reshape(*sums.shape[:-1], number, number)

    def counted(self, sums: FloatArray) -> FloatArray:
        """Pixels or patches that were counted."""
        total: FloatArray = self.confusion(sums).sum((-2, -1))
        return total

    def reference(self, sums: FloatArray) -> FloatArray:
        """Pixels or patches with each label."""
        return self.labelled(sums, "IoU")

    def labelled(self, sums: FloatArray, family: str) -> FloatArray:
        """Pixels or patches with each label; of ``boundary_F1`` the labelled boundary."""
        return self._boundary(sums)[3] if family == "boundary_F1" else self._margins(sums)[1]

    def predicted(self, sums: FloatArray, family: str) -> FloatArray:
        """Pixels or patches predicted as each class; of ``boundary_F1`` the predicted boundary."""
        return self._boundary(sums)[1] if family == "boundary_F1" else self._margins(sums)[2]

    def per_class(self, sums: FloatArray) -> dict[str, FloatArray]:
        """IoU, F1, precision, recall, and boundary_F1 where boundaries were counted."""
        hit, labelled, predicted = self._margins(sums)
        found = {
            "IoU": _ratio(hit, labelled + predicted - hit),
            "F1": _ratio(2 * hit, labelled + predicted),
            "precision": _ratio(hit, predicted),
            "recall": _ratio(hit, labelled),
        }
        if self.boundaries:
            found["boundary_F1"] = _boundary_f1(*self._boundary(sums))
        return found

    def overall(self, sums: FloatArray) -> dict[str, FloatArray]:
        """accuracy, kappa, frequency_weighted_IoU and frequency_weighted_F1."""
        hit, labelled, predicted = self._margins(sums)
        total = labelled.sum(-1)
        accuracy = _ratio(hit.sum(-1), total)
        by_chance = _ratio((labelled * predicted).sum(-1), total**2)
        per_class = self.per_class(sums)
        weighted = {
            f"frequency_weighted_{name}": _ratio(np.where(labelled > 0, labelled * per_class[name], 0.0).sum(-1), total)
            for name in ("IoU", "F1")
        }
        return {"accuracy": accuracy, "kappa": _ratio(accuracy - by_chance, 1 - by_chance), **weighted}

    def _margins(self, sums: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """Diagonals, row sums (labels) and column sums (predictions), each (..., K)."""
        matrix = self.confusion(sums)
        return matrix.diagonal(axis1=-2, axis2=-1), matrix.sum(-1), matrix.sum(-2)

    def _boundary(self, sums: FloatArray) -> FloatArray:
        """Predicted boundary that is near, all of it, labelled boundary that is near, all of it: (4, ..., K)."""
        cells = sums[..., len(self.classes) ** 2 :].reshape(*sums.shape[:-1], len(self.classes), 4)
        return np.moveaxis(cells, -1, 0)


class PresenceMeasures:
    """Of each class on its own.

    Args:
        classes: class names.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)
        self.num_cells = 4 * len(self.classes)

    def counted(self, sums: FloatArray) -> FloatArray:
        """Patches that were counted."""
        total: FloatArray = sums[..., :4].sum(-1)
        return total

    def reference(self, sums: FloatArray) -> FloatArray:
        """Patches with each class, and patches known to be without it."""
        hit, false, missed, rejected = self._cases(sums)
        return np.concatenate([hit + missed, false + rejected], -1)

    def labelled(self, sums: FloatArray, family: str) -> FloatArray:
        """Patches with each class."""
        hit, _, missed, _ = self._cases(sums)
        total: FloatArray = hit + missed
        return total

    def predicted(self, sums: FloatArray, family: str) -> FloatArray:
        """Patches that are said to have each class."""
        hit, false, _, _ = self._cases(sums)
        total: FloatArray = hit + false
        return total

    def per_class(self, sums: FloatArray) -> dict[str, FloatArray]:
        """IoU, F1, precision and recall."""
        hit, false, missed, _ = self._cases(sums)
        return {
            "IoU": _ratio(hit, hit + false + missed),
            "F1": _ratio(2 * hit, 2 * hit + false + missed),
            "precision": _ratio(hit, hit + false),
            "recall": _ratio(hit, hit + missed),
        }

    def overall(self, sums: FloatArray) -> dict[str, FloatArray]:
        """accuracy: the share of all (patch, class) pairs that were told right."""
        hit, _, _, rejected = self._cases(sums)
        return {"accuracy": _ratio((hit + rejected).sum(-1), sums.sum(-1))}

    def _cases(self, sums: FloatArray) -> FloatArray:
        return np.moveaxis(sums.reshape(*sums.shape[:-1], len(self.classes), 4), -1, 0)


class ValueMeasures:
    """Of errors of predicted values; bias is the mean of prediction minus target."""

    num_cells = 6

    def __init__(self) -> None:
        self.classes: list[str] = []

    def counted(self, sums: FloatArray) -> FloatArray:
        """Pixels that were counted."""
        return sums[..., 0]

    def reference(self, sums: FloatArray) -> FloatArray:
        """Pixels that were counted."""
        return sums[..., :1]

    def labelled(self, sums: FloatArray, family: str) -> FloatArray:
        """There are no classes."""
        return sums[..., :0]

    def predicted(self, sums: FloatArray, family: str) -> FloatArray:
        """There are no classes."""
        return sums[..., :0]

    def per_class(self, sums: FloatArray) -> dict[str, FloatArray]:
        """There are no classes."""
        return {}

    def overall(self, sums: FloatArray) -> dict[str, FloatArray]:
        """RMSE, MAE, bias and R2 (NaN where the targets are constant)."""
        number, error, squares, absolute, truth, truth_squares = np.moveaxis(sums, -1, 0)
        deviations = truth_squares - _ratio(truth**2, number)
        # Sums of n terms are known to n units of rounding at worst; a difference below that is none.
        varied = deviations > np.maximum(1e-12, _ROUNDING * number) * truth_squares
        return {
            "RMSE": np.sqrt(_ratio(squares, number)),
            "MAE": _ratio(absolute, number),
            "bias": _ratio(error, number),
            "R2": 1 - _ratio(squares, np.where(varied, deviations, 0.0)),
        }


def measures_of(kind: Kind, classes: Sequence[str]) -> Measures:
    """The metrics of ``kind`` (see the top of this file)."""
    if kind == "values":
        return ValueMeasures()
    if kind == "presences":
        return PresenceMeasures(classes)
    return ClassMeasures(classes, boundaries=kind == "pixels")


def metrics_of(measures: Measures, sums: FloatArray) -> dict[str, Any]:
    """All metrics of one sum (S,), as ``Evaluation.metrics`` has them."""
    found: dict[str, Any] = {}
    for name, values in measures.per_class(sums).items():
        mean = _mean(values, measures.labelled(sums, name))
        found[name] = {"mean": float(mean), **dict(zip(measures.classes, values.tolist(), strict=True))}
    return found | {name: float(value) for name, value in measures.overall(sums).items()}


def values_by_name(measures: Measures, names: Sequence[str], sums: FloatArray) -> dict[str, FloatArray]:
    """The values (...) of metrics of sums (..., S): ``IoU`` (its mean), ``IoU.<class>``, ``accuracy`` ...

    A metric that there is not is left out.
    """
    per_class, overall = measures.per_class(sums), measures.overall(sums)
    found: dict[str, FloatArray] = {}
    for name in names:
        family, _, label = name.partition(".")
        if family in per_class and label in ("", "mean"):
            found[name] = _mean(per_class[family], measures.labelled(sums, family))
        elif family in per_class and label in measures.classes:
            found[name] = per_class[family][..., measures.classes.index(label)]
        elif family in overall and not label:
            found[name] = overall[family]
    return found


def informs(measures: Measures, name: str, sums: FloatArray) -> npt.NDArray[np.bool_]:
    """Sums (..., S) that say something of a metric, as bool (...): of a class's, that it is labelled or predicted."""
    family, number = _class_of(measures, name)
    if number is None:
        return measures.counted(sums) > 0
    found: npt.NDArray[np.bool_] = (measures.labelled(sums, family) + measures.predicted(sums, family))[..., number] > 0
    return found


def has_labels(measures: Measures, name: str, sums: FloatArray) -> bool:
    """A sum (S,) has labels of what the metric speaks of: a model without a value lacks what it should have."""
    family, number = _class_of(measures, name)
    if number is None:
        return bool(measures.counted(sums) > 0)
    return bool(measures.labelled(sums, family)[number] > 0)


def _class_of(measures: Measures, name: str) -> tuple[str, int | None]:
    """Family and class number of a metric's name; None for a mean or a metric with one value."""
    family, _, label = name.partition(".")
    return family, measures.classes.index(label) if label in measures.classes and label != "mean" else None


def value_in(metrics: Mapping[str, Any], name: str) -> float | None:
    """The value of a metric in what ``metrics_of`` gave; None if there is no such metric."""
    family, _, label = name.partition(".")
    value = metrics.get(family)
    if isinstance(value, Mapping):
        value = value.get(label or "mean")
    elif label:
        return None
    return None if value is None else float(value)


def _boundary_f1(near: FloatArray, predicted: FloatArray, found: FloatArray, labelled: FloatArray) -> FloatArray:
    """0 where one of the two has a boundary and the other none; NaN where neither has."""
    precision, recall = _ratio(near, predicted), _ratio(found, labelled)
    one_sided = (predicted > 0) != (labelled > 0)
    return np.where(one_sided, 0.0, np.where(precision + recall == 0, 0.0, _harmonic(precision, recall)))


def _harmonic(one: FloatArray, other: FloatArray) -> FloatArray:
    return _ratio(2 * one * other, one + other)


def _ratio(part: FloatArray, whole: FloatArray) -> FloatArray:
    """NaN where there is nothing to divide by."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(whole == 0, np.nan, np.asarray(part, np.float64) / whole)


def _mean(values: FloatArray, labelled: FloatArray) -> FloatArray:
    """Mean over the classes, the last axis, that are labelled; NaN if none is."""
    there = labelled > 0
    return _ratio(np.where(there, np.nan_to_num(values), 0.0).sum(-1), there.sum(-1).astype(np.float64))


def baseline_metric(metric: str) -> str:
    """Metric by which a model is compared with baselines: ``metric``, unless a constant prediction can have its best
    value: for a recall the IoU, for a bias the RMSE."""
    family, dot, label = metric.partition(".")
    return {"recall": f"IoU{dot}{label}", "bias": "RMSE"}.get(family, metric)

"""The callback that adds the validation metrics of each kind of prediction to the history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ununennium.tasks import Kind
from ununennium.training.callbacks.callback import Callback
from ununennium.training.callbacks.presence_metrics import PresenceMetrics
from ununennium.training.callbacks.regression_metrics import RegressionMetrics
from ununennium.training.callbacks.segmentation_metrics import SegmentationMetrics

MakeMetrics = Callable[[Sequence[str], int, Sequence[float] | None], Callback]
"""From class names, ``ignore_index`` and, of values, mean and standard deviation of the targets."""


def _of_classes(classes: Sequence[str], ignore_index: int, target_scale: Sequence[float] | None) -> Callback:
    return SegmentationMetrics(len(classes), ignore_index, classes)


def _of_presences(classes: Sequence[str], ignore_index: int, target_scale: Sequence[float] | None) -> Callback:
    return PresenceMetrics(classes)


def _of_values(classes: Sequence[str], ignore_index: int, target_scale: Sequence[float] | None) -> Callback:
    mean, std = target_scale or (0.0, 1.0)
    return RegressionMetrics(mean, std)


VALIDATION_METRICS: Mapping[Kind, MakeMetrics] = {
    "classes": _of_classes,
    "patches": _of_classes,
    "presences": _of_presences,
    "values": _of_values,
}
"""The validation metrics of each kind of prediction."""

"""The tasks as data: labels, loss, model and metrics of each, and which way a metric is better.

What a task does is in tables by ``kind``, in the packages that do it: ``data.targets.targets`` (labels and targets),
``training.callbacks.validation_metrics``, ``prediction.map_kinds`` (maps) and ``evaluation.scores``.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from ununennium.moved import former_name

Kind = Literal["classes", "patches", "presences", "values"]
"""A class for every pixel, a class for every patch, the classes present in every patch, a value for every pixel."""

LOWER_IS_BETTER = frozenset({"RMSE", "MAE"})
"""Metrics of which a good model has little; of ``bias`` the best is 0, and of all others more is better."""
_LIKES_TO_GROW = ("iou", "f1", "acc", "dice", "precision", "recall", "kappa", "auc", "r2", "epoch")


def goodness(metric: str, value: float) -> float:
    """A number that grows as ``metric`` gets better, in its own units: its value, or minus its (absolute) value."""
    family = metric.partition(".")[0]
    if family == "bias":
        return -abs(value)
    return -value if family in LOWER_IS_BETTER else value


def lower_is_better(metric: str) -> bool:
    """Tell whether a good model has little of ``metric``; of ``bias``, a distance from 0, too."""
    return goodness(metric, 1.0) < 0


def worst_value(metric: str) -> float:
    """Value of a model that has none of ``metric``: 0, or infinity for an error."""
    return math.inf if lower_is_better(metric) else 0.0


def likes_to_grow(name: str) -> bool:
    """Tell whether an entry of a history, of any library's metrics, sounds as if more of it were better."""
    return any(word in name.lower() for word in _LIKES_TO_GROW)


@dataclass(frozen=True)
class TaskSpec:
    """Task of a model.

    Attributes:
        name: as ``data.task`` has it.
        kind: of the prediction; the key of the tables.
        loss: import path of the loss, if the configuration names none.
        model: import path of the model, if the configuration names none.
        gate_metric: metric that must improve, if the configuration does not say.
        per_class: metrics of an evaluation with a value for each class, and their mean.
        overall: metrics with one value.
        headline: metrics that summaries show.
        target_dtype: of the targets.
        least_labelled: share of a chip that must belong to a fold for its labels to be judged there.
        is_bitemporal: every scene has an image before and one after.
    """

    name: str
    kind: Kind
    loss: str
    gate_metric: str
    per_class: tuple[str, ...]
    overall: tuple[str, ...]
    headline: tuple[str, ...]
    target_dtype: str
    model: str = "ununennium.models:UNet"
    least_labelled: float = 0.0
    is_bitemporal: bool = False

    @property
    def has_classes(self) -> bool:
        """Classes are predicted, not a quantity."""
        return self.kind != "values"

    @property
    def is_patchwise(self) -> bool:
        """Patches of ``chip_size`` are judged, not pixels."""
        return self.kind in ("patches", "presences")

    @property
    def is_exclusive(self) -> bool:
        """True if a target has one class: not several, and not a value."""
        return self.kind in ("classes", "patches")


_OVERALL = ("accuracy", "kappa", "frequency_weighted_IoU", "frequency_weighted_F1")
_ERRORS = ("RMSE", "MAE", "bias", "R2")

SEGMENTATION = TaskSpec(
    name="segmentation",
    kind="classes",
    loss="ununennium.losses:CrossEntropyLoss",
    gate_metric="IoU",
    per_class=("IoU", "F1", "precision", "recall", "boundary_F1"),
    overall=_OVERALL,
    headline=("IoU", "F1"),
    target_dtype="int64",
)
"""A class for every pixel."""
CHANGE = replace(SEGMENTATION, name="change", is_bitemporal=True)
"""A class for every pixel, such as unchanged and built, from an image before and one after."""
REGRESSION = TaskSpec(
    name="regression",
    kind="values",
    loss="ununennium.losses:MSELoss",
    gate_metric="RMSE",
    per_class=(),
    overall=_ERRORS,
    headline=_ERRORS,
    target_dtype="float32",
)
"""A number for every pixel, such as a height; unlabelled pixels are NaN."""
CLASSIFICATION = TaskSpec(
    name="classification",
    kind="patches",
    loss="ununennium.losses:CrossEntropyLoss",
    gate_metric="F1",
    per_class=("IoU", "F1", "precision", "recall"),
    overall=_OVERALL,
    headline=("IoU", "F1"),
    target_dtype="int64",
    model="ununennium.models:PatchClassifier",
    least_labelled=0.5,
)
"""A class for every patch of ``chip_size``: its scene's, or the most common one of its labelled pixels."""
MULTILABEL = TaskSpec(
    name="multilabel",
    kind="presences",
    loss="ununennium.losses:PresenceLoss",
    gate_metric="F1",
    per_class=("IoU", "F1", "precision", "recall"),
    overall=("accuracy",),
    headline=("F1",),
    target_dtype="float64",
    model="ununennium.models:PatchClassifier",
    least_labelled=0.5,
)
"""All classes that are in every patch of ``chip_size``: its scene's, or those of its labelled pixels."""

TASKS: Mapping[str, TaskSpec] = {
    task.name: task for task in (SEGMENTATION, CHANGE, REGRESSION, CLASSIFICATION, MULTILABEL)
}
"""The tasks by the name that ``data.task`` gives."""


def task_of(data: Mapping[str, Any]) -> TaskSpec:
    """The task of the settings ``data``; without one it is a segmentation."""
    return TASKS[data.get("task", SEGMENTATION.name)]


def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an evaluation that a summary shows; which they are is seen from what was measured."""
    for task in TASKS.values():
        if all(name in metrics for name in task.headline):
            return {name: metrics[name] for name in task.headline}
    return dict(metrics)


def progress_metrics(metrics: Collection[str]) -> list[str]:
    """Names that a line of progress shows of an epoch's ``metrics``: the losses and the main score of the task."""
    scores = dict.fromkeys(f"val_{task.headline[0]}" for task in TASKS.values())
    score = next((name for name in scores if name in metrics), None)
    return [name for name in ("train_loss", "val_loss", score) if name is not None and name in metrics]


def __getattr__(name: str) -> Any:
    return former_name(__name__, name)

"""What a model is asked for, and what follows from it: labels, loss, metrics, and which way is better.

Everything that differs between tasks is asked of one of these small objects; nothing here imports torch or rasterio
before it is needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ununennium.errors import ConfigError

if TYPE_CHECKING:
    from ununennium.data.catalog import Scene
    from ununennium.data.index import ChipIndex
    from ununennium.evaluation.scores import ClassScores
    from ununennium.training.callbacks.callback import Callback

LOWER_IS_BETTER = frozenset({"RMSE", "MAE"})
"""Metrics of which a good model has little; of ``bias`` the best is 0, and of all others more is better."""


def goodness(metric: str, value: float) -> float:
    """A number that grows as ``metric`` gets better, in its own units: its value, or minus its (absolute) value."""
    family = metric.partition(".")[0]
    if family == "bias":
        return -abs(value)
    return -value if family in LOWER_IS_BETTER else value


class Segmentation:
    """A class for every pixel.

    Attributes:
        name: as ``data.task`` has it.
        loss: import path of the loss, if the configuration names none.
        gate_metric: what must improve, if the configuration does not say.
        per_class: metrics of an evaluation with a value for each class, and their mean.
        overall: metrics with one value.
        headline: metrics that summaries show.
    """

    name = "segmentation"
    loss = "ununennium.losses:CrossEntropyLoss"
    gate_metric = "IoU"
    per_class: tuple[str, ...] = ("IoU", "F1", "precision", "recall")
    overall: tuple[str, ...] = ("accuracy", "kappa")
    headline: tuple[str, ...] = ("IoU", "F1")

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Make sure that the scenes show what the task needs.

        Raises:
            ConfigError: scenes with different numbers of dates.
        """
        for place, scene in enumerate(scenes):
            if scene.num_dates != scenes[0].num_dates:
                raise ConfigError(
                    f"data.scenes.{place}.image",
                    list(scene.images),
                    f"scene {scene.name!r} has {scene.num_dates} date(s) and scene {scenes[0].name!r} has "
                    f"{scenes[0].num_dates}; a model reads the same number of dates everywhere",
                )

    def metrics_callback(self, index: ChipIndex) -> Callback:
        """What adds the validation metrics to the history."""
        from ununennium.training.callbacks import SegmentationMetrics

        return SegmentationMetrics(len(index.classes), index.ignore_index, index.classes)

    def scores(self, index: ChipIndex) -> ClassScores:
        """What an evaluation counts."""
        from ununennium.evaluation.scores import ClassScores

        return ClassScores(index)


class Change(Segmentation):
    """A class for every pixel, such as unchanged and built, from an image before and one after."""

    name = "change"

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Make sure that every scene has two dates.

        Raises:
            ConfigError: one has not.
        """
        for place, scene in enumerate(scenes):
            if scene.num_dates != 2:
                raise ConfigError(
                    f"data.scenes.{place}.image",
                    list(scene.images),
                    "change is seen between two dates: give [before, after], two images on one grid",
                )


TASKS: Mapping[str, Segmentation] = {task.name: task for task in (Segmentation(), Change())}
"""The tasks by the name that ``data.task`` gives."""


def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an evaluation that a summary shows; which they are is seen from what was measured."""
    for task in TASKS.values():
        if all(name in metrics for name in task.headline):
            return {name: metrics[name] for name in task.headline}
    return dict(metrics)

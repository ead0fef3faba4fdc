"""What a model is asked for, and what follows from it: labels, loss, metrics, and which way is better.

Everything that differs between tasks is asked of one of these small objects; nothing here imports torch or rasterio
before it is needed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ununennium.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import nn

    from ununennium.data.chips.index import ChipIndex
    from ununennium.data.scenes.reader import SceneReader
    from ununennium.data.scenes.scene import Scene
    from ununennium.data.splits.splits import Split
    from ununennium.data.targets.labels import LabelReader
    from ununennium.data.targets.patch_labels import OfPatch
    from ununennium.data.targets.regression import TargetScale
    from ununennium.evaluation.scores import Scores
    from ununennium.training.callbacks.callback import Callback

LOWER_IS_BETTER = frozenset({"RMSE", "MAE"})
"""Metrics of which a good model has little; of ``bias`` the best is 0, and of all others more is better."""


def goodness(metric: str, value: float) -> float:
    """A number that grows as ``metric`` gets better, in its own units: its value, or minus its (absolute) value."""
    family = metric.partition(".")[0]
    if family == "bias":
        return -abs(value)
    return -value if family in LOWER_IS_BETTER else value


def worst_value(metric: str) -> float:
    """Value of a model that has none of ``metric``: 0, or infinity for an error."""
    return math.inf if goodness(metric, 1.0) < 0 else 0.0


class TargetReader(Protocol):
    """Reads what a model is to predict."""

    def read(self, row: int, col: int, height: int, width: int) -> npt.NDArray[Any]:
        """Targets of a window (height, width), the task's fill where unlabelled."""
        ...


class Task(Protocol):
    """What differs between tasks.

    Attributes:
        name: as ``data.task`` has it.
        loss: import path of the loss, if the configuration names none.
        model: import path of the model, if the configuration names none.
        gate_metric: what must improve, if the configuration does not say.
        per_class: metrics of an evaluation with a value for each class, and their mean.
        overall: metrics with one value.
        headline: metrics that summaries show.
        target_dtype: of the targets.
        least_shown: share of a chip that must belong to a fold for it to be judged there.
    """

    name: str
    loss: str
    model: str
    gate_metric: str
    per_class: tuple[str, ...]
    overall: tuple[str, ...]
    headline: tuple[str, ...]
    target_dtype: str
    least_shown: float

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Make sure that the scenes show what the task needs; raises a ConfigError."""
        ...

    def label_reader(self, scene: Scene, classes: Sequence[str], ignore_index: int) -> LabelReader:
        """A reader of class numbers, or of 0 where a pixel has a target: what the index counts."""
        ...

    def target_reader(self, scene: Scene, index: ChipIndex) -> TargetReader:
        """A reader of what a model is to predict."""
        ...

    def target_scale(self, readers: Sequence[SceneReader], split: Split) -> TargetScale | None:
        """How targets are standardised; None if they are not."""
        ...

    def fill(self, ignore_index: int) -> float:
        """The target of an unlabelled pixel."""
        ...

    def is_labelled(
        self, target: npt.NDArray[Any], ignore_index: int, number: int | None = None
    ) -> npt.NDArray[np.bool_]:
        """Which targets are not the fill; with a class's ``number``, which the index counts as that class."""
        ...

    def of_patch(self, index: ChipIndex) -> OfPatch | None:
        """What makes the target of a patch from those of its pixels; None where pixels are what is predicted."""
        ...

    def tiling(self, chip_size: int) -> tuple[int, int | None]:
        """Tile and overlap, in pixels, with which a region is predicted; None for the usual overlap."""
        ...

    def dense(self, model: nn.Module) -> nn.Module:
        """``model``, with an output for every pixel."""
        ...

    def metrics_callback(self, index: ChipIndex) -> Callback:
        """What adds the validation metrics to the history."""
        ...

    def scores(
        self,
        classes: Sequence[str],
        ignore_index: int,
        target_scale: Sequence[float] | None,
        tile: int,
        block_size: int = 128,
    ) -> Scores:
        """What an evaluation counts, in spatial blocks of ``block_size`` pixels."""
        ...


class PerPixel:
    """What tasks share that predict something for every pixel."""

    model = "ununennium.models:UNet"
    least_shown = 0.0

    def of_patch(self, index: ChipIndex) -> OfPatch | None:
        """Pixels are what is predicted."""
        return None

    def tiling(self, chip_size: int) -> tuple[int, int | None]:
        """Tiles of at least 256 pixels, blended."""
        return max(256, chip_size), None

    def dense(self, model: nn.Module) -> nn.Module:
        """As it is."""
        return model


class Segmentation(PerPixel):
    """A class for every pixel."""

    name = "segmentation"
    loss = "ununennium.losses:CrossEntropyLoss"
    gate_metric = "IoU"
    per_class: tuple[str, ...] = ("IoU", "F1", "precision", "recall", "boundary_F1")
    overall: tuple[str, ...] = ("accuracy", "kappa", "frequency_weighted_IoU", "frequency_weighted_F1")
    headline: tuple[str, ...] = ("IoU", "F1")
    target_dtype = "int64"

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Make sure that all scenes have the same number of dates, and no classes of their own."""
        _check_pixels(scenes)

    def label_reader(self, scene: Scene, classes: Sequence[str], ignore_index: int) -> LabelReader:
        """Class numbers."""
        from ununennium.data.targets.labels import LabelReader

        return LabelReader(scene, classes, ignore_index)

    def target_reader(self, scene: Scene, index: ChipIndex) -> TargetReader:
        """Class numbers, too."""
        return index.labels(scene)

    def target_scale(self, readers: Sequence[SceneReader], split: Split) -> None:
        """Class numbers have none."""
        return

    def fill(self, ignore_index: int) -> float:
        """``ignore_index``."""
        return ignore_index

    def is_labelled(
        self, target: npt.NDArray[Any], ignore_index: int, number: int | None = None
    ) -> npt.NDArray[np.bool_]:
        """Not ``ignore_index``; or the class itself."""
        labelled: npt.NDArray[np.bool_] = target != ignore_index if number is None else target == number
        return labelled

    def metrics_callback(self, index: ChipIndex) -> Callback:
        """``val_IoU`` and the like."""
        from ununennium.training.callbacks import SegmentationMetrics

        return SegmentationMetrics(len(index.classes), index.ignore_index, index.classes)

    def scores(
        self,
        classes: Sequence[str],
        ignore_index: int,
        target_scale: Sequence[float] | None,
        tile: int,
        block_size: int = 128,
    ) -> Scores:
        """One confusion matrix."""
        from ununennium.evaluation.scores import ClassScores

        return ClassScores(classes, ignore_index, block_size)


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


class Classification(Segmentation):
    """A class for every patch of ``chip_size``: its scene's, or the most common one of its labelled pixels."""

    name = "classification"
    model = "ununennium.models:PatchClassifier"
    gate_metric = "F1"
    per_class: tuple[str, ...] = ("IoU", "F1", "precision", "recall")
    least_shown = 0.5

    def label_reader(self, scene: Scene, classes: Sequence[str], ignore_index: int) -> LabelReader:
        """The scene's classes, or class numbers from its label file."""
        from ununennium.data.targets.labels import LabelReader
        from ununennium.data.targets.patch_labels import SceneLabelReader

        return (SceneLabelReader if scene.label is None else LabelReader)(scene, classes, ignore_index)

    def of_patch(self, index: ChipIndex) -> OfPatch | None:
        """The most common class."""
        from ununennium.data.targets.patch_labels import most_common_class

        return most_common_class(len(index.classes), index.ignore_index)

    def tiling(self, chip_size: int) -> tuple[int, int | None]:
        """Patches side by side."""
        return chip_size, 0

    def dense(self, model: nn.Module) -> nn.Module:
        """Every pixel gets its patch's output."""
        from ununennium.models import Patchwise

        return Patchwise(model)

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Make sure that all scenes have the same number of dates, and either a label or classes, not too many.

        Raises:
            ConfigError: one has not.
        """
        _check_dates(scenes)
        for place, scene in enumerate(scenes):
            field, given = f"data.scenes.{place}.classes", list(scene.classes)
            if scene.classes and scene.label is not None:
                raise ConfigError(field, given, f"scene {scene.name!r} has a label file, too; give one of them")
            if len(scene.classes) > 1 and self.name == "classification":
                remedy = "a classification knows one class per scene; give one, or set data.task: multilabel"
                raise ConfigError(field, given, remedy)

    def scores(
        self,
        classes: Sequence[str],
        ignore_index: int,
        target_scale: Sequence[float] | None,
        tile: int,
        block_size: int = 128,
    ) -> Scores:
        """One confusion matrix of patches."""
        from ununennium.evaluation.scores import PatchScores

        return PatchScores(classes, ignore_index, tile, block_size)


class MultiLabel(Classification):
    """Which classes are in every patch of ``chip_size``: its scene's, or those of its labelled pixels."""

    name = "multilabel"
    loss = "ununennium.losses:PresenceLoss"
    per_class: tuple[str, ...] = ("IoU", "F1", "precision", "recall")
    overall: tuple[str, ...] = ("accuracy",)
    headline: tuple[str, ...] = ("F1",)
    target_dtype = "float64"

    def target_reader(self, scene: Scene, index: ChipIndex) -> TargetReader:
        """All classes that a pixel stands for."""
        from ununennium.data.targets.patch_labels import PresenceReader

        return PresenceReader(index.labels(scene))

    def fill(self, ignore_index: int) -> float:
        """NaN."""
        return float("nan")

    def is_labelled(
        self, target: npt.NDArray[Any], ignore_index: int, number: int | None = None
    ) -> npt.NDArray[np.bool_]:
        """Not NaN; or standing for the class."""
        from ununennium.data.targets.patch_labels import has_class

        return target == target if number is None else has_class(target, number)

    def of_patch(self, index: ChipIndex) -> OfPatch | None:
        """All classes that are present."""
        from ununennium.data.targets.patch_labels import classes_present

        return classes_present(len(index.classes))

    def metrics_callback(self, index: ChipIndex) -> Callback:
        """``val_F1`` and the like."""
        from ununennium.training.callbacks import PresenceMetrics

        return PresenceMetrics(index.classes)

    def scores(
        self,
        classes: Sequence[str],
        ignore_index: int,
        target_scale: Sequence[float] | None,
        tile: int,
        block_size: int = 128,
    ) -> Scores:
        """Each class on its own."""
        from ununennium.evaluation.scores import PresenceScores

        return PresenceScores(classes, ignore_index, tile, block_size)


class Regression(PerPixel):
    """A number for every pixel, such as a height; unlabelled pixels are NaN."""

    name = "regression"
    loss = "ununennium.losses:MSELoss"
    gate_metric = "RMSE"
    per_class: tuple[str, ...] = ()
    overall: tuple[str, ...] = ("RMSE", "MAE", "bias", "R2")
    headline: tuple[str, ...] = overall
    target_dtype = "float32"

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Make sure that all scenes have the same number of dates, and no classes of their own."""
        _check_pixels(scenes)

    def label_reader(self, scene: Scene, classes: Sequence[str], ignore_index: int) -> LabelReader:
        """0 where there is a value."""
        from ununennium.data.targets.regression import PresenceReader

        return PresenceReader(scene, classes, ignore_index)

    def target_reader(self, scene: Scene, index: ChipIndex) -> TargetReader:
        """Standardised values."""
        from ununennium.data.targets.regression import ValueReader

        return ValueReader(scene, index.target_scale)

    def target_scale(self, readers: Sequence[SceneReader], split: Split) -> TargetScale:
        """Mean and standard deviation of the training fold's values."""
        from ununennium.data.targets.regression import target_scale

        return target_scale(readers, split)

    def fill(self, ignore_index: int) -> float:
        """NaN."""
        return float("nan")

    def is_labelled(
        self, target: npt.NDArray[Any], ignore_index: int, number: int | None = None
    ) -> npt.NDArray[np.bool_]:
        """Not NaN: that is the one class which the index counts."""
        labelled: npt.NDArray[np.bool_] = target == target
        return labelled

    def metrics_callback(self, index: ChipIndex) -> Callback:
        """``val_RMSE`` and the like, in the targets' own unit."""
        from ununennium.training.callbacks import RegressionMetrics

        return RegressionMetrics(*(index.target_scale or (0.0, 1.0)))

    def scores(
        self,
        classes: Sequence[str],
        ignore_index: int,
        target_scale: Sequence[float] | None,
        tile: int,
        block_size: int = 128,
    ) -> Scores:
        """Moments of errors and targets."""
        from ununennium.evaluation.scores import ValueScores

        mean, std = target_scale or (0.0, 1.0)
        return ValueScores(classes[0], mean, std, block_size)


def _check_pixels(scenes: Sequence[Scene]) -> None:
    _check_dates(scenes)
    for place, scene in enumerate(scenes):
        if scene.classes:
            remedy = "a scene has classes of its own for data.task: classification or multilabel only; leave them out"
            raise ConfigError(f"data.scenes.{place}.classes", list(scene.classes), remedy)


def _check_dates(scenes: Sequence[Scene]) -> None:
    for place, scene in enumerate(scenes):
        if scene.num_dates != scenes[0].num_dates:
            raise ConfigError(
                f"data.scenes.{place}.image",
                list(scene.images),
                f"scene {scene.name!r} has {scene.num_dates} date(s) and scene {scenes[0].name!r} has "
                f"{scenes[0].num_dates}; a model reads the same number of dates everywhere",
            )


_ALL: tuple[Task, ...] = (Segmentation(), Change(), Regression(), Classification(), MultiLabel())
TASKS: Mapping[str, Task] = {task.name: task for task in _ALL}
"""The tasks by the name that ``data.task`` gives."""


def headline(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """The metrics of an evaluation that a summary shows; which they are is seen from what was measured."""
    for task in TASKS.values():
        if all(name in metrics for name in task.headline):
            return {name: metrics[name] for name in task.headline}
    return dict(metrics)

"""The targets of each kind of prediction: how they are read, what an unlabelled one is, and what a patch's is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ununennium.data.scenes.reader import SceneReader
from ununennium.data.scenes.scene import Scene
from ununennium.data.targets.labels import LabelReader
from ununennium.data.targets.patch_labels import (
    OfPatch,
    PresenceReader,
    SceneLabelReader,
    classes_present,
    has_class,
    most_common_class,
)
from ununennium.data.targets.regression import IsTraining, TargetScale, ValueReader, target_scale
from ununennium.data.targets.regression import PresenceReader as LabelledReader
from ununennium.errors import ConfigError
from ununennium.tasks import Kind, TaskSpec


class TargetReader(Protocol):
    """Reads what a model is to predict."""

    def read(self, row: int, col: int, height: int, width: int) -> npt.NDArray[Any]:
        """Targets of a window (height, width), the fill where unlabelled."""
        ...


class Targets(Protocol):
    """The targets of one kind of prediction."""

    @property
    def fill(self) -> float:
        """The target of an unlabelled pixel."""
        ...

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Make sure that the scenes' labels are what the kind needs; raises a ConfigError."""
        ...

    def label_reader(self, scene: Scene) -> LabelReader:
        """A reader of class numbers, or of 0 where a pixel has a target: what the index counts."""
        ...

    def target_reader(self, scene: Scene, scale: TargetScale | None) -> TargetReader:
        """A reader of what a model is to predict, standardised by ``scale`` where it is a value."""
        ...

    def target_scale(self, readers: Sequence[SceneReader], is_training: IsTraining) -> TargetScale | None:
        """Standardisation of targets; None if there is none."""
        ...

    def is_labelled(self, target: npt.NDArray[Any], number: int | None = None) -> npt.NDArray[np.bool_]:
        """Mask of targets that are not the fill; with a ``number``, of those that the index counts as that class."""
        ...

    def of_patch(self) -> OfPatch | None:
        """From the targets of a patch's pixels to the patch's own; None where pixels are what is predicted."""
        ...


@dataclass(frozen=True)
class ClassTargets:
    """A class for every pixel.

    Args:
        classes: class names.
        ignore_index: label value of unlabelled pixels.
    """

    classes: Sequence[str]
    ignore_index: int

    @property
    def fill(self) -> float:
        """``ignore_index``."""
        return self.ignore_index

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Make sure that no scene has classes of its own."""
        _check_no_classes(scenes)

    def label_reader(self, scene: Scene) -> LabelReader:
        """Class numbers."""
        return LabelReader(scene, self.classes, self.ignore_index)

    def target_reader(self, scene: Scene, scale: TargetScale | None) -> TargetReader:
        """Class numbers, too."""
        return self.label_reader(scene)

    def target_scale(self, readers: Sequence[SceneReader], is_training: IsTraining) -> None:
        """Class numbers have none."""
        return

    def is_labelled(self, target: npt.NDArray[Any], number: int | None = None) -> npt.NDArray[np.bool_]:
        """Not ``ignore_index``; or the class itself."""
        labelled: npt.NDArray[np.bool_] = target != self.ignore_index if number is None else target == number
        return labelled

    def of_patch(self) -> OfPatch | None:
        """Pixels are what is predicted."""
        return None


class PatchClassTargets(ClassTargets):
    """A class for every patch: its scene's, or the most common one of its labelled pixels."""

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Make sure that every scene has either a label file or one class."""
        _check_own_classes(scenes, most=1)

    def label_reader(self, scene: Scene) -> LabelReader:
        """The scene's classes, or class numbers from its label file."""
        reader = SceneLabelReader if scene.label is None else LabelReader
        return reader(scene, self.classes, self.ignore_index)

    def of_patch(self) -> OfPatch | None:
        """The most common class."""
        return most_common_class(len(self.classes), self.ignore_index)


class PresenceTargets(PatchClassTargets):
    """The classes present in every patch: its scene's, or those of its labelled pixels."""

    @property
    def fill(self) -> float:
        """NaN."""
        return float("nan")

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Make sure that every scene has either a label file or classes."""
        _check_own_classes(scenes)

    def target_reader(self, scene: Scene, scale: TargetScale | None) -> TargetReader:
        """All classes that a pixel stands for."""
        return PresenceReader(self.label_reader(scene))

    def is_labelled(self, target: npt.NDArray[Any], number: int | None = None) -> npt.NDArray[np.bool_]:
        """Not NaN; or standing for the class."""
        return _is_number(target) if number is None else has_class(target, number)

    def of_patch(self) -> OfPatch | None:
        """All classes that are present."""
        return classes_present(len(self.classes))


@dataclass(frozen=True)
class ValueTargets:
    """A number for every pixel.

    Args:
        classes: the one name of the quantity.
        ignore_index: value of pixels without a target, where the index counts those with one.
    """

    classes: Sequence[str]
    ignore_index: int

    @property
    def fill(self) -> float:
        """NaN."""
        return float("nan")

    def check_scenes(self, scenes: Sequence[Scene]) -> None:
        """Make sure that no scene has classes of its own."""
        _check_no_classes(scenes)

    def label_reader(self, scene: Scene) -> LabelReader:
        """0 where there is a value."""
        return LabelledReader(scene, self.classes, self.ignore_index)

    def target_reader(self, scene: Scene, scale: TargetScale | None) -> TargetReader:
        """Standardised values."""
        return ValueReader(scene, scale)

    def target_scale(self, readers: Sequence[SceneReader], is_training: IsTraining) -> TargetScale:
        """Mean and standard deviation of the training fold's values."""
        return target_scale(readers, is_training)

    def is_labelled(self, target: npt.NDArray[Any], number: int | None = None) -> npt.NDArray[np.bool_]:
        """Not NaN: that is the one class which the index counts."""
        return _is_number(target)

    def of_patch(self) -> OfPatch | None:
        """Pixels are what is predicted."""
        return None


TARGETS: Mapping[Kind, type[ClassTargets] | type[ValueTargets]] = {
    "classes": ClassTargets,
    "patches": PatchClassTargets,
    "presences": PresenceTargets,
    "values": ValueTargets,
}
"""The targets of each kind of prediction."""


def targets_of(task: TaskSpec, classes: Sequence[str], ignore_index: int) -> Targets:
    """The targets of a task with these classes."""
    return TARGETS[task.kind](classes, ignore_index)


def check_scenes(task: TaskSpec, scenes: Sequence[Scene]) -> None:
    """Make sure that scenes show what a task needs.

    Raises:
        ConfigError: one has another number of dates, or labels that are not the task's.
    """
    (_check_two_dates if task.is_bitemporal else _check_dates)(scenes)
    targets_of(task, (), 0).check_scenes(scenes)


def _is_number(target: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    is_number: npt.NDArray[np.bool_] = target == target
    return is_number


def _check_no_classes(scenes: Sequence[Scene]) -> None:
    for scene_index, scene in enumerate(scenes):
        if scene.classes:
            remedy = "a scene has classes of its own for data.task: classification or multilabel only; leave them out"
            raise ConfigError(f"data.scenes.{scene_index}.classes", list(scene.classes), remedy)


def _check_own_classes(scenes: Sequence[Scene], most: int | None = None) -> None:
    for scene_index, scene in enumerate(scenes):
        field, given = f"data.scenes.{scene_index}.classes", list(scene.classes)
        if scene.classes and scene.label is not None:
            raise ConfigError(field, given, f"scene {scene.name!r} has a label file, too; give one of them")
        if most is not None and len(scene.classes) > most:
            remedy = "a classification knows one class per scene; give one, or set data.task: multilabel"
            raise ConfigError(field, given, remedy)


def _check_two_dates(scenes: Sequence[Scene]) -> None:
    for scene_index, scene in enumerate(scenes):
        if scene.num_dates != 2:
            raise ConfigError(
                f"data.scenes.{scene_index}.image",
                list(scene.images),
                "change is seen between two dates: give [before, after], two images on one grid",
            )


def _check_dates(scenes: Sequence[Scene]) -> None:
    for scene_index, scene in enumerate(scenes):
        if scene.num_dates != scenes[0].num_dates:
            raise ConfigError(
                f"data.scenes.{scene_index}.image",
                list(scene.images),
                f"scene {scene.name!r} has {scene.num_dates} date(s) and scene {scenes[0].name!r} has "
                f"{scenes[0].num_dates}; a model reads the same number of dates everywhere",
            )

"""Patches: labels of scenes that have classes of their own, and what a patch's pixels say of it as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ununennium.data.scenes.scene import Scene
from ununennium.data.targets.labels import LabelArray, LabelReader
from ununennium.errors import DataError

if TYPE_CHECKING:  # indexing needs no torch
    from torch import Tensor

_MOST_CLASSES = 53
OfPatch = Callable[["Tensor"], "Tensor"]
"""From the targets of pixels, (B, height, width), to that of each patch, (B, ...)."""


class SceneLabelReader(LabelReader):
    """Reads the classes of a scene that has no label file.

    Every pixel has one of the scene's classes; several take turns along the diagonals, so that the index, which counts
    pixels, meets all of them.

    Args:
        scene: a scene without labels.
        classes: class names; a class's value is its place.
        ignore_index: the value outside the scene.

    Raises:
        DataError: the scene names no class, or one that is none.
    """

    def __init__(self, scene: Scene, classes: Sequence[str], ignore_index: int) -> None:
        unknown = [name for name in scene.classes if name not in classes]
        if unknown or not scene.classes:
            problem = f"{unknown[0]!r} is no class" if unknown else "it has neither a label file nor a class of its own"
            raise DataError(
                f"scene {scene.name!r}: {problem}; give data.scenes[].classes (a table: a column; a folder: "
                f"data.catalog.class_from) names out of data.classes: {', '.join(classes)}"
            )
        self._set_up(scene, classes, ignore_index)
        self._own = np.array([self.classes.index(name) for name in scene.classes], np.int64)

    def _read_inside(self, row: int, col: int, height: int, width: int) -> LabelArray:
        diagonal = (row + np.arange(height))[:, None] + (col + np.arange(width))
        own: LabelArray = self._own[diagonal % len(self._own)]
        return own


class PresenceReader:
    """Reads which classes every pixel stands for: all of its scene's, or the one that its label has.

    They are the binary digits of a number, in float64, which has 53.

    Args:
        labels: the scene's labels.

    Raises:
        DataError: more classes than digits.
    """

    def __init__(self, labels: LabelReader) -> None:
        if len(labels.classes) > _MOST_CLASSES:
            raise DataError(
                f"data.classes has {len(labels.classes)} names; several at a time are at most {_MOST_CLASSES}"
            )
        self._labels = labels
        own = {labels.classes.index(name) for name in labels.scene.classes} if labels.scene.label is None else set()
        self._of_scene = sum(2.0**number for number in own)

    def read(self, row: int, col: int, height: int, width: int) -> npt.NDArray[np.float64]:
        """The classes of a window, float64 (height, width); NaN where unlabelled."""
        labels = self._labels.read(row, col, height, width)
        unlabelled = labels == self._labels.ignore_index
        digits = np.exp2(np.where(unlabelled, 0, labels), dtype=np.float64)
        digits[unlabelled] = np.nan
        return np.where(unlabelled, np.nan, self._of_scene) if self._of_scene else digits


def has_class(target: npt.NDArray[np.float64], number: int) -> npt.NDArray[np.bool_]:
    """Mask of the pixels that ``PresenceReader`` read as a class."""
    digits: npt.NDArray[np.bool_] = np.floor(np.nan_to_num(target) / 2.0**number) % 2 == 1
    return digits


def class_counts(target: Tensor, num_classes: int, ignore_index: int) -> Tensor:
    """Labelled pixels of each class in each patch.

    Args:
        target: class numbers, int64 (B, height, width).
        num_classes: classes K.
        ignore_index: of unlabelled pixels.

    Returns:
        int64 (B, K).
    """
    flat = target.flatten(1)
    flat = flat.masked_fill(flat == ignore_index, num_classes)
    counts = flat.new_zeros(len(flat), num_classes + 1)
    return counts.scatter_add_(1, flat, flat.new_ones(flat.shape))[:, :num_classes]


def most_common_class(num_classes: int, ignore_index: int) -> OfPatch:
    """Each patch's most common class, the first of equals: int64 (B,), ``ignore_index`` where nothing is labelled."""

    def of_patch(target: Tensor) -> Tensor:
        counts = class_counts(target, num_classes, ignore_index)
        return counts.argmax(1).masked_fill(counts.sum(1) == 0, ignore_index)

    return of_patch


def classes_present(num_classes: int) -> OfPatch:
    """Classes in each patch: float32 (B, K) of 0 and 1; NaN where nothing is labelled.

    It takes what ``PresenceReader`` reads.
    """

    def of_patch(target: Tensor) -> Tensor:
        flat = target.flatten(1)
        known = ~flat.isnan()
        digits = flat.masked_fill(~known, 0.0).long()
        present = digits.new_zeros(len(digits), num_classes)
        for number in range(num_classes):
            present[:, number] = ((digits >> number) & 1).any(1)
        return present.float().masked_fill(~known.any(1, keepdim=True), float("nan"))

    return of_patch


class PatchTargets:
    """A Trainer's ``batch_transform``: a patch's target is what its pixels are, after all that turns and zooms them.

    Args:
        of_patch: makes the targets.
        inner: done before; None for a loader that has done everything.
    """

    def __init__(self, of_patch: OfPatch, inner: Callable[..., tuple[Tensor, Tensor]] | None = None) -> None:
        self.of_patch = of_patch
        self.inner = inner

    def __call__(
        self, image: Tensor, target: Tensor, valid: Tensor | None, *, training: bool, epoch: int, batch: int
    ) -> tuple[Tensor, Tensor]:
        """Image and targets of a batch; see ``DeviceTransform`` for the arguments."""
        if self.inner is not None:
            image, target = self.inner(image, target, valid, training=training, epoch=epoch, batch=batch)
        return image, self.of_patch(target)

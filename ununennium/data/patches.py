"""Patches: labels of scenes that have classes of their own, and what a patch's pixels say of it as a whole."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ununennium.data.catalog import Scene
from ununennium.data.labels import LabelArray, LabelReader
from ununennium.data.reader import clip
from ununennium.errors import DataError

OfPatch = Callable[[Tensor], Tensor]
"""From class numbers of pixels, int64 (B, height, width), to the target of each patch, (B, ...)."""


class SceneLabelReader(LabelReader):
    """Reads the classes of a scene that has no label file.

    Every pixel has one of the scene's classes. Several take turns along the diagonals, so that whatever looks at a
    patch, or counts its pixels, meets all of them.

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
        self.scene = scene
        self.classes = tuple(classes)
        self.ignore_index = ignore_index
        self._numbers = np.array([self.classes.index(name) for name in scene.classes], np.int64)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__

    def read(self, row: int, col: int, height: int, width: int) -> LabelArray:
        """The scene's classes in a window, int64 (height, width); ``ignore_index`` outside the scene."""
        labels = np.full((height, width), self.ignore_index, np.int64)
        inside = clip(row, col, height, width, self.scene)
        if inside is not None:
            here, (top, left, rows, columns) = inside
            diagonal = (top + np.arange(rows))[:, None] + (left + np.arange(columns))
            labels[here] = self._numbers[diagonal % len(self._numbers)]
        return labels


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
    counts = torch.zeros(len(flat), num_classes + 1, dtype=torch.int64, device=target.device)
    return counts.scatter_add_(1, flat, torch.ones_like(flat))[:, :num_classes]


def most_common_class(num_classes: int, ignore_index: int) -> OfPatch:
    """Each patch's most common class, the first of equals: int64 (B,), ``ignore_index`` where nothing is labelled."""

    def of_patch(target: Tensor) -> Tensor:
        counts = class_counts(target, num_classes, ignore_index)
        return counts.argmax(1).masked_fill(counts.sum(1) == 0, ignore_index)

    return of_patch


def classes_present(num_classes: int, ignore_index: int) -> OfPatch:
    """Which classes each patch shows: float32 (B, K) of 0 and 1; NaN where nothing is labelled."""

    def of_patch(target: Tensor) -> Tensor:
        counts = class_counts(target, num_classes, ignore_index)
        return (counts > 0).float().masked_fill(counts.sum(1, keepdim=True) == 0, torch.nan)

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

"""Counts of an evaluation for each kind of prediction, beside the map that it draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ununennium.data.targets.patch_labels import classes_present, most_common_class
from ununennium.errors import DataError
from ununennium.evaluation.block_sums import BlockScene, UnitSums
from ununennium.evaluation.boundary import BoundaryCounter
from ununennium.evaluation.measures import Kind, measures_of
from ununennium.moved import former_name
from ununennium.prediction.map_kinds import ClassMap, MapKind, PatchClassMap, PresenceMap, ValueMap
from ununennium.tasks import Kind as TaskKind

_LEAST_SHOWN = 0.5

if TYPE_CHECKING:
    from ununennium.data.scenes.reader import BoolArray


class Counted(NamedTuple):
    """Pixels or patches that are counted, and their classes.

    Attributes:
        probabilities: float32 (K, n).
        labels: int64 (n,).
        where: bool (rows, width), the n pixels, in row-major order; of a patch its centre.
    """

    probabilities: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    where: BoolArray


class Scores(MapKind, Protocol):
    """A map, and what an evaluation counts of it.

    Attributes:
        kind: kind of sums.
        sums: the sums so far.
    """

    kind: Kind
    sums: UnitSums

    def begin(self, scene: BlockScene, row: int, col: int) -> None:
        """Go on with the window of a scene whose first pixel is ``row``, ``col`` of it."""
        ...

    def update(self, row: int, predicted: npt.NDArray[Any], target: npt.NDArray[Any], valid: BoolArray) -> None:
        """Count the labelled valid pixels of what ``predict`` gave; ``row`` counts from the window's top."""
        ...

    def counted(
        self, probabilities: npt.NDArray[np.float32], target: npt.NDArray[Any], valid: BoolArray
    ) -> Counted | None:
        """Labels that ``update`` counts; None where nothing has a class."""
        ...

    def end(self) -> None:
        """The window has been counted."""
        ...


class ClassScores(ClassMap):
    """Counts predicted classes in one confusion matrix, and boundaries.

    Args:
        classes: class names.
        ignore_index: label value of unlabelled pixels.
        block_size: side of a spatial block in pixels.
    """

    kind: Kind = "pixels"

    def __init__(self, classes: Sequence[str], ignore_index: int, block_size: int = 128) -> None:
        super().__init__(classes)
        self.ignore_index = ignore_index
        self.sums = UnitSums(self.kind, measures_of(self.kind, self.classes).num_cells, block_size)
        self._boundaries: BoundaryCounter | None = None

    def begin(self, scene: BlockScene, row: int, col: int) -> None:
        """Go on with the window of a scene whose first pixel is ``row``, ``col`` of it."""
        self.sums.begin(scene, row, col)
        number = len(self.classes)
        self._boundaries = BoundaryCounter(self.sums, number, self.ignore_index, number**2)

    def update(self, row: int, predicted: npt.NDArray[Any], target: npt.NDArray[Any], valid: BoolArray) -> None:
        """Count the labelled valid pixels.

        Args:
            row: of the window.
            predicted: output of ``predict``.
            target: labels, int64 (rows, width).
            valid: bool (rows, width).

        Raises:
            DataError: a label is outside the classes.
        """
        labels = np.where(valid, target, self.ignore_index)
        where = labels != self.ignore_index
        self.sums.add(row, where, self._cells(labels[where], predicted[where]))
        assert self._boundaries is not None
        self._boundaries.update(predicted, labels)

    def counted(
        self, probabilities: npt.NDArray[np.float32], target: npt.NDArray[Any], valid: BoolArray
    ) -> Counted | None:
        """Of the labelled valid pixels."""
        where = valid & (target != self.ignore_index)
        return Counted(probabilities[:, where], target[where], where)

    def end(self) -> None:
        """The window has been counted."""
        assert self._boundaries is not None
        self._boundaries.finish()

    def _cells(self, labels: npt.NDArray[Any], predicted: npt.NDArray[Any]) -> npt.NDArray[Any]:
        number = len(self.classes)
        wrong = labels[(labels < 0) | (labels >= number)]
        if len(wrong):
            raise DataError(f"label {int(wrong[0])} is outside the classes 0..{number - 1}")
        cells: npt.NDArray[Any] = labels * number + predicted
        return cells


class PatchScores(PatchClassMap, ClassScores):
    """Counts patches in one confusion matrix, each by the most common class of its labelled valid pixels.

    Args:
        classes: class names.
        ignore_index: label value of unlabelled pixels.
        patch: side of a patch in pixels; a strip is one row of them.
        block_size: side of a spatial block in pixels; a patch lies in that of its centre.
    """

    kind: Kind = "patches"

    def __init__(self, classes: Sequence[str], ignore_index: int, patch: int, block_size: int = 128) -> None:
        ClassScores.__init__(self, classes, ignore_index, block_size)
        self.patch = patch
        self._of_patch = most_common_class(len(self.classes), ignore_index)

    def update(self, row: int, predicted: npt.NDArray[Any], target: npt.NDArray[Any], valid: BoolArray) -> None:
        """Count the patches that are valid by half and have a labelled pixel.

        Args:
            row: of the window.
            predicted: output of ``predict``, constant over a patch.
            target: labels, int64 (rows, width).
            valid: bool (rows, width).
        """
        for part, label in self._patches(target, valid):
            seen = predicted[:, part][valid[:, part]][:1]
            self.sums.add(row, centre(valid.shape, part), self._cells(np.array([label]), seen))

    def counted(
        self, probabilities: npt.NDArray[np.float32], target: npt.NDArray[Any], valid: BoolArray
    ) -> Counted | None:
        """Of the patches that ``update`` counts."""
        found = list(self._patches(target, valid))
        labels = np.array([label for _, label in found], np.int64)
        nothing = np.zeros((len(self.classes), 0), np.float32)
        values = [probabilities[:, :, part][:, valid[:, part]][:, :1] for part, _ in found]
        where = np.zeros(valid.shape, np.bool_)
        for part, _ in found:
            where |= centre(valid.shape, part)
        return Counted(np.concatenate([nothing, *values], 1), labels, where)

    def _patches(self, target: npt.NDArray[Any], valid: BoolArray) -> Iterator[tuple[slice, int]]:
        for part, labels in patches_of(target, valid, self.patch, self.ignore_index):
            label = int(self._of_patch(labels)[0])
            if label != self.ignore_index:
                yield part, label


class PresenceScores(PresenceMap):
    """Counts, for each class on its own, the patches that show it.

    Args:
        classes: class names.
        ignore_index: label value of unlabelled pixels.
        patch: side of a patch in pixels; a strip is one row of them.
        block_size: side of a spatial block in pixels; a patch lies in that of its centre.
    """

    kind: Kind = "presences"

    def __init__(self, classes: Sequence[str], ignore_index: int, patch: int, block_size: int = 128) -> None:
        super().__init__(classes)
        self.ignore_index = ignore_index
        self.patch = patch
        self.sums = UnitSums(self.kind, 4 * len(self.classes), block_size)
        self._of_patch = classes_present(len(self.classes))

    def begin(self, scene: BlockScene, row: int, col: int) -> None:
        """Go on with the window of a scene whose first pixel is ``row``, ``col`` of it."""
        self.sums.begin(scene, row, col)

    def update(self, row: int, predicted: npt.NDArray[Any], target: npt.NDArray[Any], valid: BoolArray) -> None:
        """Count the patches that are valid by half and have a labelled pixel.

        Args:
            row: of the window.
            predicted: output of ``predict``, constant over a patch.
            target: as ``PresenceReader`` reads them, float64 (rows, width).
            valid: bool (rows, width).
        """
        for part, labels in patches_of(target, valid, self.patch, np.nan):
            seen = predicted[:, :, part][:, valid[:, part]][:, 0].astype(np.bool_)
            there = self._of_patch(labels)[0].numpy()
            known = np.flatnonzero(~np.isnan(there))
            case = 2 * ~seen[known] + (there[known] != 1.0)  # hit, false, missed, rejected
            for cell in (4 * known + case).tolist():
                self.sums.add(row, centre(valid.shape, part), np.array([cell]))

    def counted(
        self, probabilities: npt.NDArray[np.float32], target: npt.NDArray[Any], valid: BoolArray
    ) -> Counted | None:
        """A patch may show several classes, or none."""
        return None

    def end(self) -> None:
        """Nothing is left to do."""


def centre(shape: tuple[int, ...], part: slice) -> BoolArray:
    """Only the middle pixel of a patch in a row of them, bool (rows, width)."""
    found = np.zeros(shape, np.bool_)
    found[shape[0] // 2, (part.start + min(part.stop, shape[1])) // 2] = True
    return found


def patches_of(
    target: npt.NDArray[Any], valid: BoolArray, patch: int, fill: float
) -> Iterator[tuple[slice, torch.Tensor]]:
    """The patches of a row of them that are valid by half at least: their columns, and targets (1, rows, columns).

    A sliver at the edge of a scene or of a fold says little of the whole patch that the model is asked about.
    """
    labels = np.where(valid, target, fill)
    for left in range(0, labels.shape[1], patch):
        part = slice(left, left + patch)
        if valid[:, part].sum() >= _LEAST_SHOWN * patch**2:
            yield part, torch.from_numpy(np.ascontiguousarray(labels[None, :, part]))


class ValueScores(ValueMap):
    """Sums errors of predicted values, in the targets' own unit.

    Args:
        name: of the quantity.
        mean: a value is ``mean + std * target``.
        std: the same.
        block_size: side of a spatial block in pixels.
    """

    kind: Kind = "values"

    def __init__(self, name: str, mean: float = 0.0, std: float = 1.0, block_size: int = 128) -> None:
        super().__init__(name, mean, std)
        self.sums = UnitSums(self.kind, 6, block_size)
        self._origin: float | None = None  # the first target: squares about it lose less to rounding than about 0

    def begin(self, scene: BlockScene, row: int, col: int) -> None:
        """Go on with the window of a scene whose first pixel is ``row``, ``col`` of it."""
        self.sums.begin(scene, row, col)

    def update(self, row: int, predicted: npt.NDArray[Any], target: npt.NDArray[Any], valid: BoolArray) -> None:
        """Sum over the labelled valid pixels.

        Args:
            row: of the window.
            predicted: output of ``predict``.
            target: standardised, (rows, width), NaN where unlabelled.
            valid: bool (rows, width).
        """
        where = valid & ~np.isnan(target)
        truth = self.std * target[where].astype(np.float64)
        error = self.std * predicted[where].astype(np.float64) - truth
        if self._origin is None and len(truth):
            self._origin = float(truth[0])
        truth -= self._origin or 0.0
        for cell, values in enumerate((None, error, error**2, np.abs(error), truth, truth**2)):
            self.sums.add(row, where, np.full(len(error), cell), values)

    def counted(
        self, probabilities: npt.NDArray[np.float32], target: npt.NDArray[Any], valid: BoolArray
    ) -> Counted | None:
        """Values have no class."""
        return None

    def end(self) -> None:
        """Nothing is left to do."""


MakeScores = Callable[[Sequence[str], int, Sequence[float] | None, int, int], Scores]
"""From class names, ``ignore_index``, of values mean and standard deviation of the targets, side of a patch and of a
spatial block in pixels."""


def _class_scores(
    classes: Sequence[str], ignore_index: int, target_scale: Sequence[float] | None, patch: int, block_size: int
) -> Scores:
    return ClassScores(classes, ignore_index, block_size)


def _patch_scores(
    classes: Sequence[str], ignore_index: int, target_scale: Sequence[float] | None, patch: int, block_size: int
) -> Scores:
    return PatchScores(classes, ignore_index, patch, block_size)


def _presence_scores(
    classes: Sequence[str], ignore_index: int, target_scale: Sequence[float] | None, patch: int, block_size: int
) -> Scores:
    return PresenceScores(classes, ignore_index, patch, block_size)


def _value_scores(
    classes: Sequence[str], ignore_index: int, target_scale: Sequence[float] | None, patch: int, block_size: int
) -> Scores:
    mean, std = target_scale or (0.0, 1.0)
    return ValueScores(classes[0], mean, std, block_size)


SCORES: Mapping[TaskKind, MakeScores] = {
    "classes": _class_scores,
    "patches": _patch_scores,
    "presences": _presence_scores,
    "values": _value_scores,
}
"""The counts of an evaluation of each kind of prediction."""


def __getattr__(name: str) -> Any:
    return former_name(__name__, name)

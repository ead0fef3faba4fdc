"""Boundary F1 of classes, counted while a map is made from top to bottom.

A pixel is on the boundary of its class if one of its four neighbours is counted, and of another class. Of the predicted
boundary, those pixels count as met that lie within a distance of the labelled boundary of the same class; of the
labelled boundary, the other way round (Csurka, Larlus, Perronnin, Meylan: What is a good evaluation measure for
semantic segmentation?, BMVC 2013). Pixels without a label have no boundary.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.evaluation.block_sums import UnitSums
from ununennium.evaluation.measures import TOLERANCE_PX

IntArray = npt.NDArray[np.integer[Any]]
BoolArray = npt.NDArray[np.bool_]


class BoundaryCounter:
    """Adds the boundaries of one window to ``UnitSums``, rows at a time.

    Args:
        sums: sums to add to; its window has begun.
        num_classes: classes K.
        ignore_index: label value of what is not counted.
        first_cell: cell of class 0; each class has four (see ``ununennium.evaluation.measures``).
        tolerance: pixels.
    """

    def __init__(
        self, sums: UnitSums, num_classes: int, ignore_index: int, first_cell: int, tolerance: int = TOLERANCE_PX
    ) -> None:
        self._sums = sums
        self._num_classes = num_classes
        self._ignore = ignore_index
        self._first_cell = first_cell
        self._reach = tolerance + 1
        reach = np.arange(-tolerance, tolerance + 1)
        self._disc = [(dy, dx) for dy in reach.tolist() for dx in reach.tolist() if dy**2 + dx**2 <= tolerance**2]
        self._row = 0  # of the first row in the buffer, counted from the window's top
        self._done = 0  # rows counted so far
        self._buffer: tuple[IntArray, IntArray] | None = None

    def update(self, predicted: IntArray, target: IntArray) -> None:
        """Take the next rows: predicted classes and labels, both int (rows, width)."""
        if self._buffer is not None:
            predicted = np.concatenate((self._buffer[0], predicted))
            target = np.concatenate((self._buffer[1], target))
        complete = self._row + len(target) - self._reach
        self._count(predicted, target, complete)
        first = max(self._done - self._reach, self._row) - self._row
        self._buffer = predicted[first:], target[first:]
        self._row += first

    def finish(self) -> None:
        """Count the last rows."""
        if self._buffer is not None:
            self._count(*self._buffer, self._row + len(self._buffer[1]))
        self._buffer = None

    def _count(self, predicted: IntArray, target: IntArray, stop: int) -> None:
        """Count the rows up to ``stop``, of the window, that have not been."""
        if stop <= self._done:
            return
        rows = slice(self._done - self._row, stop - self._row)
        counted = target != self._ignore
        ours, theirs = _boundary(predicted, counted), _boundary(target, counted)
        for number in range(self._num_classes):
            seen, there = ours & (predicted == number), theirs & (target == number)
            cell = self._first_cell + 4 * number
            for position, (one, other) in enumerate(((seen, there), (there, seen))):
                if not one[rows].any():
                    continue
                near = (one & self._widened(other))[rows]
                for offset, where in ((0, near), (1, one[rows])):
                    self._sums.add(self._done, where, np.full(where.sum(), cell + 2 * position + offset))
        self._done = stop

    def _widened(self, mask: BoolArray) -> BoolArray:
        """All within the tolerance of ``mask``."""
        if not mask.any():
            return mask
        reach = self._reach
        padded = np.pad(mask, reach)
        height, width = mask.shape
        found = np.zeros_like(mask)
        for dy, dx in self._disc:
            found |= padded[reach + dy : reach + dy + height, reach + dx : reach + dx + width]
        return found


def _boundary(classes: IntArray, counted: BoolArray) -> BoolArray:
    """Counted pixels with a counted neighbour of another class."""
    found = np.zeros(classes.shape, np.bool_)
    for first, second in (
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
    ):
        differ = (classes[first] != classes[second]) & counted[first] & counted[second]
        found[first] |= differ
        found[second] |= differ
    return found

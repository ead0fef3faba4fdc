"""Class numbers, 0 to K - 1, of what label files hold: pixel values, and attributes of shapes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.data.scenes.scene import Scene

UNKNOWN = -(2**62)
"""In place of the label of a pixel whose value no class has."""

_MOST_NAMED = 8


class ClassNumbers:
    """Finds the class of a label value.

    Args:
        scene: scene of the labels: its class values apply, where those are not 0 to K - 1.
        classes: class names.
        ignore_index: the value of unlabelled pixels, unless a class has it.
    """

    def __init__(self, scene: Scene, classes: Sequence[str], ignore_index: int) -> None:
        self.classes = tuple(classes)
        self.ignore_index = ignore_index
        self.of_value = dict(scene.class_values)
        """Label value to class number; empty where they are the same."""
        self._unknown = ignore_index if scene.label_unknown == "unlabelled" else UNKNOWN

    def of_pixels(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Class numbers of whole numbers, int64 or smaller.

        Those of no class are ``UNKNOWN``, or unlabelled if the scene says so; without values of their own for the
        classes, they stay as they are.
        """
        if self.of_value:
            return self._mapped(values)
        if self._unknown == UNKNOWN:
            return values
        return np.where((values >= 0) & (values < len(self.classes)), values, self.ignore_index)

    def _mapped(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        if values.dtype.kind in "ui" and values.dtype.itemsize <= 2:
            limits = np.iinfo(values.dtype)
            table = self._search(np.arange(limits.min, limits.max + 1))
            return table[values.astype(np.int64) - limits.min]
        distinct, places = np.unique(values, return_inverse=True)
        return self._search(distinct)[places.reshape(values.shape)]

    def _search(self, values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        found = np.full(values.shape, self._unknown, np.int64)
        found[values == self.ignore_index] = self.ignore_index
        for value, number in self.of_value.items():
            found[values == value] = number
        return found

    def of_attribute(self, value: Any) -> int | None:
        """Class number that an attribute's value names, by name or by value; ``ignore_index`` likewise.

        Returns:
            None where it is empty, or names no class.
        """
        if isinstance(value, str) and value in self.classes:
            return self.classes.index(value)
        number = _whole(value)
        if number is None:
            return None
        if number in self.of_value:
            return self.of_value[number]
        if not self.of_value and 0 <= number < len(self.classes):
            return number
        return number if number == self.ignore_index else None

    def of_attributes(self, values: Iterable[Any]) -> list[int | None]:
        """``of_attribute`` of many values."""
        return [self.of_attribute(value) for value in values]

    def in_words(self) -> str:
        """The classes with their values, as messages list them."""
        if not self.of_value:
            return ", ".join(self.classes)
        return ", ".join(f"{value}: {self.classes[number]}" for value, number in self.of_value.items())

    def complaint(self, values: Iterable[Any]) -> str:
        """Names and counts attribute values that are no class, the most common first.

        Args:
            values: those that are none.
        """
        counts = Counter(self._in_words(value) for value in values)
        named = [
            text if len(counts) == 1 else f"{text} ({number} {'shape' if number == 1 else 'shapes'})"
            for text, number in counts.most_common(_MOST_NAMED)
        ]
        more = f" and {len(counts) - _MOST_NAMED} more values" if len(counts) > _MOST_NAMED else ""
        return ", ".join(named) + more

    def _in_words(self, value: Any) -> str:
        if is_empty(value):
            return "empty"
        text = repr(value.item() if isinstance(value, np.generic) else value)
        text = text if len(text) <= 40 else f"{text[:36]} ..."
        alike = [name for name in self.classes if isinstance(value, str) and likeness(name) == likeness(value)]
        return f"{text} (not {alike[0]!r})" if alike else text


def likeness(text: str) -> str:
    """A text without differences in case, white space and dashes."""
    return " ".join(text.replace("_", " ").replace("-", " ").split()).casefold()


def is_empty(value: Any) -> bool:
    """Tell whether an attribute has no value: null, NaN, or blank text."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return True
    return bool(np.isscalar(value) and value != value)


def _whole(value: Any) -> int | None:
    """The whole number that a scalar or a text is; None for anything else, such as a list or a date."""
    if not isinstance(value, str | int | float | np.bool_ | np.integer | np.floating):
        return None
    try:
        number = float(value)
        whole = int(number)
    except (ValueError, OverflowError):
        return None
    return whole if whole == number else None

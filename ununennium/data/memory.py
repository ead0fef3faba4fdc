"""Decoded scenes in memory, within one budget per process.

Random chips touch every scene again and again, so a cache that evicts would decode whole scenes for single chips. This
one admits what fits and turns away the rest, whose readers then decode window by window.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any
from weakref import WeakValueDictionary

import numpy.typing as npt

DECODED_BYTES = 512 * 2**20
"""Budget of all decoded pixels, labels and folds, for each process that reads (ranks and loader workers)."""


class Decoded:
    """Arrays of a whole scene; what they take is given back when the last reader lets go of them."""

    __slots__ = ("__weakref__", "arrays")

    def __init__(self, arrays: tuple[npt.NDArray[Any], ...]) -> None:
        self.arrays = arrays

    @property
    def num_bytes(self) -> int:
        """What the arrays take."""
        return sum(array.nbytes for array in self.arrays)


class DecodedCache:
    """Keeps what fits into a budget for as long as somebody uses it, and shares it among those who ask for the same.

    Args:
        budget_bytes: bound of what is kept.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._held: WeakValueDictionary[Hashable, Decoded] = WeakValueDictionary()

    @property
    def num_bytes(self) -> int:
        """What is kept now."""
        return sum(decoded.num_bytes for decoded in self._held.values())

    def get(self, key: Hashable, num_bytes: int, decode: Callable[[], tuple[npt.NDArray[Any], ...]]) -> Decoded | None:
        """What ``key`` stands for, decoded if nobody holds it yet; None if it does not fit any more.

        Args:
            key: equal for equal contents.
            num_bytes: what the arrays will take, about.
            decode: makes them.
        """
        found = self._held.get(key)
        if found is None and self.num_bytes + num_bytes <= self.budget_bytes:
            found = self._held[key] = Decoded(decode())
        return found


DECODED = DecodedCache(DECODED_BYTES)
"""The one that all readers of this process share."""

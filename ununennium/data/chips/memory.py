"""Cache of decoded parts of scenes, within one budget per process."""

from __future__ import annotations

import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt


class Decoded(NamedTuple):
    """A window of a scene, decoded.

    Attributes:
        pixels: (channels, height, width) in the file's own dtype.
        is_valid: bool (height, width), pixels that a chip may show; None where all may be.
        target: (height, width), what trains or validates; the index's ``fill`` elsewhere.
    """

    pixels: npt.NDArray[Any]
    is_valid: npt.NDArray[Any] | None
    target: npt.NDArray[Any]

    @property
    def shown(self) -> npt.NDArray[Any] | None:
        """Former name of ``is_valid``."""
        warnings.warn("Decoded.shown is is_valid now", DeprecationWarning, stacklevel=2)
        return self.is_valid

    @property
    def num_bytes(self) -> int:
        """Size of the arrays in bytes."""
        return sum(array.nbytes for array in self if array is not None)


class DecodedCache:
    """Keeps what was used last, within a budget.

    Room is made before anything is decoded, so that the budget holds at every moment; what alone is larger than the
    budget is kept alone. Pickled, it arrives empty: each process decodes for itself.

    Args:
        budget_bytes: bound of what is kept.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._held: OrderedDict[Hashable, Decoded] = OrderedDict()
        self.num_bytes = 0
        """Arrays kept now."""
        self.num_decoded = 0
        """Number of times that something was decoded."""

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": OrderedDict(), "num_bytes": 0, "num_decoded": 0}

    def get(self, key: Hashable, num_bytes: int, decode: Callable[[], Decoded]) -> Decoded:
        """Value of ``key``, decoded unless it is still here.

        Args:
            key: equal for equal contents.
            num_bytes: upper bound of the arrays' size.
            decode: makes them.
        """
        found = self._held.get(key)
        if found is not None:
            self._held.move_to_end(key)
            return found
        while self._held and self.num_bytes + num_bytes > self.budget_bytes:
            self.num_bytes -= self._held.popitem(last=False)[1].num_bytes
        found = self._held[key] = decode()
        self.num_bytes += found.num_bytes
        self.num_decoded += 1
        return found


class Buffers:
    """Arrays for batches. The memory of a batch is used again once nobody holds it, its tensors or views of them:
    memory that is fresh from the system costs as much as filling it.

    Args:
        kinds: of each array, the shape of one chip's part, and the dtype.
    """

    _MOST = 4
    _UNUSED = 2  # references to an array that only its tuple and the question itself hold

    def __init__(self, *kinds: tuple[tuple[int, ...], npt.DTypeLike]) -> None:
        self._kinds = kinds
        self._held: list[tuple[npt.NDArray[Any], ...]] = []

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_held": []}

    def take(self, count: int) -> tuple[npt.NDArray[Any], ...]:
        """An array of each kind, with ``count`` in front of its shape, and of any content."""
        for arrays in self._held:
            if len(arrays[0]) == count and all(
                sys.getrefcount(arrays[position]) <= self._UNUSED for position in range(len(arrays))
            ):
                return arrays
        arrays = tuple(np.empty((count, *shape), dtype) for shape, dtype in self._kinds)
        self._held = [*self._held[1 - self._MOST :], arrays]
        return arrays

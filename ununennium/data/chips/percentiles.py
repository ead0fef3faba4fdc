"""Order statistics of a stream of pixels, in one pass and bounded memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

_DROPPED_BITS = 12
RELATIVE_ERROR = 2.0 ** -(24 - _DROPPED_BITS)
"""Bound of the error of a percentile of floats, as a share of its value: 2**-12, or 0.025 %."""

_TINY = float(np.finfo(np.float32).tiny)


class Histogram:
    """Counts of every value that occurs, for percentiles of one band.

    Whole numbers are counted one by one: percentiles are exact. Floats are counted in bins of equal relative width,
    those that share sign, exponent and the first 11 bits of the mantissa (as in DDSketch, Masson et al. 2019): a
    percentile is within ``RELATIVE_ERROR`` of its value; what is below 1.2e-38 counts as 0. Memory grows with the range
    of the values, to at most 512 KiB for 16-bit numbers, and 8 MiB for floats.

    Args:
        exact: whether the values are whole numbers of at most 16 bits.
    """

    def __init__(self, *, exact: bool) -> None:
        self.exact = exact
        self._low = 0
        self._counts: IntArray = np.zeros(0, np.int64)

    def add(self, values: npt.NDArray[np.float32]) -> None:
        """Count ``values``, float32 (N,), all finite."""
        if not values.size:
            return
        keys = values.astype(np.int64) if self.exact else _keys(values)
        low, high = int(keys.min()), int(keys.max())
        if not self._counts.size:
            self._low = low
        before = max(0, self._low - low)
        after = max(0, high + 1 - self._low - len(self._counts))
        if before or after:
            self._counts = np.pad(self._counts, (before, after))
            self._low -= before
        self._counts += np.bincount(keys - self._low, minlength=len(self._counts))

    def percentiles(self, shares: Sequence[float]) -> list[float]:
        """Percentiles (0 to 100) as ``numpy.percentile`` interpolates them; NaN if nothing was counted."""
        total = int(self._counts.sum())
        if not total:
            return [float("nan")] * len(shares)
        ranks = np.asarray(shares, np.float64) / 100 * (total - 1)
        cumulative = self._counts.cumsum()
        below, above = (self._value(cumulative, rank) for rank in (np.floor(ranks), np.ceil(ranks)))
        found: list[float] = (below + (above - below) * (ranks % 1)).tolist()
        return found

    def _value(self, cumulative: IntArray, ranks: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        keys = np.searchsorted(cumulative, ranks.astype(np.int64), side="right") + self._low
        return keys.astype(np.float64) if self.exact else _middles(keys)


def _keys(values: npt.NDArray[np.float32]) -> IntArray:
    """Integers that are ordered as the values are: the first bits of their magnitude, with the sign."""
    values = np.where(np.abs(values) < _TINY, np.float32(0), values)
    bits = np.ascontiguousarray(values, np.float32).view(np.int32).astype(np.int64)
    magnitude = (bits & 0x7FFFFFFF) >> _DROPPED_BITS
    return np.where(bits < 0, -magnitude, magnitude)


def _middles(keys: IntArray) -> npt.NDArray[np.float64]:
    """The middle of each bin; 0 for what counts as 0."""
    bits = ((np.abs(keys) << _DROPPED_BITS) | (1 << (_DROPPED_BITS - 1))).astype(np.int32)
    return np.where(keys == 0, 0.0, np.sign(keys) * bits.view(np.float32).astype(np.float64))

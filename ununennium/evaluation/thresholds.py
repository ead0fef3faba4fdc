"""Comparison of measured values with thresholds: decided by value, not by the last bit of a sum of decimals."""

from __future__ import annotations

import math

TOLERANCE = 1e-9
"""Differences of less than this share of the largest number involved are rounding."""


def exceeds(value: float, *terms: float) -> bool:
    """``value > sum(terms)`` by more than rounding; False where one of them is NaN.

    The terms are given one by one, because the rounding of their sum is that of the largest of them.
    """
    if any(math.isinf(number) for number in (value, *terms)):
        return value > sum(terms)
    return value - sum(terms) > _rounding(value, *terms)


def reaches(value: float, *terms: float) -> bool:
    """``value >= sum(terms)``, or below it by no more than rounding; False where one of them is NaN."""
    if any(math.isinf(number) for number in (value, *terms)):
        return value >= sum(terms)
    return value - sum(terms) >= -_rounding(value, *terms)


def _rounding(*numbers: float) -> float:
    return TOLERANCE * max(abs(number) for number in numbers)

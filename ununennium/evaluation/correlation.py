"""Spatial correlation of errors between the blocks of a holdout, and blocks large enough to be drawn one by one.

A bootstrap of blocks takes them as independent, so blocks must be larger than the range over which errors are
correlated (Kuensch 1989; Lahiri 2003; Roberts et al. 2017). Each block has a residual: its influence on the difference
of the two models, which is what the difference would be with the block less what it is without it. Moran's I of pairs
at growing distances (a correlogram) says how far residuals are alike by more than chance. Blocks are put together to
at least that range, and looked at again at that size, because larger blocks show weaker correlation better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from ununennium.evaluation.block_sums import BlockSums, Place, paired_places
from ununennium.evaluation.bootstrap import LEAST_PLACES, difference
from ununennium.evaluation.measures import FloatArray, Measures, values_by_name

_CRITICAL = 1.2816
"""Normal quantile of a one-sided test at 10 %: a correlation that is missed does more harm than one seen in noise."""
_LEAST_PAIRS = 4
"""Pairs of blocks below which nothing can be said of a distance."""
_GAP = 2
"""Distances without pairs enough, one after the other, that are passed over: blocks of a holdout may lie apart."""
_MOST_BLOCKS = 64


def merge_factor(challenger: BlockSums, champion: BlockSums, measures: Measures, metric: str) -> int:
    """Blocks along each side that have to be put together for the errors of what results to be independent.

    Args:
        challenger: its units.
        champion: its units on the same holdout.
        measures: of both.
        metric: metric of the compared residuals.

    Returns:
        A power of 2, 1 where blocks near each other are not alike, or there are not enough of them to tell. With blocks
        that large there may be too few of them for an interval.
    """
    blocks, ours, theirs = paired_places(challenger, champion)
    residuals = _influences(ours, theirs, measures, metric)
    if residuals is None:
        return 1
    factor = 1
    while True:
        merged: dict[Place, float] = {}
        for (grid, row, col), residual in zip(blocks, residuals.tolist(), strict=True):
            key = grid, row // factor, col // factor
            merged[key] = merged.get(key, 0.0) + residual
        if len(merged) < LEAST_PLACES:
            return factor
        distance = _range(merged)
        if distance < 1:
            return factor
        factor *= 2 ** math.ceil(math.log2(distance + 1))


def _range(residuals: Mapping[Place, float]) -> int:
    """The largest distance, in blocks along rows or columns, up to which residuals are alike by more than chance."""
    blocks, values = list(residuals), np.array(list(residuals.values()))
    farthest = 0
    for distance in range(1, _MOST_BLOCKS):
        pairs = _pairs(blocks, distance)
        if len(pairs) < _LEAST_PAIRS:
            if distance > farthest + _GAP:
                break
            continue
        if morans_z(values, pairs) <= _CRITICAL:
            break
        farthest = distance
    return farthest


def morans_z(values: FloatArray, pairs: npt.NDArray[np.int64]) -> float:
    """Moran's I of values (n,) over pairs (m, 2) of neighbours, in standard deviations from what chance gives.

    Mean and variance are those over all permutations of the values (Cliff and Ord 1981, randomisation).
    """
    n, m = len(values), len(pairs)
    deviations = values - values.mean()
    squares = float((deviations**2).sum())
    if n < LEAST_PLACES or squares <= np.finfo(np.float64).eps * float((values**2).sum()):
        return 0.0
    first, second = pairs.T
    moran = n / m * float((deviations[first] * deviations[second]).sum()) / squares
    s0, s1 = 2.0 * m, 4.0 * m
    s2 = 4.0 * float((np.bincount(pairs.ravel(), minlength=n) ** 2).sum())
    kurtosis = n * float((deviations**4).sum()) / squares**2
    expected = -1 / (n - 1)
    spread = n * ((n**2 - 3 * n + 3) * s1 - n * s2 + 3 * s0**2) - kurtosis * ((n**2 - n) * s1 - 2 * n * s2 + 6 * s0**2)
    variance = spread / ((n - 1) * (n - 2) * (n - 3) * s0**2) - expected**2
    return 0.0 if variance <= 0 else (moran - expected) / float(variance**0.5)


def _influences(ours: FloatArray, theirs: FloatArray, measures: Measures, metric: str) -> FloatArray | None:
    """Contribution of each place (P,) to the difference of the two models; None without such a metric."""
    everything = [sums.sum(0) for sums in (ours, theirs)]
    sides = []
    for total, sums in zip(everything, (ours, theirs), strict=True):
        found = values_by_name(measures, [metric], np.concatenate([total[None], total - sums])).get(metric)
        if found is None:
            return None
        sides.append(found)
    values = difference(metric, *sides)
    influences: FloatArray = np.nan_to_num(values[0] - values[1:])
    return influences


def _pairs(blocks: Sequence[Place], distance: int) -> npt.NDArray[np.int64]:
    """Pairs (m, 2) of places at a distance along a row or a column."""
    number = {block: index for index, block in enumerate(blocks)}
    pairs = [
        (index, number[beside])
        for (grid, row, col), index in number.items()
        for beside in ((grid, row + distance, col), (grid, row, col + distance))
        if beside in number
    ]
    return np.array(pairs, np.int64).reshape(-1, 2)

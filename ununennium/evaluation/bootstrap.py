"""Intervals by drawing spatial blocks with replacement, of one model or of the difference of two on the same blocks.

Pixels of a block err together, so a holdout's blocks are drawn, never its pixels. Two models are measured on the same
draw, so what makes a block hard for both cancels. Percentile intervals of few blocks are too narrow; they are taken at
the expanded percentiles of Hesterberg (What teachers should know about the bootstrap, The American Statistician 69,
2015, section 5.1), which come from the t distribution. There are as many draws as it takes for some to lie beyond the
percentile. ``benchmarks/bootstrap_coverage.py`` measures how often they hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import NormalDist

import numpy as np

from ununennium.evaluation.block_sums import BlockSums, paired
from ununennium.evaluation.measures import FloatArray, Measures, informs, measures_of, values_by_name
from ununennium.tasks import goodness, worst_value

LEAST_PLACES = 6
"""Blocks below which there is no interval: so few say nothing about the others that might have been held out."""
MOST_RESAMPLES = 250_000
_LEAST_BEYOND = 20
_AT_ONCE = 256


def num_resamples(num_places: int, confidence: float, least: int = 2000) -> int | None:
    """Draws that an interval needs, so that ``_LEAST_BEYOND`` of them are expected beyond each of its ends.

    Returns:
        ``least`` or more; None if it would be more than ``MOST_RESAMPLES``: so few places cannot carry an interval of
        that confidence.
    """
    if num_places < LEAST_PLACES:
        return None
    tail = _expanded_tail(num_places, confidence)
    needed = math.inf if tail <= 0 else math.ceil(_LEAST_BEYOND / tail)
    return None if needed > MOST_RESAMPLES else max(least, int(needed))


def drawn_values(
    sums: FloatArray, of: Callable[[FloatArray], FloatArray], *, resamples: int, seed: int = 0
) -> FloatArray:
    """A statistic of sums over places drawn with replacement.

    Args:
        sums: (P, S).
        of: from sums (B, S) to the statistic (B, ...).
        resamples: draws.
        seed: of the draws.

    Returns:
        (resamples, ...).
    """
    return np.concatenate([of(weights @ sums) for weights in _draws(len(sums), resamples, seed)])


def difference_intervals(
    challenger: BlockSums,
    champion: BlockSums,
    measures: Measures,
    metrics: Sequence[str],
    *,
    confidence: float,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, tuple[float, float] | None]:
    """Central intervals of how much better the challenger is: the difference of goodness, see ``tasks.goodness``.

    Args:
        challenger: its units.
        champion: its units on the same holdout.
        measures: of both.
        metrics: names such as ``IoU.building``.
        confidence: share of holdouts whose interval is to hold the truth, such as 0.9.
        resamples: draws, if ``num_resamples`` does not ask for more.
        seed: of the draws.

    Returns:
        For each metric None with fewer than ``LEAST_PLACES`` places that inform it (``informative_places``), or fewer
        than the confidence needs (``num_resamples``), without such a metric, or if half of the draws or more leave
        both without it. In a draw that leaves one of the two without it, that one has the worst value there is.
    """
    ours, theirs = paired(challenger, champion)
    there = values_by_name(measures, metrics, ours.sum(0)).keys()
    blocks = {metric: informative_places(ours, theirs, measures, metric) for metric in metrics if metric in there}
    needed = {metric: num_resamples(number, confidence, resamples) for metric, number in blocks.items()}
    drawn: dict[str, list[FloatArray]] = {metric: [] for metric, number in needed.items() if number is not None}
    for weights in _draws(len(ours), max((number or 0 for number in needed.values()), default=0), seed):
        one, other = (values_by_name(measures, list(drawn), weights @ sums) for sums in (ours, theirs))
        for metric, values in drawn.items():
            values.append(difference(metric, one[metric], other[metric]))
    found = {metric: expanded_interval(np.concatenate(d), blocks[metric], confidence) for metric, d in drawn.items()}
    return {metric: found.get(metric) for metric in metrics}


def informative_places(ours: FloatArray, theirs: FloatArray, measures: Measures, metric: str) -> int:
    """Places that say something of a metric, of the paired sums (P, S) of two models.

    A place without the class, in the labels and in both predictions, adds nothing to the class's metric and to its
    spread: a class that lies in one block is seen once, however many other blocks there are.
    """
    return int((informs(measures, metric, ours) | informs(measures, metric, theirs)).sum())


def interval_of(
    units: BlockSums, metric: str, confidence: float, resamples: int = 2000, seed: int = 0
) -> tuple[float, float] | None:
    """Central interval of one model's metric; None with fewer than ``LEAST_PLACES`` blocks, or too few draws.

    Args:
        units: sums per block.
        metric: name of a metric that the sums have without classes, such as ``R2``.
        confidence: share of holdouts whose interval is to hold the truth.
        resamples: draws, if ``num_resamples`` does not ask for more.
        seed: of the draws.
    """
    sums = np.array(list(units.places().values()))
    number = num_resamples(len(sums), confidence, resamples) if len(sums) >= LEAST_PLACES else None
    if number is None:
        return None
    measures = measures_of(units.kind, ())
    drawn = drawn_values(sums, lambda total: measures.overall(total)[metric], resamples=number, seed=seed)
    return expanded_interval(drawn, len(sums), confidence)


def expanded_interval(values: FloatArray, num_places: int, confidence: float) -> tuple[float, float] | None:
    """The central interval of drawn values (B,); None if half of them or more are NaN."""
    there = values[~np.isnan(values)]
    if 2 * len(there) <= len(values):
        return None
    tail = _expanded_tail(num_places, confidence)
    low, high = np.quantile(there, [tail, 1 - tail]).tolist()
    return low, high


def _expanded_tail(num_places: int, confidence: float) -> float:
    """Share of draws beyond each end of an interval (Hesterberg 2015)."""
    from scipy.special import stdtrit  # Student's t; scipy.stats would take a second to import

    wider = (num_places / (num_places - 1)) ** 0.5 * float(stdtrit(num_places - 1, (1 - confidence) / 2))
    return NormalDist().cdf(wider)


def _draws(number: int, resamples: int, seed: int) -> list[FloatArray]:
    """Number of draws of each block, (at most ``_AT_ONCE``, ``number``) at a time."""
    rng = np.random.default_rng(seed)
    chances = np.full(number, 1 / number)
    sizes = [min(_AT_ONCE, resamples - start) for start in range(0, resamples, _AT_ONCE)]
    return [rng.multinomial(number, chances, size=size).astype(np.float64) for size in sizes]


def difference(metric: str, one: FloatArray, other: FloatArray) -> FloatArray:
    """Gain of the first in each draw (B,); NaN where neither has a value, or a missing one is infinite."""
    one, other = (
        np.where(np.isnan(one), _worst(metric, other), one),
        np.where(np.isnan(other), _worst(metric, one), other),
    )
    return _goodness(metric, one) - _goodness(metric, other)


def _worst(metric: str, beside: FloatArray) -> FloatArray:
    """The worst value of a metric where the model beside has one, if it is finite; NaN elsewhere."""
    worst = worst_value(metric)
    return np.where(np.isnan(beside) | np.isinf(worst), np.nan, worst)


def _goodness(metric: str, values: FloatArray) -> FloatArray:
    """``tasks.goodness`` of many values."""
    if metric.partition(".")[0] == "bias":
        return -np.abs(values)
    return goodness(metric, 1.0) * values

"""Blocks whose errors are alike are no separate observations, and a higher confidence takes more draws."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import norm, t

from tests.evaluation.counts import confused
from ununennium.config import GateConfig
from ununennium.evaluation.bootstrap import MOST_RESAMPLES, expanded_interval, num_resamples
from ununennium.evaluation.correlation import merge_factor, morans_z
from ununennium.evaluation.evaluation import Evaluation
from ununennium.evaluation.gate import decide
from ununennium.evaluation.measures import measures_of

CLASSES = ["land", "water"]
MEASURES = measures_of("patches", CLASSES)


def smooth(rng: np.random.Generator, kernel: float, side: int) -> np.ndarray:
    """Means over side x side blocks of a field of 128 x 128 pixels of unit variance, smoothed over ``kernel``."""
    made = gaussian_filter(rng.normal(size=(256, 256)), kernel, mode="wrap")
    return (made / made.std())[:128, :128].reshape(side, 128 // side, side, 128 // side).mean((1, 3))


def pair(errors: np.ndarray, gain: float = 0.0) -> tuple[Evaluation, Evaluation]:
    """A challenger whose share of right pixels in each block differs from the champion's by ``gain`` and ``errors``."""
    rows, cols = (place.ravel() for place in np.indices(errors.shape))
    sides = []
    for share in (0.7 + gain + 0.1 * errors.ravel(), np.full(errors.size, 0.7)):
        right = np.rint(1000 * share.clip(0, 1))
        matrices = np.stack([right, 1000 - right, 1000 - right, right], 1).reshape(-1, 2, 2)
        sides.append(confused(matrices, CLASSES, row=rows, col=cols))
    return sides[0], sides[1]


def factor(errors: np.ndarray) -> int:
    ours, theirs = pair(errors)
    return merge_factor(ours.units, theirs.units, MEASURES, "IoU")


def test_morans_i_is_that_of_all_permutations():
    """correctness 100: mean and variance beside 20,000 permutations of the values."""
    rng = np.random.default_rng(0)
    values = rng.exponential(size=12)
    number = np.arange(12).reshape(3, 4)
    pairs = np.concatenate([np.stack([number[:, :-1], number[:, 1:]], -1).reshape(-1, 2),
                            np.stack([number[:-1], number[1:]], -1).reshape(-1, 2)])  # fmt: skip

    def moran(of: np.ndarray) -> float:
        centred = of - of.mean()
        return len(of) / len(pairs) * (centred[pairs[:, 0]] * centred[pairs[:, 1]]).sum() / (centred**2).sum()

    drawn = np.array([moran(rng.permutation(values)) for _ in range(20_000)])
    expected = (moran(values) - drawn.mean()) / drawn.std()
    assert morans_z(values, pairs) == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize(("kernel", "side", "least", "most"), [(16, 16, 4, 16), (4, 16, 2, 4), (16, 8, 2, 8)])
def test_blocks_smaller_than_the_range_of_errors_are_put_together(kernel, side, least, most):
    """correctness 100: blocks of 8 and 16 px, errors smooth over 4 and 16 px; at least 9 of 10 holdouts."""
    rng = np.random.default_rng(side)
    found = [factor(smooth(rng, kernel, side)) for _ in range(30)]
    assert sum(least <= each <= most for each in found) >= 27


@pytest.mark.parametrize("side", [3, 5, 12])
def test_independent_blocks_stay_as_they_are(side):
    """correctness 100: but for the one in ten that the test gives away, three standard errors of 100 are 9 points."""
    rng = np.random.default_rng(side)
    assert sum(factor(rng.normal(size=(side, side))) > 1 for _ in range(100)) <= 19


def test_blocks_far_apart_are_not_looked_at():
    """correctness 100: nothing says that errors of blocks without neighbours are alike."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        ours, theirs = pair(rng.normal(size=(4, 4)))
        apart = [side.units.merged(1) for side in (ours, theirs)]
        for units in apart:
            units.row[:] *= 50
            units.col[:] *= 50
        assert merge_factor(*apart, MEASURES, "IoU") == 1


def test_smaller_blocks_of_the_same_errors_promote_nobody_more_often():
    """correctness 100: equal models, errors smooth over 16 px; blocks of 32, 16 and 8 px promoted 20, 34 and 40 %."""
    config = GateConfig(metric="IoU", max_class_drop=None, max_slice_drop=None, resamples=300)
    for side in (8, 16):
        rng = np.random.default_rng(side)
        promoted = sum(decide(*pair(smooth(rng, 16, side)), config).verdict == "promoted" for _ in range(50))
        assert promoted <= 7


def test_the_reason_says_that_blocks_were_put_together_and_how_many_remain():
    """correctness 100."""
    rng = np.random.default_rng(1)
    config = GateConfig(metric="IoU", max_class_drop=None, max_slice_drop=None)
    decisions = [decide(*pair(smooth(rng, 16, 16), gain=0.2), config) for _ in range(5)]
    reason = next(each.reason for each in decisions if each.bootstrap["places"] < 6)
    assert "because errors of neighbouring blocks of 64 px are correlated" in reason
    assert "6 are needed" in reason
    assert "hold out more" in reason


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95, 0.99])
@pytest.mark.parametrize("places", [6, 8, 12, 40])
def test_draws_grow_with_the_confidence_until_twenty_lie_beyond_each_end(places, confidence):
    """correctness 107: by the expanded percentile of Hesterberg, from SciPy."""
    tail = norm.cdf(np.sqrt(places / (places - 1)) * t.ppf((1 - confidence) / 2, places - 1))
    draws = num_resamples(places, confidence, 2000)
    if 20 / tail > MOST_RESAMPLES:
        assert draws is None
    else:
        assert draws >= 2000
        assert draws * tail >= 20
        assert draws == 2000 or draws * tail < 21


def test_a_confidence_that_the_blocks_cannot_carry_is_refused_with_the_remedy():
    """correctness 107: 99 % of six blocks lies beyond the worst of all draws; of twenty it does not."""
    for places, words in ((6, r"too few for an interval of confidence 0.99"), (20, "99% interval of the difference")):
        rng = np.random.default_rng(places)
        matrices = np.array([[[90, 10], [10, 90]]] * places) + rng.integers(-3, 4, (places, 1, 1)) * [[1, -1], [-1, 1]]
        theirs = confused(matrices - 10 * np.array([[1, -1], [-1, 1]]), CLASSES)
        ours = confused(matrices, CLASSES)
        decision = decide(ours, theirs, GateConfig(confidence=0.99))
        assert words in decision.reason
        assert decision.verdict == ("promoted" if places == 20 else "not_promoted")
        assert (decision.bootstrap["resamples"] > 2000) == (places == 20)
    assert num_resamples(5, 0.9) is None


def test_the_ends_of_a_wide_interval_no_longer_depend_on_the_seed():
    """correctness 107: of 95 % and 8 blocks, by as many draws as are asked for, and by 2,000."""
    rng = np.random.default_rng(0)
    blocks = rng.exponential(size=8)

    def lower(draws: int, seed: int) -> float:
        drawn = np.random.default_rng(seed).integers(0, 8, (draws, 8))
        return expanded_interval(blocks[drawn].mean(1), 8, 0.95)[0]

    needed = num_resamples(8, 0.95)
    assert needed > 2000
    spread = [np.std([lower(draws, seed) for seed in range(40)]) for draws in (needed, 400)]
    assert spread[0] < 0.6 * spread[1]

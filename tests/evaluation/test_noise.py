"""Whether a difference is more than noise: intervals over spatial blocks, and what the gate makes of them."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, t

from ununennium.config import GateConfig
from ununennium.evaluation.block_sums import BlockScene, BlockSums
from ununennium.evaluation.bootstrap import LEAST_PLACES, difference_intervals
from ununennium.evaluation.evaluation import Evaluation
from ununennium.evaluation.gate import decide
from ununennium.evaluation.measures import measures_of, metrics_of

CLASSES = ["land", "water"]
MEASURES = measures_of("patches", CLASSES)
PATCHES = 400


def units(right: np.ndarray, scene: np.ndarray | None = None) -> BlockSums:
    """Blocks of 400 patches, half of each class, of which ``right`` (P,) are classified rightly."""
    half = np.floor(right / 2)
    wrong = PATCHES / 2 - half
    rows = np.arange(len(right))
    scenes = tuple(BlockScene(name, name, (0, 0)) for name in ("north", "south"))
    place = np.zeros(len(right), np.int64) if scene is None else scene
    return BlockSums("patches", 64, scenes, place, rows, rows, np.stack([half, wrong, wrong, half], 1))


def evaluation(right: np.ndarray, scene: np.ndarray | None = None) -> Evaluation:
    counted = units(right, scene)
    confusion = counted.total.reshape(2, 2).astype(int).tolist()
    return Evaluation(
        CLASSES, confusion, metrics_of(MEASURES, counted.total), int(counted.total.sum()), "s", "d", units=counted
    )


def blocks(rng: np.random.Generator, number: int, gain: float, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Patches that challenger and champion have right in each block: hard blocks are hard for both."""
    hard = rng.normal(0.75, 0.08, number)
    ours, theirs = (hard + rng.normal(by, noise, number) for by in (gain, 0.0))
    return np.rint(PATCHES * np.clip(ours, 0, 1)), np.rint(PATCHES * np.clip(theirs, 0, 1))


def interval(ours: np.ndarray, theirs: np.ndarray, **settings: float) -> tuple[float, float]:
    options = {"confidence": 0.9, **settings}
    found = difference_intervals(units(ours), units(theirs), MEASURES, ["accuracy"], **options)["accuracy"]
    assert found is not None
    return found


def test_the_interval_is_that_of_a_bootstrap_by_hand():
    ours, theirs = blocks(np.random.default_rng(1), 20, 0.02, 0.03)
    ours, theirs = 2 * np.floor(ours / 2), 2 * np.floor(theirs / 2)  # as `units` counts them
    rng = np.random.default_rng(99)
    drawn = []
    for _ in range(20_000):
        chosen = rng.integers(0, 20, 20)
        drawn.append((ours[chosen].sum() - theirs[chosen].sum()) / (20 * PATCHES))
    tail = norm.cdf(np.sqrt(20 / 19) * t.ppf(0.05, 19))  # Hesterberg 2015, section 5.1
    by_hand = np.quantile(drawn, [tail, 1 - tail])
    np.testing.assert_allclose(interval(ours, theirs, resamples=20_000), by_hand, atol=4e-4)


def test_a_seed_is_an_interval():
    pair = blocks(np.random.default_rng(2), 12, 0.01, 0.03)
    assert interval(*pair, seed=5) == interval(*pair, seed=5)
    assert interval(*pair, seed=5) != interval(*pair, seed=6)


@pytest.mark.parametrize("number", [8, 30])
def test_intervals_hold_the_truth_as_often_as_they_say(number):
    """Of 400 holdouts 90 %; three standard errors of that share are 4.5 points."""
    rng, truth, held = np.random.default_rng(3), 0.02, 0
    for _ in range(400):
        low, high = interval(*blocks(rng, number, truth, 0.04), resamples=500)
        held += low <= truth <= high
    assert 0.855 <= held / 400 <= 0.945


def test_what_makes_a_block_hard_for_both_is_no_noise():
    """Drawing the blocks of each model by themselves would be five times as wide."""
    ours, theirs = blocks(np.random.default_rng(4), 20, 0.02, 0.01)
    low, high = interval(ours, theirs)
    apart = np.sqrt((ours.var() + theirs.var()) / 20) / PATCHES
    assert high - low < 2 * 1.7 * apart / 3
    assert low > 0


def test_noise_is_not_promoted_and_a_real_gain_is():
    pairs = (blocks(np.random.default_rng(seed), 20, 0.0, 0.04) for seed in range(5, 50))
    noisy = next(pair for pair in pairs if pair[0].sum() > pair[1].sum())
    ours, theirs = (evaluation(right) for right in noisy)
    settings = {"metric": "accuracy", "max_class_drop": None}
    decision = decide(ours, theirs, GateConfig(**settings))
    assert decision.verdict == "not_promoted"
    assert "but that may be noise" in decision.reason
    assert decide(ours, theirs, GateConfig(**settings, confidence=None)).verdict == "promoted"
    ours, theirs = (evaluation(right) for right in blocks(np.random.default_rng(5), 20, 0.08, 0.04))
    decision = decide(ours, theirs, GateConfig(**settings))
    assert decision.verdict == "promoted"
    assert decision.bootstrap == {"confidence": 0.9, "resamples": 2000, "seed": 0, "places": 20, "block_size": 64}
    (improvement,) = [check for check in decision.checks if check.kind == "improvement"]
    assert improvement.interval is not None
    assert 0 < improvement.interval[0] < improvement.interval[1] < 0.16


def test_two_equal_models_replace_each_other_seldom():
    """A champion that changes hands by chance gets no better; without intervals it would be every other time."""
    rng, config = np.random.default_rng(6), GateConfig(metric="accuracy", max_class_drop=None, resamples=300)
    promoted = 0
    for _ in range(200):
        ours, theirs = (evaluation(right) for right in blocks(rng, 16, 0.0, 0.03))
        promoted += decide(ours, theirs, config).verdict == "promoted"
    assert promoted / 200 <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 200)


def test_too_few_blocks_are_said_with_the_remedy():
    ours, theirs = (evaluation(np.full(LEAST_PLACES - 1, right)) for right in (380.0, 300.0))
    decision = decide(ours, theirs, GateConfig(metric="accuracy", max_class_drop=None))
    assert decision.verdict == "not_promoted"
    assert f"the holdout has only {LEAST_PLACES - 1} block(s), and {LEAST_PLACES} are needed" in decision.reason
    assert "hold out more" in decision.reason
    assert "block_size" not in decision.reason  # smaller blocks are not more of them: they err together


def test_a_scene_that_gets_worse_while_the_rest_gets_better_is_named():
    scene = np.repeat([0, 1], 10)
    theirs = evaluation(np.full(20, 300.0), scene)
    ours = evaluation(np.where(scene == 1, 260.0, 390.0), scene)
    settings = {"metric": "accuracy", "max_class_drop": None, "slices": ["scene"], "max_slice_drop": 0.05}
    decision = decide(ours, theirs, GateConfig(**settings, confidence=None))
    assert decision.verdict == "not_promoted"
    assert "scene south: accuracy 0.6500 is more than 0.05 below the champion's 0.7500" in decision.reason
    assert decide(ours, theirs, GateConfig(**{**settings, "max_slice_drop": 0.11}, confidence=None)).verdict == (
        "promoted"
    )

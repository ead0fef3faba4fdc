"""Classes in few blocks, and classes without labels: what they may decide."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm, t

from tests.evaluation.counts import confused, evaluation_of
from ununennium.config import GateConfig
from ununennium.evaluation.bootstrap import difference_intervals
from ununennium.evaluation.evaluation import Evaluation
from ununennium.evaluation.gate import decide
from ununennium.evaluation.measures import measures_of, metrics_of
from ununennium.evaluation.slices import slices_of

COMMON_AND_RARE = ["common", "rare"]


def holdout(rng: np.random.Generator, blocks: int, with_rare: int, gain: float = 0.0) -> tuple[Evaluation, Evaluation]:
    """Two models on blocks of 400 pixels, of which the first ``with_rare`` have 40 of the rare class."""
    sides = []
    hard = rng.normal(0.6, 0.1, blocks)
    for by in (gain, 0.0):
        hit = np.where(
            np.arange(blocks) < with_rare, np.rint(40 * np.clip(hard + by + rng.normal(0, 0.1, blocks), 0, 1)), 0
        )
        labelled = np.where(np.arange(blocks) < with_rare, 40, 0)
        sides.append(
            confused([[[400 - n, 0], [n - h, h]] for n, h in zip(labelled, hit, strict=True)], COMMON_AND_RARE)
        )
    return sides[0], sides[1]


@pytest.mark.parametrize("with_rare", [1, 2, 3, 5])
def test_a_class_in_fewer_than_six_blocks_promotes_nobody_and_the_reason_counts_them(with_rare):
    """correctness 100: 20 blocks are not 20 of the class; equal models were promoted in 46, 21 and 11 %."""
    config = GateConfig(metric="IoU.rare", max_class_drop=None, max_slice_drop=None)
    rng = np.random.default_rng(with_rare)
    for _ in range(20):
        decision = decide(*holdout(rng, 20, with_rare, gain=0.1), config)
        (check,) = decision.checks
        assert (decision.verdict, check.interval) == ("not_promoted", None)
        if check.value > check.baseline:
            assert f"only {with_rare} of the holdout's 20 block(s) have any rare, and 6 are needed" in check.reason


@pytest.mark.slow
@pytest.mark.parametrize("blocks", [6, 20])
def test_equal_models_on_a_class_in_six_blocks_replace_each_other_seldom(blocks):
    """correctness 100: one in twenty; three standard errors of 400 holdouts are 3.3 points."""
    rng, promoted = np.random.default_rng(7), 0
    config = GateConfig(metric="IoU.rare", max_class_drop=None, max_slice_drop=None, resamples=300)
    for _ in range(400):
        promoted += decide(*holdout(rng, blocks, 6), config).verdict == "promoted"
    assert promoted / 400 <= 0.05 + 0.033


def test_blocks_where_only_a_model_sees_the_class_inform_its_metric():
    """correctness 100: three blocks have labels of it, three others false alarms of one model."""
    theirs = [[[360, 0], [20, 20]]] * 3 + [[[400, 0], [0, 0]]] * 17
    ours = [[[360, 0], [15, 25]]] * 3 + [[[390, 10], [0, 0]]] * 3 + [[[400, 0], [0, 0]]] * 14
    sides = (confused(matrices, COMMON_AND_RARE).units for matrices in (ours, theirs))
    found = difference_intervals(
        *sides, measures_of("patches", COMMON_AND_RARE), ["IoU.rare", "recall.rare"], confidence=0.9
    )
    assert found["IoU.rare"] is not None
    fewer = (confused(matrices[:5] + matrices[6:], COMMON_AND_RARE).units for matrices in (ours, theirs))
    assert difference_intervals(*fewer, measures_of("patches", COMMON_AND_RARE), ["IoU.rare"], confidence=0.9) == {
        "IoU.rare": None
    }


def test_a_class_of_a_multilabel_in_few_blocks_has_no_interval_either():
    """correctness 100."""
    cells = np.array([[30, 2, 5, 3, 4, 1, 3, 32]] * 4 + [[30, 2, 5, 3, 0, 0, 0, 40]] * 16)
    better = cells + np.array([1, 0, -1, 0, 1, 0, -1, 0]) * (cells[:, 6:7] > 0)
    sides = [evaluation_of(sums, ["a", "b"], kind="presences") for sums in (better, cells)]
    decision = decide(*sides, GateConfig(metric="F1.b"))
    assert "only 4 of the holdout's 20 block(s) have any b" in decision.reason


LAND_WATER_LAKE = ["land", "water", "lake"]


def without_lake(right: int, false_lakes: int, blocks: int = 12, **where: np.ndarray) -> Evaluation:
    """Blocks of 100 pixels of land and 100 of water, of each of which ``right`` are right; there is no lake."""
    block = [[right, 100 - right - false_lakes, false_lakes], [100 - right, right, 0], [0, 0, 0]]
    return confused(np.array([block] * blocks), LAND_WATER_LAKE, **where)


def test_the_mean_is_over_the_labelled_classes_of_both_models():
    """correctness 101: one false pixel per block of a class that the holdout lacks costs one pixel, not a third."""
    theirs, ours = without_lake(95, 1), without_lake(92, 0)
    expected = np.mean([ours.metric("IoU.land"), ours.metric("IoU.water")])
    assert ours.metric("IoU") == pytest.approx(expected)
    assert theirs.metric("IoU") == pytest.approx(np.mean([theirs.metric("IoU.land"), theirs.metric("IoU.water")]))
    assert theirs.metric("IoU.lake") == 0.0
    decision = decide(ours, theirs, GateConfig())
    assert decision.verdict == "not_promoted"
    assert "does not exceed" in decision.reason
    assert any("no label of 'lake': the new model predicts it 0 times and the champion predicts it 12" in note
               for note in decision.notes)  # fmt: skip
    assert decide(theirs, ours, GateConfig()).verdict == "promoted"


@pytest.mark.parametrize("family", ["F1", "precision", "recall", "IoU"])
def test_every_mean_and_its_intervals_are_over_the_same_classes(family):
    """correctness 101: by hand, over land and water."""
    theirs, ours = without_lake(95, 1), without_lake(92, 0)
    values = [[side.metric(f"{family}.{name}") for name in ("land", "water")] for side in (ours, theirs)]
    gain = np.mean(values[0]) - np.mean(values[1])
    found = difference_intervals(
        ours.units, theirs.units, measures_of("patches", LAND_WATER_LAKE), [family], confidence=0.9
    )
    assert found[family] == pytest.approx((gain, gain), abs=1e-12)  # all blocks are alike


def test_giving_up_a_hard_class_does_not_raise_the_mean_precision():
    """correctness 101: precision of a labelled class that is never predicted counts as 0, as scikit-learn has it."""
    tries = confused(np.array([[[90, 10], [10, 10]]] * 8), ["a", "b"])
    gives_up = confused(np.array([[[100, 0], [20, 0]]] * 8), ["a", "b"])
    assert tries.metric("precision") == pytest.approx((90 / 100 + 10 / 20) / 2)
    assert np.isnan(gives_up.metric("precision.b"))
    assert gives_up.metric("precision") == pytest.approx(100 / 120 / 2)


def test_a_slice_has_the_mean_over_its_own_labelled_classes():
    """correctness 101: one pixel of a class that the scene lacks is one error among 1,200, not a third of the mean."""
    scene = np.repeat([0, 1], 6)
    theirs, ours = without_lake(90, 0, scene=scene), without_lake(93, 0, scene=scene)
    sums = ours.units.sums.copy()
    sums[11, [0, 2]] += [-1, 1]
    ours = evaluation_of(sums, LAND_WATER_LAKE, scene=scene)
    decision = decide(ours, theirs, GateConfig(confidence=None))
    assert decision.verdict == "promoted"
    south = next(part for part in slices_of(ours.units, LAND_WATER_LAKE) if part.value == "south")
    assert south.metrics["IoU"]["mean"] == pytest.approx(np.mean([south.metrics["IoU"][n] for n in ("land", "water")]))


def test_a_slice_without_labels_of_the_class_is_said_not_to_be_guarded():
    """correctness 101: the champion sees water where there is none; a model that does not is no worse there."""
    scene = np.repeat([0, 1], 6)
    theirs = confused([[[50, 0], [20, 30]]] * 6 + [[[90, 10], [0, 0]]] * 6, ["land", "water"], scene=scene)
    ours = confused([[[50, 0], [10, 40]]] * 6 + [[[100, 0], [0, 0]]] * 6, ["land", "water"], scene=scene)
    decision = decide(ours, theirs, GateConfig(metric="IoU.water", confidence=None))
    assert decision.verdict == "promoted"
    assert any("scene south: IoU.water nan is not guarded: it has no such labels" in c.reason for c in decision.checks)


def test_the_mean_of_boundaries_is_over_the_classes_with_a_labelled_boundary():
    """correctness 101: a model's boundary of a class that is not labelled is no part of it."""
    measures = measures_of("pixels", ["a", "b", "c"])
    boundary = {"a": [30, 40, 20, 50], "b": [10, 10, 10, 20], "c": [0, 5, 0, 0]}
    sums = np.array([900, 0, 5, 0, 95, 0, 0, 0, 0, *(cell for cells in boundary.values() for cell in cells)], float)
    f1 = [2 * p * r / (p + r) for p, r in ((30 / 40, 20 / 50), (1.0, 0.5))]
    found = metrics_of(measures, sums)["boundary_F1"]
    assert found["mean"] == pytest.approx(np.mean(f1))
    assert found["c"] == 0.0


def test_the_correction_for_few_blocks_is_that_of_the_blocks_with_the_class():
    """correctness 100: 7 of 20 blocks; draws by hand, at the percentile of Student's t with 6 degrees of freedom."""
    ours, theirs = holdout(np.random.default_rng(3), 20, 7)
    measures = measures_of("patches", COMMON_AND_RARE)
    found = difference_intervals(
        ours.units, theirs.units, measures, ["recall.rare"], confidence=0.9, resamples=20_000
    )["recall.rare"]  # fmt: skip
    rng = np.random.default_rng(9)
    chosen = rng.integers(0, 20, (20_000, 20))
    one, other = (side.units.sums[chosen].sum(1) for side in (ours, theirs))
    with np.errstate(invalid="ignore"):
        drawn = one[:, 3] / one[:, 2:].sum(1) - other[:, 3] / other[:, 2:].sum(1)
    tail = norm.cdf(np.sqrt(7 / 6) * t.ppf(0.05, 6))
    expected = np.nanquantile(drawn, [tail, 1 - tail])
    np.testing.assert_allclose(found, expected, atol=3e-3)
    narrower = np.nanquantile(drawn, [norm.cdf(np.sqrt(20 / 19) * t.ppf(0.05, 19)), 0.5])
    assert narrower[0] > expected[0] + 6e-3

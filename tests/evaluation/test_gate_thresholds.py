"""Thresholds of the gate: at equality, with missing values, in a metric's own unit and words."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from tests.evaluation.counts import confused, evaluation_of
from ununennium.config import GateConfig
from ununennium.evaluation.evaluation import Evaluation
from ununennium.evaluation.gate import Check, GateDecision, check_metrics, decide
from ununennium.evaluation.thresholds import exceeds, reaches

HUNDREDTHS = range(0, 101, 5)


def plain(**metrics: float) -> Evaluation:
    """An evaluation of two labelled classes of which only metrics are known; ``IoU_a`` is IoU of class a."""
    classes = {name: {} for name in ("IoU", "F1", "precision")}
    for name, value in metrics.items():
        family, _, label = name.partition("_")
        (classes[family] if label else classes).update({label or name: value})
    return Evaluation(["a", "b"], [[1, 0], [0, 1]], classes, 2, "s", "d")


def regressed(value: float, metric: str = "bias") -> Evaluation:
    return Evaluation(["height"], [], {metric: value}, 10, "s", "d")


def check_of(decision: GateDecision, kind: str) -> Check:
    (found,) = [check for check in decision.checks if check.kind == kind]
    return found


@pytest.mark.parametrize("drop", [1, 5, 10, 20])
def test_a_fall_of_exactly_the_limit_passes_and_a_hundredth_more_does_not(drop):
    """correctness 97, 103: against whole hundredths; 0.10 to 0.09 is a fall of 0.01, whatever 0.1 - 0.01 rounds to."""
    config = GateConfig(metric="F1_a", confidence=None, max_class_drop=drop / 100)
    config = config.model_copy(update={"metric": "F1.a"})
    for before in range(drop + 1, 101):
        for fall in (drop - 1, drop, drop + 1):
            ours, theirs = (
                plain(IoU_a=value / 100, F1_a=gain) for value, gain in ((before - fall, 0.9), (before, 0.5))
            )
            assert check_of(decide(ours, theirs, config), "class").passed == (fall <= drop), (before, fall)


@pytest.mark.parametrize("least", [0, 1, 6, 10, -5])
@pytest.mark.parametrize("metric", ["F1.a", "RMSE", "bias"])
def test_a_gain_of_exactly_the_least_is_none_and_a_hundredth_more_is(least, metric):
    """correctness 103: 'by more than' is strict; also for errors, and for a margin below 0."""
    config = GateConfig(metric=metric, confidence=None, max_class_drop=None, min_improvement=least / 100)
    for before in range(20, 81):
        for gain in (least - 1, least, least + 1):
            after = before + gain if metric == "F1.a" else before - gain
            if metric == "F1.a":
                ours, theirs = plain(F1_a=after / 100), plain(F1_a=before / 100)
            else:
                sign = -1 if metric == "bias" else 1
                ours, theirs = regressed(sign * after / 100, metric), regressed(before / 100, metric)
            assert check_of(decide(ours, theirs, config), "improvement").passed == (gain > least), (before, gain)


@pytest.mark.parametrize("metric", ["accuracy", "RMSE"])
def test_a_slice_that_falls_by_exactly_the_limit_passes(metric):
    """correctness 97, 103: 60 of 100 beside 80 of 100 is a fall of 0.2; an RMSE of 1.2 is one fifth above 1.0."""
    scene = np.repeat([0, 1], 6)
    config = GateConfig(metric=metric, confidence=None, max_class_drop=None, max_slice_drop=0.2)
    for after, passes in ((60, True), (59, False)):
        if metric == "accuracy":
            ours, theirs = (
                confused(np.array([[[n, 100 - n], [0, 0]] for n in right]), ["a", "b"], scene=scene)
                for right in ([100] * 6 + [after] * 6, [80] * 12)
            )
        else:
            squares = 144.0 if passes else 144.1
            ours, theirs = (
                evaluation_of(np.array([[100, 0, s, 0, 0, 0] for s in sums]), ["height"], kind="values", scene=scene)
                for sums in ([0.0] * 6 + [squares] * 6, [100.0] * 12)
            )
        (south,) = [check for check in decide(ours, theirs, config).checks if check.name == "slice drop scene south"]
        assert south.passed == passes


@pytest.mark.parametrize("blocks", [5, 6])
def test_a_slice_of_exactly_six_blocks_is_guarded_and_one_of_five_is_said_not_to_be(blocks):
    """correctness 97."""
    scene = np.repeat([0, 1], [20, blocks])
    ours, theirs = (
        confused(np.array([[[n, 100 - n], [0, 0]] for n in right]), ["a", "b"], scene=scene)
        for right in ([99] * 20 + [10] * blocks, [50] * (20 + blocks))
    )
    config = GateConfig(metric="accuracy", confidence=None, max_class_drop=None)
    (south,) = [check for check in decide(ours, theirs, config).checks if check.name == "slice drop scene south"]
    assert south.passed == (blocks < 6)
    assert ("is not guarded: only 5 block(s)" in south.reason) == (blocks < 6)


@pytest.mark.parametrize(("least", "promoted"), [(0.0, True), (0.05, True), (0.099, True), (0.1, False), (0.2, False)])
def test_the_lower_end_of_the_interval_has_to_exceed_the_least_improvement(least, promoted):
    """correctness 97: blocks that all gain 0.1 have an interval of no width, which is not above 0.1."""
    ours, theirs = (confused(np.array([[[n, 100 - n], [0, 0]]] * 12), ["a", "b"]) for n in (60, 50))
    config = GateConfig(metric="accuracy", max_class_drop=None, min_improvement=least)
    assert decide(ours, theirs, config).verdict == ("promoted" if promoted else "not_promoted")


def test_a_value_above_the_least_improvement_whose_interval_is_not_is_refused():
    """correctness 97: the value gains 0.1, more than 0.05, but the blocks that it rests on gain -0.1 to 0.3."""
    gains = np.tile([-2, 22], 6)
    ours, theirs = (
        confused(np.array([[[50 + g, 50 - g], [0, 0]] for g in by]), ["a", "b"]) for by in (gains, 0 * gains)
    )
    settings = {"metric": "accuracy", "max_class_drop": None, "max_slice_drop": None}
    (check,) = decide(ours, theirs, GateConfig(**settings, min_improvement=0.05)).checks
    assert 0 < check.interval[0] < 0.05 < check.value - check.baseline
    assert not check.passed
    assert "but that may be noise" in check.reason
    assert decide(ours, theirs, GateConfig(**settings)).verdict == "promoted"


def test_the_comparison_is_that_of_exact_fractions():
    """correctness 103: two sums of hundredths, beside Python's fractions."""
    for value in HUNDREDTHS:
        for before in HUNDREDTHS:
            for margin in (-10, -1, 0, 1, 10):
                exact = Fraction(value, 100) - Fraction(before, 100) - Fraction(margin, 100)
                numbers = value / 100, before / 100, margin / 100
                assert exceeds(*numbers) == (exact > 0)
                assert reaches(*numbers) == (exact >= 0)


def test_missing_and_infinite_numbers_compare_as_they_should():
    """correctness 103."""
    assert not exceeds(math.nan, 0.0)
    assert not reaches(1.0, math.nan)
    assert exceeds(-2.0, -math.inf, 0.1)
    assert not exceeds(-math.inf, -2.0)
    assert exceeds(1e-12, 0.0)
    assert not exceeds(1e6 + 1e-6, 1e6)


@pytest.mark.parametrize(("value", "promoted"), [(0.001, False), (0.1, False), (0.2, True)])
def test_a_champion_without_the_metric_is_worth_nothing_and_no_free_pass(value, promoted):
    """correctness 102: precision of a class that the champion never predicts; the least improvement still counts."""
    config = GateConfig(metric="precision.a", confidence=None, max_class_drop=None, min_improvement=0.1)
    decision = decide(plain(precision_a=value), plain(precision_a=math.nan), config)
    assert decision.verdict == ("promoted" if promoted else "not_promoted")
    assert "the champion has no precision.a" in decision.reason


@pytest.mark.parametrize(("hits", "promoted"), [([10] * 12, True), ([40] + [0] * 11, False)])
def test_a_champion_without_the_metric_needs_an_interval_too(hits, promoted):
    """correctness 102: the champion never predicts b. One lucky block is noise; twelve alike are none."""
    theirs = confused(np.array([[[60, 0], [40, 0]]] * 12), ["a", "b"])
    ours = confused(np.array([[[40, 20], [40 - hit, hit]] for hit in hits]), ["a", "b"])
    config = GateConfig(metric="precision.b", max_class_drop=None, max_slice_drop=None)
    (check,) = decide(ours, theirs, config).checks
    assert math.isnan(check.baseline)
    assert check.interval is not None
    assert check.passed == promoted


def test_an_infinite_error_is_said_to_have_no_interval():
    """correctness 102."""
    sums = np.array([[100, 0, 100.0, 0, 0, 0]] * 8)
    ours = evaluation_of(sums, ["height"], kind="values")
    theirs = evaluation_of(np.where(np.arange(6) > 0, np.nan, sums), ["height"], kind="values")
    (check, *_) = decide(ours, theirs, GateConfig(metric="RMSE")).checks
    assert check.passed
    assert "the champion has no RMSE" in check.reason
    assert "no interval was drawn" in check.reason


def presences(hits: list[tuple[int, int]], blocks: int = 8) -> Evaluation:
    """Of two classes that half of 40 patches of each block show: (hits, false alarms) of each class."""
    cells = np.array([[hit, false, 20 - hit, 20 - false] for hit, false in hits])
    return evaluation_of(np.tile(cells.reshape(1, -1), (blocks, 1)), ["a", "b"], kind="presences")


def test_a_class_that_falls_in_a_multilabel_is_guarded_by_its_iou():
    """correctness 102: what max_class_drop promises for every task with classes."""
    theirs, ours = presences([(16, 4), (10, 10)]), presences([(4, 20), (19, 1)])
    assert theirs.metric("IoU.a") == pytest.approx(16 / 24)
    check_metrics(GateConfig(metric="F1.b", floors={"IoU.a": 0.1}), ["a", "b"], "multilabel")
    decision = decide(ours, theirs, GateConfig(metric="F1.b"))
    assert decision.verdict == "not_promoted"
    assert "IoU.a 0.1000 falls by more than 0.1 below the champion's 0.6667" in decision.reason
    assert decide(ours, theirs, GateConfig(metric="F1.b", max_class_drop=None)).verdict == "promoted"


def test_a_guard_that_has_nothing_to_guard_is_named():
    """correctness 102."""
    decision = decide(regressed(1.0, "RMSE"), regressed(2.0, "RMSE"), GateConfig(metric="RMSE", confidence=None))
    assert any("gate.max_class_drop" in note for note in decision.notes)
    assert any("gate.max_slice_drop" in note for note in decision.notes)


@pytest.mark.parametrize(
    ("ours", "theirs", "promoted", "words"),
    [
        (0.1, -0.5, True, "bias 0.1000 is nearer to 0 than the champion's -0.5000"),
        (-0.1, -0.5, True, "bias -0.1000 is nearer to 0 than the champion's -0.5000"),
        (0.6, -0.5, False, "bias 0.6000 is not nearer to 0 than the champion's -0.5000"),
        (-0.5, 0.5, False, "bias -0.5000 is not nearer to 0 than the champion's 0.5000"),
    ],
)
def test_bias_is_judged_by_its_distance_from_0_and_said_so(ours, theirs, promoted, words):
    """correctness 104."""
    decision = decide(regressed(ours), regressed(theirs), GateConfig(metric="bias", confidence=None))
    assert decision.verdict == ("promoted" if promoted else "not_promoted")
    assert words in decision.reason


@pytest.mark.parametrize(("south", "passes"), [(0.15, True), (-0.15, True), (0.25, False), (-0.25, False)])
def test_bias_of_a_slice_may_move_from_0_by_so_much_in_the_targets_unit(south, passes):
    """correctness 104: not by a share of it; the champion's is 0.01."""
    scene = np.repeat([0, 1], 6)
    ours, theirs = (
        evaluation_of(np.array([[100, 100 * b, 100, 100, 0, 0] for b in bias]), ["height"], kind="values", scene=scene)
        for bias in ([0.0] * 6 + [south] * 6, [0.4] * 6 + [0.01] * 6)
    )
    (check,) = [
        check
        for check in decide(ours, theirs, GateConfig(metric="bias", confidence=None)).checks
        if check.name == "slice drop scene south"
    ]
    assert check.passed == passes
    assert "0.2 (in the targets' unit) farther from 0 than the champion's 0.0100" in check.reason

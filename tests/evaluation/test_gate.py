"""The gate's decisions, as a table."""

from __future__ import annotations

import json
import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ununennium.config import GateConfig
from ununennium.errors import ConfigError, GateError
from ununennium.evaluation.evaluation import Evaluation
from ununennium.evaluation.gate import check_metrics, check_slices, decide


def measured(a=0.5, b=0.5, split="s", data="d", labelled=(1, 1), **more):
    finite = [value for value in (a, b) if value is not None and not math.isnan(value)]
    mean = sum(finite) / len(finite) if finite else math.nan
    scores = {"mean": mean, "a": a, "b": b}
    metrics = {"IoU": scores, "F1": dict(scores), "accuracy": 0.9, "kappa": 0.5, **more}
    return Evaluation(["a", "b"], [[labelled[0], 0], [0, labelled[1]]], metrics, sum(labelled), split, data)


def by_value(**settings):
    """A gate that compares values alone: what blocks tell of noise has tests of its own below."""
    return GateConfig(**{"confidence": None, **settings})


@pytest.mark.parametrize(
    ("challenger", "champion", "settings", "verdict", "words"),
    [
        (measured(), None, {}, "promoted", "first model"),
        (measured(), None, {"floors": {"IoU.b": 0.4}}, "promoted", "1 floor"),
        (measured(), None, {"floors": {"IoU.b": 0.6}}, "not_promoted", r"IoU\.b 0\.5000 is below the floor 0\.6"),
        (measured(0.6, 0.6), measured(), {}, "promoted", r"IoU 0\.6000 exceeds the champion's 0\.5000"),
        (measured(), measured(), {}, "not_promoted", "does not exceed"),
        (measured(0.4, 0.4), measured(), {}, "not_promoted", "does not exceed"),
        (measured(0.51, 0.51), measured(), {"min_improvement": 0.02}, "not_promoted", r"by more than 0\.02"),
        (measured(0.9, 0.3), measured(), {}, "not_promoted", r"IoU\.b 0\.3000 falls by more than 0\.1"),
        (measured(0.9, 0.3), measured(), {"max_class_drop": None}, "promoted", "exceeds"),
        (measured(0.9, 0.3), measured(), {"metric": "IoU.b", "max_class_drop": None}, "not_promoted", "does not"),
        (measured(math.nan, math.nan), measured(), {}, "not_promoted", "does not exceed"),
        (measured(math.nan, math.nan), None, {}, "not_promoted", "is no number"),
        (measured(), None, {"metric": "IoU.lake"}, "not_promoted", r"IoU\.lake \(not measured\)"),
        (measured(), None, {"floors": {"dice": 0.1}}, "not_promoted", r"dice \(not measured\)"),
        (measured(), measured(math.nan, math.nan), {}, "promoted", "the champion has no IoU"),
        (measured(), None, {"floors": {"accuracy": 0.9}}, "promoted", r"first model: IoU 0\.5000; 1 floor"),
        (measured(b=math.nan), None, {"metric": "IoU.b", "floors": {"IoU.a": 0.1}}, "not_promoted", "is no number"),
        (
            measured(0.5, 0.0),
            measured(0.5, math.nan),
            {"metric": "IoU.b"},
            "not_promoted",
            r"the champion has no IoU\.b",
        ),
        (measured(0.5, 0.2), measured(0.5, math.nan), {"metric": "IoU.b"}, "promoted", r"the champion has no IoU\.b"),
    ],
)
def test_the_table_of_decisions(challenger, champion, settings, verdict, words):
    decision = decide(challenger, champion, by_value(**settings))
    assert decision.verdict == verdict
    assert re.search(words, decision.reason)


scores = st.floats(0, 1) | st.just(math.nan)


@pytest.mark.slow
@given(scores, scores, scores, scores, st.floats(0, 1), st.floats(0, 0.2), st.none() | st.floats(0, 0.3))
def test_no_model_with_a_failing_check_is_promoted(a, b, champion_a, champion_b, floor, improvement, drop):
    config = by_value(floors={"IoU.b": floor}, min_improvement=improvement, max_class_drop=drop)
    decision = decide(measured(a, b), measured(champion_a, champion_b), config)
    assert (decision.verdict == "promoted") == all(check.passed for check in decision.checks)
    if decision.verdict == "promoted":
        assert b >= floor
        assert math.isfinite(measured(a, b).metric("IoU"))


@pytest.mark.parametrize("other", [{"split": "old"}, {"data": "old"}])
def test_a_champion_measured_on_other_pixels_must_be_measured_again(other):
    with pytest.raises(GateError, match=r"another (split|state) of the data \(old.*evaluate it"):
        decide(measured(), measured(**other), GateConfig())


@pytest.mark.parametrize(("answer", "verdict"), [("refuse", "not_promoted"), ("replace", "promoted")])
def test_a_champion_that_cannot_be_measured_is_kept_unless_it_is_to_be_replaced(answer, verdict):
    config = GateConfig(unreadable_champion=answer)
    decision = decide(measured(), None, config, champion_error="its weights are damaged")
    assert decision.verdict == verdict
    assert decision.reason.startswith("the champion cannot be measured (its weights are damaged)")
    assert f"gate.unreadable_champion{' =' if answer == 'replace' else ':'} replace" in decision.reason
    assert [check.kind for check in decision.checks] == ["champion", "measured"]


def test_a_class_that_the_holdout_lacks_cannot_fall():
    """The champion saw some where there is none (IoU 0); a new model that sees none (no IoU) is not worse."""
    challenger, champion = measured(0.6, math.nan, labelled=(5, 0)), measured(0.5, 0.0, labelled=(5, 0))
    decision = decide(challenger, champion, by_value(metric="IoU.a"))
    assert decision.verdict == "promoted"
    assert [check.name for check in decision.checks] == ["improvement of IoU.a", "class drop IoU.a"]


def test_a_labelled_class_that_is_no_longer_measured_has_fallen():
    decision = decide(measured(0.9, math.nan), measured(0.5, 0.3), by_value(metric="IoU.a"))
    assert decision.verdict == "not_promoted"
    assert "IoU.b nan falls by more than 0.1 below the champion's 0.3000" in decision.reason


def test_what_passes_says_so_in_words():
    decision = decide(measured(0.6, 0.6), measured(), by_value(floors={"IoU.b": 0.5}))
    assert [check.reason for check in decision.checks] == [
        "IoU.b 0.6000 reaches the floor 0.5",
        "IoU 0.6000 exceeds the champion's 0.5000",
        "IoU.a 0.6000 is at most 0.1 below the champion's 0.5000",
        "IoU.b 0.6000 is at most 0.1 below the champion's 0.5000",
    ]
    (first,) = decide(measured(), None, GateConfig()).checks
    assert (first.reason, first.threshold, first.passed) == ("IoU 0.5000", None, True)


@pytest.mark.parametrize("name", ["IoU", "IoU.b", "F1.mean", "recall.a", "kappa"])
def test_metrics_that_an_evaluation_has_are_accepted(name):
    check_metrics(GateConfig(metric=name, floors={name: 0.1}), ["a", "b"])


@pytest.mark.parametrize("name", ["iou", "IoU.lake", "accuracy.a", "val_IoU", ""])
def test_a_metric_that_an_evaluation_will_not_have_is_refused_before_training(name):
    with pytest.raises(ConfigError, match=r"gate\.metric = .*there are IoU, F1, .*IoU\.a, IoU\.b"):
        check_metrics(GateConfig(metric=name), ["a", "b"])
    with pytest.raises(ConfigError, match=r"gate\.floors = "):
        check_metrics(GateConfig(floors={name: 0.1}), ["a", "b"])


def test_the_record_is_strict_json_with_every_number():
    decision = decide(measured(), measured(0.4, math.nan), GateConfig(floors={"IoU.b": 0.1}))
    record = json.loads(json.dumps(decision.to_json(), allow_nan=False))
    assert {"verdict", "reason", "checks", "split_sha256"} <= record.keys()
    keys = {"name", "value", "threshold", "baseline", "passed", "reason", "kind", "interval"}
    assert keys == record["checks"][0].keys()
    assert [check["kind"] for check in record["checks"]] == ["floor", "improvement", "class"]
    json.dumps(decide(measured(), None, GateConfig()).to_json(), allow_nan=False)
    json.dumps(decide(measured(), measured(math.nan, math.nan), GateConfig()).to_json(), allow_nan=False)


def test_an_evaluation_survives_json():
    before = measured(0.25, math.nan)
    after = Evaluation.from_json(json.loads(json.dumps(before.to_json(), allow_nan=False)))
    assert after.metric("IoU.a") == 0.25
    assert math.isnan(after.metric("IoU.b"))
    assert after.metric("nothing") is None
    assert after.metric("accuracy.a") is None


def regressed(rmse, bias=0.0, r2=0.5):
    return Evaluation(["height"], [], {"RMSE": rmse, "MAE": rmse, "bias": bias, "R2": r2}, 10, "s", "d")


@pytest.mark.parametrize(
    ("challenger", "champion", "settings", "verdict", "words"),
    [
        (regressed(2.0), regressed(3.0), {}, "promoted", r"RMSE 2\.0000 is below the champion's 3\.0000"),
        (regressed(3.0), regressed(2.0), {}, "not_promoted", r"RMSE 3\.0000 is not below the champion's"),
        (regressed(2.0), regressed(2.0), {}, "not_promoted", "is not below"),
        (regressed(1.95), regressed(2.0), {"min_improvement": 0.1}, "not_promoted", r"by more than 0\.1"),
        (regressed(1.85), regressed(2.0), {"min_improvement": 0.1}, "promoted", r"by more than 0\.1"),
        (regressed(2.0), None, {"floors": {"RMSE": 2.5}}, "promoted", r"first model: RMSE 2\.0000; 1 floor"),
        (regressed(2.0), None, {"floors": {"RMSE": 1.5}}, "not_promoted", r"RMSE 2\.0000 is above the ceiling 1\.5"),
        (regressed(2.0, bias=-0.4), None, {"floors": {"bias": 0.3}}, "not_promoted", r"bias -0\.4000 is above"),
        (regressed(2.0, bias=-0.2), None, {"floors": {"bias": 0.3}}, "promoted", "1 floor"),
        (regressed(2.0, r2=0.6), regressed(1.0, r2=0.5), {"metric": "R2"}, "promoted", "exceeds"),
        (regressed(2.0), regressed(math.nan), {}, "promoted", "the champion has no RMSE"),
        (regressed(math.nan), regressed(2.0), {}, "not_promoted", "is not below"),
        (regressed(math.nan), None, {}, "not_promoted", "is no number"),
    ],
)
def test_of_an_error_less_is_better(challenger, champion, settings, verdict, words):
    decision = decide(challenger, champion, by_value(**{"metric": "RMSE", **settings}))
    assert decision.verdict == verdict
    assert re.search(words, decision.reason)


def test_slices_by_what_no_scene_has_are_refused_and_by_scene_date_or_attribute_are_not():
    check_slices(GateConfig(slices=["scene", "date", "region"]), ["season", "region"])
    with pytest.raises(
        ConfigError, match=r"gate\.slices = 'regoin'.*did you mean 'region'.*there are scene, date, region"
    ):
        check_slices(GateConfig(slices=["scene", "regoin"]), ["region"])


def test_only_a_guard_that_is_asked_for_and_cannot_be_kept_is_noted():
    """Evaluations here have no blocks to count slices by."""
    noted = "no slice is guarded"
    guarded, unguarded = (by_value(max_slice_drop=drop, slices=["scene"]) for drop in (0.1, None))
    assert any(noted in note for note in decide(measured(0.6, 0.6), measured(), guarded).notes)
    assert not any(noted in note for note in decide(measured(0.6, 0.6), measured(), unguarded).notes)
    assert not any(noted in note for note in decide(measured(0.6, 0.6), None, guarded).notes)

"""The gate's decisions, as a table."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ununennium.config import GateConfig
from ununennium.errors import GateError
from ununennium.evaluation.evaluate import Evaluation
from ununennium.evaluation.gate import decide


def measured(a=0.5, b=0.5, split="s", **more):
    finite = [value for value in (a, b) if value is not None and not math.isnan(value)]
    mean = sum(finite) / len(finite) if finite else math.nan
    scores = {"mean": mean, "a": a, "b": b}
    metrics = {"IoU": scores, "F1": dict(scores), "accuracy": 0.9, "kappa": 0.5, **more}
    return Evaluation(["a", "b"], [[1, 0], [0, 1]], metrics, 2, split, "d")


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
        (measured(), None, {"floors": {"accuracy": 0.9}}, "promoted", "first model"),
    ],
)
def test_the_table_of_decisions(challenger, champion, settings, verdict, words):
    decision = decide(challenger, champion, GateConfig(**settings))
    assert decision.verdict == verdict
    import re

    assert re.search(words, decision.reason)


scores = st.floats(0, 1) | st.just(math.nan)


@given(scores, scores, scores, scores, st.floats(0, 1), st.floats(0, 0.2), st.none() | st.floats(0, 0.3))
def test_no_model_with_a_failing_check_is_promoted(a, b, champion_a, champion_b, floor, improvement, drop):
    config = GateConfig(floors={"IoU.b": floor}, min_improvement=improvement, max_class_drop=drop)
    decision = decide(measured(a, b), measured(champion_a, champion_b), config)
    assert (decision.verdict == "promoted") == all(check.passed for check in decision.checks)
    if decision.verdict == "promoted":
        assert b >= floor
        assert math.isfinite(measured(a, b).metric("IoU"))


def test_a_champion_of_another_split_must_be_measured_again():
    with pytest.raises(GateError, match="another split"):
        decide(measured(split="new"), measured(split="old"), GateConfig())


def test_the_record_is_strict_json_with_every_number():
    decision = decide(measured(), measured(0.4, math.nan), GateConfig(floors={"IoU.b": 0.1}))
    record = json.loads(json.dumps(decision.to_json(), allow_nan=False))
    assert {"verdict", "reason", "checks", "split_sha256"} <= record.keys()
    assert {"name", "value", "threshold", "baseline", "passed", "reason"} == record["checks"][0].keys()
    json.dumps(decide(measured(), None, GateConfig()).to_json(), allow_nan=False)
    json.dumps(decide(measured(), measured(math.nan, math.nan), GateConfig()).to_json(), allow_nan=False)


def test_an_evaluation_survives_json():
    before = measured(0.25, math.nan)
    after = Evaluation.from_json(json.loads(json.dumps(before.to_json(), allow_nan=False)))
    assert after.metric("IoU.a") == 0.25
    assert math.isnan(after.metric("IoU.b"))
    assert after.metric("nothing") is None
    assert after.metric("accuracy.a") is None

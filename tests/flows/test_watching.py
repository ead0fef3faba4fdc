"""The watches: is the champion as good as it was, are there other data; and the way back to an earlier champion."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import rasterio

from tests.flows.test_retrain import events
from ununennium.checkpoints.registry import Registry
from ununennium.config import RunConfig
from ununennium.errors import ConfigError
from ununennium.pipeline.drift import drift_history

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("server")]
Tiny = Callable[..., RunConfig]
HOLDOUT = 592  # columns from here on


def require_valid(event: dict[str, Any]) -> dict[str, Any]:
    """The payload of an event, if it is what its schema says."""
    from flows.events import schema

    jsonschema.validate(event["payload"], schema(event["event"]))
    payload: dict[str, Any] = event["payload"]
    return payload


def accuracy(prediction: Path, label: Path) -> float:
    """Share of the predicted holdout's pixels that the label agrees with."""
    with rasterio.open(prediction) as predicted, rasterio.open(label) as labelled:
        left = round(predicted.transform.c / labelled.transform.a - labelled.transform.c / labelled.transform.a)
        mapped = predicted.read(1)
        truth = labelled.read(1)[:, left : left + mapped.shape[1]]
        assert left == HOLDOUT
        return float((mapped == truth).mean())


def test_labels_that_change_degrade_the_champion_and_are_told_of_once(
    tiny: Tiny, tmp_path: Path, atlanta: Path
) -> None:
    from flows.evaluate import evaluate
    from flows.retrain import retrain
    from flows.rollback import rollback
    from flows.watch import watch

    label = tmp_path / "label.tif"
    shutil.copy(atlanta / "atlanta_buildings.tif", label)
    scenes = f"data.scenes=[{{name: atlanta, image: {atlanta}/atlanta_pan_05m.tif, label: {label}}}]"
    config = tiny(scenes, f"storage={tmp_path}/storage", "name=watched", "gate.metric=accuracy")
    with pytest.raises(ConfigError, match="has no champion"):
        evaluate(config, return_state=True).result()
    first = retrain(config, return_state=True).result()
    registry = Registry(config.storage, "watched")
    then = registry.contract(first["champion"]["version"])["metrics"]

    # Nothing has changed.
    state: Any = evaluate(config, return_state=True)
    assert (state.type.value, state.name) == ("COMPLETED", "Completed"), state.message
    (check,) = drift_history(config.storage, "watched")
    assert (check.value, check.degraded, check.data_changed) == (pytest.approx(then["accuracy"]), False, False)
    state = watch(config, return_state=True)
    assert state.message == "1 scene(s), all as they were"  # the champion has seen them

    # A third of the holdout is built up; somebody is still writing, and then is done.
    with rasterio.open(label, "r+") as file:
        truth = file.read(1)
        truth[:300, HOLDOUT:] = 1
        file.write(truth, 1)
    state = watch(config, return_state=True)
    assert (state.name, state.type.value) == ("Settling", "COMPLETED"), state.message
    assert "still being delivered" in state.message
    state = watch(config, settle_minutes=0, return_state=True)
    assert (state.name, state.message) == ("Arrived", "1 scene(s): 1 changed"), state.message
    assert watch(config, settle_minutes=0, return_state=True).name == "Completed"
    (arrived,) = events("ununennium.data.arrived", resource="ununennium.data.watched")
    payload = require_valid(arrived)
    assert (payload["changed"], payload["added"], payload["scenes"]) == (["atlanta"], [], 1)

    expected = accuracy(Path(first["places"]["prediction"]) / "atlanta.tif", label)
    assert expected < then["accuracy"] - 0.02
    state = evaluate(config, return_state=True)
    assert (state.type.value, state.name) == ("COMPLETED", "Degraded"), state.message
    check, _ = drift_history(config.storage, "watched")
    assert check.value == pytest.approx(expected, abs=1e-6)
    assert (check.degraded, check.data_changed, check.run_id) == (True, True, first["run_id"])
    (degraded,) = events("ununennium.champion.degraded", resource="ununennium.model.watched")
    payload = require_valid(degraded)
    assert (payload["value"], payload["record"]) == (pytest.approx(expected, abs=1e-6), check.url)
    assert json.loads(Path(check.url).read_text())["version"] == first["champion"]["version"]
    allowed = then["accuracy"] - expected + 0.001
    assert evaluate(config, tolerance=allowed, return_state=True).name == "Completed"

    # Another champion, and the way back.
    second = retrain(
        config, overrides=["seed=1", "gate.min_improvement=-1", "gate.max_class_drop=null", "gate.confidence=null"]
    )
    assert second["champion"]["generation"] == 2
    state = rollback("watched", reason="looks odd", storage=config.storage, return_state=True)
    assert state.message.startswith(f"generation 3 of watched is version {first['champion']['version']} again")
    (rolled,) = events("ununennium.checkpoint.rolled_back", resource="ununennium.model.watched")
    payload = require_valid(rolled)
    assert (payload["version"], payload["replaced"]) == (first["champion"]["version"], second["champion"]["version"])
    now = registry.current()
    assert now is not None
    assert (now.version, now.reason) == (first["champion"]["version"], "looks odd")

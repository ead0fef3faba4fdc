"""Storage that commit 2928e86 wrote (``write_storage.py``) is listed, measured, mapped, rolled back and continued."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from tests.compat import plain_run
from tests.compat.write_storage import EPOCHS, STEPS_PER_EPOCH
from ununennium.checkpoints import CheckpointStore, Registry
from ununennium.inference import Predictor

Command = Callable[..., str]


def run_of(stored: Path, model: str, number: int = 0) -> str:
    """Name of the first, or another, run of a model."""
    names = sorted(folder.name for folder in (stored / "store" / "runs").iterdir())
    return [name for name in names if name.split("Z-")[1][:-5] == model][number]


def read(stored: Path, run: str, file: str) -> Any:
    return json.loads((stored / "store" / "runs" / run / file).read_text(encoding="utf-8"))


def newest_weights(stored: Path, run: str) -> dict[str, torch.Tensor]:
    store = CheckpointStore(str(stored / "store" / "runs" / run / "checkpoints"))
    newest = store.latest()
    assert newest is not None
    weights: dict[str, torch.Tensor] = store.load(newest)["model"]
    return weights


def test_runs_are_listed_and_reported(stored: Path, command: Command) -> None:
    runs = json.loads(command("runs", "--json"))
    assert [(run["name"], run["stop_reason"], run["verdict"]) for run in runs] == [
        ("roads-interrupted", "preempted", None),
        ("heights", "completed", "promoted"),
        ("roads", "completed", "promoted"),
        ("roads", "completed", "promoted"),
    ]
    assert [run["epochs"] for run in runs[1:]] == [EPOCHS] * 3
    for run in (*runs, runs[1]):
        page = stored / "page.html"
        command("report", run["run_id"], "--output", str(page))
        assert run["run_id"] in page.read_text(encoding="utf-8")
    assert "IoU" in command("compare", runs[2]["run_id"], runs[3]["run_id"])


def test_the_registry_is_listed_and_whole(stored: Path, command: Command) -> None:
    assert {row["model"]: row["generation"] for row in json.loads(command("registry", "list", "--json"))} == {
        "heights": 1,
        "roads": 3,
    }
    found = json.loads(command("registry", "show", "roads", "--json"))
    first, second = found["history"][-1]["version"], found["history"][-2]["version"]
    assert [(record["action"], record["version"], record["restored_from"]) for record in found["history"]] == [
        ("rollback", first, 1),
        ("promote", second, None),
        ("promote", first, None),
    ]
    assert found["history"][0]["reason"] == "stripes on coastal tiles"
    assert found["contract"]["classes"] == ["ground", "road"]
    aliases = {row["alias"]: row["version"] for row in json.loads(command("registry", "alias", "roads", "--json"))}
    assert aliases == {"champion": first, "staging": second}
    for model in ("roads", "heights"):
        assert all(row["whole"] for row in json.loads(command("registry", "verify", model, "--json")))


def test_a_champion_is_rolled_back_and_followed(stored: Path, command: Command) -> None:
    second = Registry("store", "roads").history()[1].version
    record = json.loads(command("registry", "rollback", "roads", "--to", "2", "--reason", "they are gone", "--json"))
    assert (record["generation"], record["restored_from"], record["version"]) == (4, 2, second)
    registry = Registry("store", "roads")
    assert registry.resolve("champion") == second
    first = registry.history()[-1]
    passed = {"verdict": "promoted", "reason": "better"}
    registry.promote(first.version, expected_generation=4, gate=passed, actor="me", run_id=first.run_id)
    assert [record.generation for record in registry.history()] == [5, 4, 3, 2, 1]
    assert registry.aliases() == {"staging": second}


@pytest.mark.slow
def test_a_run_is_measured_beside_the_champion_to_the_same(stored: Path, command: Command) -> None:
    run = run_of(stored, "roads", 1)
    before = read(stored, run, "evaluation.json")
    after = json.loads(command("evaluate", run, "--json"))
    assert after["evaluation"]["version"] == Registry("store", "roads").history()[0].version == before["version"]
    assert after["evaluation"]["champion_error"] is None
    for side in ("challenger", "champion"):
        expected = pytest.approx(flat(before[side]["metrics"]), abs=2e-3)
        assert flat(after["evaluation"][side]["metrics"]) == expected
    assert after["gate"]["verdict"] == "promoted"
    assert after["gate"]["checks"][0]["name"] == read(stored, run, "gate.json")["checks"][0]["name"]


@pytest.mark.slow
def test_a_version_is_measured_to_the_same(stored: Path, command: Command) -> None:
    before = read(stored, run_of(stored, "heights"), "evaluation.json")["challenger"]["metrics"]
    after = json.loads(command("registry", "evaluate", "heights.yaml", "--json"))
    assert flat(after["evaluation"]["metrics"]) == pytest.approx(flat(before), rel=1e-4)


def flat(metrics: dict[str, Any]) -> dict[str, float]:
    """Metrics with dotted names."""
    found: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": number for inner, number in flat(value).items()}
        elif value is not None:
            found[name] = value
    return found


@pytest.mark.parametrize("model", ["roads", "heights"])
def test_scenes_are_mapped_to_the_same(stored: Path, model: str) -> None:
    predictor = Predictor.champion(model, storage="store")
    predictor.map("scenes/image0.tif", "map.tif", outputs=["map"])
    with rasterio.open("map.tif") as now, rasterio.open(f"map-{model}.tif") as before:
        assert (now.crs, now.transform, str(now.nodata)) == (before.crs, before.transform, str(before.nodata))
        found, expected = now.read(), before.read()
    if model == "roads":
        assert len(np.unique(expected)) == 2
        assert np.count_nonzero(found != expected) <= 4  # another processor may round a pixel between classes
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_weights_of_one_that_was_not(stored: Path, command: Command) -> None:
    run = run_of(stored, "roads-interrupted")
    newest = CheckpointStore(str(stored / "store" / "runs" / run / "checkpoints")).latest()
    assert newest is not None
    assert newest.step % STEPS_PER_EPOCH != 0
    summary = json.loads(command("train", "--resume", run, "--json"))
    assert (summary["run_id"], summary["stop_reason"], summary["epochs"]) == (run, "completed", EPOCHS)
    found, expected = newest_weights(stored, run), newest_weights(stored, run_of(stored, "roads"))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    losses = [read(stored, name, "result.json")["history"]["train_loss"] for name in (run, run_of(stored, "roads"))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    command("evaluate", run)
    assert json.loads(command("promote", run, "--json"))["champion"]["generation"] == 1


def test_a_plain_trainer_resumes_from_its_checkpoint(stored: Path) -> None:
    expected = torch.load("plain-whole.pt", weights_only=True)
    found = plain_run.run("resume", "plain")
    torch.testing.assert_close(found["model"], expected["model"], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found["average"]["weights"], expected["average"]["weights"], rtol=1e-5, atol=1e-6)
    assert found["history"] == {name: pytest.approx(values, rel=1e-5) for name, values in expected["history"].items()}
    assert found["scheduler"]["last_epoch"] == expected["scheduler"]["last_epoch"]

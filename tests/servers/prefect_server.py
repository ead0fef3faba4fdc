"""A Prefect server as a deployment would start it, and its clients: worker, command line, API."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.servers.programs import running

ROOT = Path(__file__).parents[2]
LONG_S = 300.0
DATABASE = "prefect.db"
"""Name of the SQLite database in a server's ``PREFECT_HOME``."""


@contextlib.contextmanager
def prefect_server(tmp_path: Path, *, database: Path | None = None, **settings: str) -> Iterator[dict[str, str]]:
    """Start a server; its files lie in ``tmp_path``. Gives the environment of its clients.

    Args:
        tmp_path: folder of the server's home and log.
        database: a SQLite database to start from, which stays as it is; an empty one is made if there is none.
        settings: further environment variables of the server.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",
        "PYTHONPATH": str(ROOT),
    }
    (tmp_path / "prefect").mkdir()
    if database is not None:
        shutil.copy(database, tmp_path / "prefect" / DATABASE)
    with serving({**environment, **settings}, tmp_path / "server.log"):
        yield environment


@contextlib.contextmanager
def serving(environment: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a server with this environment, whose ``PREFECT_API_URL`` has the port; it may be started again later."""
    port = environment["PREFECT_API_URL"].removesuffix("/api").rpartition(":")[2]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", port]
    with running(command, log, environment=environment, stop_s=20) as process:
        deadline = time.monotonic() + 120
        while not healthy(environment["PREFECT_API_URL"]):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.5)
        yield process


def make_empty_database(file: Path) -> None:
    """Write the database that a server makes at its first start, which takes longer than to start on a copy."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "PREFECT_HOME": str(file.parent),
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": f"sqlite+aiosqlite:///{file}",
        "DO_NOT_TRACK": "1",
    }
    prefect_cli(environment, file.parent, "server", "database", "upgrade", "-y")


def make_deployed_database(file: Path, empty: Path, checkout: Path) -> None:
    """Write a database with everything that ``infra.bootstrap`` and ``prefect deploy`` make."""
    with prefect_server(file.parent, database=empty) as environment:
        bootstrap(environment, checkout, "--silent-after", "75")
        prefect_cli(environment, checkout, "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    with contextlib.closing(sqlite3.connect(file.parent / "prefect" / DATABASE)) as database:
        database.execute("VACUUM INTO ?", (str(file),))  # a plain copy would lack the write-ahead log


@contextlib.contextmanager
def deployed_server(folder: Path, database: Path, checkout: Path) -> Iterator[dict[str, str]]:
    """Start a server on ``make_deployed_database``'s database, whose runs work in ``checkout``.

    Gives the environment of its clients and workers. The sweep does not run by itself: each run of it costs seconds.
    """
    with prefect_server(folder, database=database) as environment:
        work_in(environment["PREFECT_API_URL"], checkout)
        yield {**environment, "PREFECT_WORKER_QUERY_SECONDS": "1"}


def work_in(api: str, checkout: Path) -> None:
    """Let the runs of all deployments work in ``checkout``, and pause the sweep."""
    steps = [{"prefect.deployments.steps.set_working_directory": {"directory": str(checkout)}}]
    for deployment in post(api, "/deployments/filter"):
        assert [list(step) for step in deployment["pull_steps"]] == [list(step) for step in steps]
        post(api, f"/deployments/{deployment['id']}", {"pull_steps": steps}, method="PATCH")
        if deployment["name"] == "every-minute":
            post(api, f"/deployments/{deployment['id']}/pause_deployment")


def healthy(api: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def post(api: str, path: str, body: dict[str, Any] | None = None, *, method: str = "POST") -> Any:
    """Send a request to the server's API; sent again if its SQLite database was locked, as Prefect's clients do."""
    request = urllib.request.Request(
        f"{api}{path}", json.dumps(body or {}).encode(), {"Content-Type": "application/json"}, method=method
    )
    for _ in range(20):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or b"null")
        except TimeoutError:
            pass
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise AssertionError(f"{path}: {error.code} {error.read().decode()}") from error
        time.sleep(1)
    raise AssertionError(f"{api}{path} does not answer")


def prefect_cli(environment: dict[str, str], folder: Path, *arguments: str) -> str:
    """Output of ``prefect ARGUMENTS``, run in ``folder``."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def bootstrap(environment: dict[str, str], folder: Path, *arguments: str, status: int = 0) -> str:
    """Output of ``python -m infra.bootstrap ARGUMENTS``, run in ``folder``."""
    command = [sys.executable, "-m", "infra.bootstrap", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@contextlib.contextmanager
def worker_of(
    environment: dict[str, str], folder: Path, *, pool: str = "local", log: Path | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of ``pool``, as a person would start it in ``folder``."""
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
    with running(command, log or folder / "worker.log", environment=environment, folder=folder, stop_s=60) as process:
        yield process


def flow_runs(api: str, flow: str) -> list[dict[str, Any]]:
    """The runs of a flow that somebody or something asked for, oldest first; not those that schedules will ask for."""
    found: list[dict[str, Any]] = post(api, "/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})
    return sorted((run for run in found if not run["auto_scheduled"]), key=lambda run: str(run["created"]))


def ended(api: str, flow: str, number: int = 0) -> dict[str, Any]:
    """The run of a flow, counted from the oldest, when it has ended."""
    deadline = time.monotonic() + LONG_S
    while time.monotonic() < deadline:
        runs = flow_runs(api, flow)
        if len(runs) > number and runs[number]["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return runs[number]
        time.sleep(1)
    raise AssertionError(f"run {number} of {flow} has not ended: {flow_runs(api, flow)}")


def events(api: str, name: str) -> list[dict[str, Any]]:
    """The events of that name, which arrive some seconds after they were emitted."""
    deadline = time.monotonic() + LONG_S
    found: list[dict[str, Any]] = []
    while not found and time.monotonic() < deadline:
        found = post(api, "/events/filter", {"filter": {"event": {"name": [name]}}})["events"]
        time.sleep(0.5)
    return found

"""One real Prefect server for the session, and small real runs of the flow on the sample scene."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# Before Prefect is imported anywhere: it must neither read nor touch what is the user's.
for _name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[_name]
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="ununennium-prefect-")
os.environ["DO_NOT_TRACK"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["PREFECT_SERVER_UI_ENABLED"] = "false"

from ununennium.config import RunConfig  # noqa: E402

ROOT = Path(__file__).parents[2]
LONG_S = 300.0
TINY = [
    "model.kwargs={base_channels: 4, depth: 2}",
    "data.chip_size=64",
    "data.chips_per_epoch=8",
    "data.batch_size=4",
    "trainer.epochs=2",
    "trainer.device=cpu",
    "trainer.mixed_precision=false",
    "early_stopping=null",
    "gate.floors={}",
]


@pytest.fixture(scope="session")
def server() -> Iterator[None]:
    """A server of this session's own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the storage that the runs of a session share, so that later ones meet earlier champions."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture
def tiny(atlanta: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunConfig]:
    """``tiny("trainer.epochs=5")`` is a configuration that trains in seconds."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("UNUNENNIUM_WORK", str(place / "work"))

    def load(*changes: str) -> RunConfig:
        return RunConfig.load(atlanta.parent / "run.yaml", [*TINY, *changes])

    return load


@pytest.fixture
def server_environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A server as a deployment would start it, and the environment of its clients."""
    with prefect_server(tmp_path) as environment:
        yield environment


@contextlib.contextmanager
def prefect_server(tmp_path: Path, **settings: str) -> Iterator[dict[str, str]]:
    """The same with other settings of the server; what lies in ``tmp_path`` is its own."""
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
    log = tmp_path / "server.log"
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)],
            env={**environment, **settings},
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            deadline = time.monotonic() + 120
            while not healthy(environment["PREFECT_API_URL"]):
                assert process.poll() is None, log.read_text()[-3000:]
                assert time.monotonic() < deadline, log.read_text()[-3000:]
                time.sleep(0.5)
            yield environment
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def healthy(api: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def post(api: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """What the server's API answers; asked again where its SQLite database was locked, as Prefect's clients do."""
    request = urllib.request.Request(
        f"{api}{path}", json.dumps(body or {}).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    for _ in range(20):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)
        except TimeoutError:
            pass
        except urllib.error.HTTPError as error:
            if error.code != 503:
                raise AssertionError(f"{path}: {error.code} {error.read().decode()}") from error
        time.sleep(1)
    raise AssertionError(f"{api}{path} does not answer")


def prefect_cli(environment: dict[str, str], folder: Path, *arguments: str) -> str:
    """What ``prefect ARGUMENTS`` prints, run in ``folder``."""
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
    """What ``python -m infra.bootstrap ARGUMENTS`` prints, run in ``folder``."""
    command = [sys.executable, "-m", "infra.bootstrap", *arguments]
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What of the project a worker needs, in a folder of its own, where it may write."""
    folder = tmp_path / "checkout"
    for name in ("deployments", "flows", "infra", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@contextlib.contextmanager
def worker_of(environment: dict[str, str], folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A worker of the pool ``local``, as a person would start it in ``folder``."""
    with (folder / "worker.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local", "--type", "process"],
            cwd=folder,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def deployed(server_environment: dict[str, str], checkout: Path) -> dict[str, str]:
    """A server with the deployments of the project; gives the environment of its clients and workers."""
    environment = {**server_environment, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    bootstrap(environment, checkout, "--silent-after", "75")
    prefect_cli(environment, checkout, "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    return environment


@pytest.fixture
def working(deployed: dict[str, str], checkout: Path) -> Iterator[dict[str, str]]:
    """The same with a worker."""
    with worker_of(deployed, checkout):
        yield deployed


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

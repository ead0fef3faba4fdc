"""One real Prefect server for the session, and small real runs of the flow on the sample scene."""

from __future__ import annotations

import json
import os
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
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            deadline = time.monotonic() + 120
            while not _healthy(environment["PREFECT_API_URL"]):
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


def _healthy(api: str) -> bool:
    try:
        with urllib.request.urlopen(f"{api}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def post(api: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """What the server's API answers."""
    request = urllib.request.Request(
        f"{api}{path}", json.dumps(body or {}).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


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

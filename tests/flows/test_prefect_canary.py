"""Does today's set of packages make a Prefect server that works? See the caps in pyproject.toml."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


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


def _post(api: str, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{api}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def _prefect(environment: dict[str, str], *arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_server_starts_and_its_scheduler_makes_runs(server_environment: dict[str, str]) -> None:
    """fastapi >= 0.155 kills the server; sqlalchemy 2.1 silently stops its scheduler: no run would ever appear."""
    api = server_environment["PREFECT_API_URL"]
    _prefect(server_environment, "work-pool", "create", "local", "--type", "process")
    _prefect(server_environment, "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    deployments = {found["name"]: found for found in _post(api, "/deployments/filter", {})}
    assert set(deployments) == {"on-demand", "nightly"}
    schema = deployments["nightly"]["parameter_openapi_schema"]
    assert set(schema["properties"]) == {"config", "dry_run"}
    assert schema["definitions"]["TrainerSettings"]["properties"]["epochs"]["description"] == "Max training epochs."

    deadline = time.monotonic() + 120
    scheduled: list[Any] = []
    while not scheduled and time.monotonic() < deadline:
        only = {"id": {"any_": [deployments["nightly"]["id"]]}}
        scheduled = _post(api, "/flow_runs/filter", {"deployments": only})
        time.sleep(1)
    assert {run["state_name"] for run in scheduled} == {"Scheduled"}


def test_the_deployments_describe_the_sample_run() -> None:
    import yaml

    from ununennium.config import RunConfig

    described = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text(encoding="utf-8"))
    sample = RunConfig.load(ROOT / "examples" / "atlanta" / "run.yaml")
    for deployment in described["deployments"]:
        config = RunConfig.parse(deployment["parameters"]["config"]).with_scenes_relative_to(ROOT)
        assert config == sample
        module, _, flow = deployment["entrypoint"].partition(":")
        assert (ROOT / module).exists()
        assert f"def {flow}(" in (ROOT / module).read_text(encoding="utf-8")

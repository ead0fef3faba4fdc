"""A server as a team would run it: PostgreSQL, Redis, and the services in a process of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.processes import wait_until
from tests.servers.prefect_server import ROOT, bootstrap, ended, healthy, prefect_cli, worker_of
from tests.servers.programs import running
from ununennium.config import RunConfig

Tiny = Callable[..., RunConfig]


def _postgres() -> Path | None:
    """Folder of PostgreSQL's programs, which distributions keep off the path."""
    found = shutil.which("initdb")
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return Path(found).resolve().parent if found else installed[-1].parent if installed else None


POSTGRES = _postgres()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(POSTGRES is None, reason="needs PostgreSQL (Debian: apt-get install postgresql)"),
    pytest.mark.skipif(
        shutil.which("redis-server") is None, reason="needs Redis (Debian: apt-get install redis-server)"
    ),
    pytest.mark.skipif(importlib.util.find_spec("prefect_redis") is None, reason="needs the package prefect-redis"),
]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def database() -> Iterator[str]:
    """URL of an empty PostgreSQL database; its server refuses to run as root."""
    assert POSTGRES is not None
    folder, port = Path(tempfile.mkdtemp(prefix="ununennium-postgres-")), _free_port()
    as_user: list[str] = []
    if os.geteuid() == 0:
        user = pwd.getpwnam("postgres")
        os.chown(folder, user.pw_uid, user.pw_gid)
        as_user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"]
    data = str(folder / "data")
    try:
        make = [*as_user, str(POSTGRES / "initdb"), "-D", data, "-U", "prefect", "-A", "trust", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True, timeout=120, cwd="/")
        options = ["-p", str(port), "-k", str(folder), "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]
        ready = [str(POSTGRES / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(port)]
        # SIGINT is its fast shutdown; SIGTERM, which `running` sends, waits for clients that are gone by then.
        with running([*as_user, str(POSTGRES / "postgres"), "-D", data, *options], folder / "log"):
            assert wait_until(lambda: subprocess.run(ready, check=False, timeout=30).returncode == 0, 60)
            yield f"postgresql+asyncpg://prefect@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[str]:
    """Address of a Redis server."""
    port = _free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(tmp_path)]
    with running(command, tmp_path / "redis.log"):
        assert wait_until(lambda: b"Ready to accept" in (tmp_path / "redis.log").read_bytes(), 60)
        yield f"redis://127.0.0.1:{port}"


@pytest.fixture
def split_server(database: str, redis: str, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The API without services, and the services without the API; gives the environment of clients."""
    port = _free_port()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {
        "PREFECT_HOME": str(tmp_path / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
        "DO_NOT_TRACK": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(ROOT),
    }
    servers = environment | {
        "PREFECT_SERVER_DATABASE_CONNECTION_URL": database,
        "PREFECT_SERVER_EVENTS_MESSAGING_BROKER": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_MESSAGING_CACHE": "prefect_redis.messaging",
        "PREFECT_SERVER_EVENTS_CAUSAL_ORDERING": "prefect_redis.ordering",
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect_redis.lease_storage",
        "PREFECT_REDIS_MESSAGING_URL": f"{redis}/0",
        "PREFECT_SERVER_DOCKET_URL": f"{redis}/1",
    }
    (tmp_path / "prefect").mkdir()
    server = [sys.executable, "-m", "prefect", "server"]
    api = [*server, "start", "--no-services", "--host", "127.0.0.1", "--port", str(port)]
    with running(api, tmp_path / "api.log", environment=servers) as process:
        up = wait_until(lambda: process.poll() is not None or healthy(environment["PREFECT_API_URL"]), 120)
        assert up, (tmp_path / "api.log").read_text()
        assert process.poll() is None, (tmp_path / "api.log").read_text()
        with running([*server, "services", "start"], tmp_path / "services.log", environment=servers) as services:
            yield environment
            assert services.poll() is None, (tmp_path / "services.log").read_text()


def test_a_retraining_is_promoted_and_makes_the_map(split_server: dict[str, str], checkout: Path, tiny: Tiny) -> None:
    """The same chain as on the embedded server: parameters, states, events, automations, limits."""
    bootstrap(split_server, checkout)
    prefect_cli(split_server, checkout, "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    config = json.dumps(tiny("storage=storage").model_dump(mode="json"))
    with worker_of(split_server, checkout):
        prefect_cli(split_server, checkout, "deployment", "run", "retrain/on-demand", "--param", f"config={config}")
        api = split_server["PREFECT_API_URL"]
        retrained = ended(api, "retrain")
        assert retrained["state_type"] == "COMPLETED", retrained
        predicted = ended(api, "predict")
        assert (predicted["state_type"], predicted["created_by"]["type"]) == ("COMPLETED", "AUTOMATION"), predicted
    item = json.loads((checkout / "maps" / "atlanta_pan_05m" / "item.json").read_text())
    assert item["properties"]["ununennium:version"] == predicted["parameters"]["version"]

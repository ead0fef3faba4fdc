"""One real Prefect server for the session, and small real runs of the flow on the sample scene."""

from __future__ import annotations

import os
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

from ununennium.config import RunConfig  # noqa: E402

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

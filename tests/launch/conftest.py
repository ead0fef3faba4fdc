"""A small real run: the sample scene, a tiny network, a few chips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import tiny
from ununennium import pipeline
from ununennium.config import RunConfig
from ununennium.runs.directory import RunDirectory

TINY = [*tiny.TINY, "trainer.ema_decay=null"]


@pytest.fixture
def prepared(atlanta: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunDirectory]:
    """``prepared("trainer.epochs=5")`` makes a run that is ready to be trained."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))

    def prepare(*changes: str) -> RunDirectory:
        config = RunConfig.load(atlanta.parent / "run.yaml", [*TINY, *changes])
        run = RunDirectory.create(config)
        pipeline.prepare(run)
        return run

    return prepare

"""A small real run: the sample scene, a tiny network, a few chips."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ununennium import pipeline
from ununennium.config import RunConfig
from ununennium.runs.directory import RunDirectory

TINY = [
    "model.kwargs={base_channels: 4, depth: 2}",
    "data.chip_size=64",
    "data.chips_per_epoch=8",
    "data.batch_size=4",
    "trainer.epochs=2",
    "trainer.device=cpu",
    "trainer.mixed_precision=false",
    "trainer.ema_decay=null",
    "early_stopping=null",
    "gate.floors={}",
]


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

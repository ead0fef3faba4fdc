"""Scenes whose answer is known, and the whole way of a run over them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rasters import write_raster
from ununennium import pipeline
from ununennium.config import RunConfig
from ununennium.pipeline.sessions import open_run
from ununennium.runs.directory import RunDirectory

SIZE = 160


class Scenes:
    """Writes rasters into one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, array: np.ndarray, **profile: Any) -> str:
        """A GeoTIFF of ``array`` (bands, rows, columns), 10 m in UTM unless ``profile`` says otherwise."""
        return write_raster(self.folder / f"{name}.tif", array, **profile)

    def change(self, seed: int = 0, size: int = SIZE, num_dates: int = 2) -> dict[str, Any]:
        """Two bands of noise at several dates; where squares of 16 pixels changed, the last date is brighter."""
        rng = np.random.default_rng(seed)
        before = rng.normal(1000, 100, (num_dates, 2, size, size))
        changed = np.kron(rng.random((size // 16, size // 16)) < 0.4, np.ones((16, 16))).astype(bool)
        before[-1, :, changed] += 400
        images = [self.write(f"date{n}_{seed}", date.astype(np.uint16)) for n, date in enumerate(before)]
        label = self.write(f"changed_{seed}", changed[None].astype(np.uint8))
        dates = [f"2026-0{n + 1}-15" for n in range(num_dates)]
        return {"name": f"place{seed}", "image": images, "date": dates, "label": label}


@pytest.fixture
def scenes(tmp_path: Path) -> Scenes:
    return Scenes(tmp_path)


@pytest.fixture
def run_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., RunConfig]:
    """A run of some seconds over the scenes of a data section."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))

    def make(data: dict[str, Any], **settings: Any) -> RunConfig:
        split = {"block_size": 32, "buffer": 4, "validation": 0.2, "holdout": 0.25}
        return RunConfig.parse(
            {
                "name": "tiny",
                "data": {"chip_size": 32, "chips_per_epoch": 64, "batch_size": 8, "split": split, **data},
                "model": {"target": "ununennium.models:UNet", "kwargs": {"base_channels": 8, "depth": 2}},
                "optimizer": {"target": "torch.optim:AdamW", "kwargs": {"lr": 0.01}},
                "storage": str(tmp_path / "storage"),
                **settings,
                "gate": {"first": "any", **settings.get("gate", {})},
                "trainer": {"device": "cpu", "epochs": 3, "mixed_precision": False, **settings.get("trainer", {})},
            }
        )

    return make


@pytest.fixture
def run_through() -> Callable[[RunConfig], tuple[RunDirectory, dict[str, Any]]]:
    """Prepare, train and judge in the processes that a user's run has; the run and its summary."""

    def go(config: RunConfig) -> tuple[RunDirectory, dict[str, Any]]:
        with open_run(config) as run:
            pipeline.prepare(run)
            pipeline.train(run).require_usable()
            return run, pipeline.evaluate_and_promote(run, actor="test")

    return go

"""A champion that needs no training: it finds the pixels above a threshold, each by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ununennium.checkpoints.artifact import write_artifact
from ununennium.checkpoints.registry import Registry

THRESHOLD = 20


def promote_bright(root: Path, threshold: float = THRESHOLD, **changes: Any) -> str:
    """Make a champion of the model ``bright`` in ``root/storage``; returns its version."""
    registry = Registry(str(root / "storage"), "bright")
    model = nn.Conv2d(1, 2, 1)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([-1.0, 1.0]).reshape(2, 1, 1, 1))
        model.bias.copy_(torch.tensor([threshold, -threshold]))
    described = {
        "target": "torch.nn:Conv2d",
        "kwargs": {"out_channels": 2, "kernel_size": 1},
        "in_channels": 1,
        "num_classes": 2,
    }
    contract = {
        "model": described,
        "classes": ["dark", "bright"],
        "ignore_index": 255,
        "bands": [1],
        "statistics": {"mean": [0.0], "std": [1.0]},
        "nodata": 0,
        "resolution": [0.5, 0.5],
        "crs": "EPSG:32616",
        "chip_size": 64,
        "split_sha256": "0",
        "data_sha256": "0",
        "git_commit": None,
        "versions": {},
        "metrics": {},
        "run_id": "a-run",
        "created": "2026-01-01T00:00:00+00:00",
        **changes,
    }
    folder = root / f"artifact{threshold}"
    write_artifact(folder, model.state_dict(), contract)
    version = registry.add_version(folder)
    champion = registry.current()
    registry.promote(
        version,
        expected_generation=0 if champion is None else champion.generation,
        gate={"verdict": "promoted", "reason": "better"},
        actor="test",
        run_id=f"run{threshold}",
    )
    return version


def expected(pixels: np.ndarray, threshold: int = THRESHOLD) -> np.ndarray:
    """The map of pixels (rows, columns), 0 of which are without data."""
    return np.where(pixels == 0, 255, (pixels > threshold).astype(np.uint8))

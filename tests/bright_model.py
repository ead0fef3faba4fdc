"""A champion that needs no training: it finds the pixels above a threshold, each by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.contracts import make_contract
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
    described: dict[str, Any] = {
        "classes": ["dark", "bright"], "nodata": 0, "resolution": [0.5, 0.5], "crs": "EPSG:32616", "chip_size": 64,
    }  # fmt: skip
    folder = root / f"artifact{threshold}"
    write_artifact(folder, model.state_dict(), make_contract(**{**described, **changes}))
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

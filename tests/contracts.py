"""The contract of a model, as ``write_artifact`` takes it."""

from __future__ import annotations

from typing import Any

CONV = {
    "target": "torch.nn:Conv2d",
    "kwargs": {"out_channels": 2, "kernel_size": 1},
    "in_channels": 1,
    "num_classes": 2,
}
"""A model of two classes that looks at each pixel of one band by itself."""


def make_contract(**changes: Any) -> dict[str, Any]:
    """A contract of ``CONV``, with other values where ``changes`` has them."""
    return {
        "model": CONV,
        "classes": ["a", "b"],
        "ignore_index": 255,
        "bands": [1],
        "statistics": {"mean": [0.0], "std": [1.0]},
        "nodata": None,
        "resolution": None,
        "crs": None,
        "chip_size": 32,
        "split_sha256": "s",
        "data_sha256": "d",
        "git_commit": None,
        "versions": {},
        "metrics": {},
        "run_id": "run",
        "created": "2026-01-01T00:00:00+00:00",
        **changes,
    }

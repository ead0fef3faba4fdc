"""The benchmark of the workers' memory, on fewer scenes, as a test that memory does not grow."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_worker_takes_no_more_memory_epoch_after_epoch(tmp_path):
    """An epoch's batches are 74 MB: a worker that held on to them, or to a tenth of them, would show."""
    out = tmp_path / "memory.json"
    options = ["--scenes", "48", "--epochs", "8", "--workers", "1", "--cache-mb", "8", "--json", str(out)]
    subprocess.run([sys.executable, "-m", "benchmarks.loader_memory", *options], cwd=ROOT, check=True, timeout=500)
    measured = json.loads(out.read_text())
    assert len(measured["epochs"]) == 8
    assert measured["growth_mb"] < 50

"""All ranks leave after the same step, whenever one of them is told to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("late_stop.py")


@pytest.mark.slow
@pytest.mark.parametrize(("step", "ended"), [(3, [4, "preempted"]), (4, [4, "preempted"])])
def test_a_stop_that_comes_just_after_the_ranks_agreed_waits_for_the_next_time(
    tmp_path: Path, step: int, ended: list[object]
) -> None:
    """correctness 43, 69: within an epoch, and at the end of one."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(PROGRAM)]
    finished = subprocess.run(
        [*command, str(tmp_path / "out"), str(step)],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert [json.loads((tmp_path / f"out.{rank}").read_text()) for rank in (0, 1)] == [ended, ended]

"""Ranks that end well, however busy the machine is, and that find each other again after a restart."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent
BUSY = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"


def torchrun(program: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *options]
    return subprocess.run(
        [*command, str(FOLDER / program)], env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at threads through /proc")
def test_a_rank_that_is_done_does_not_abort_at_exit() -> None:
    """correctness 70: Gloo's threads have let go of what is Python's before Python ends."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(3)]
    try:
        finished = torchrun("busy_end.py")
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert finished.returncode == 0, finished.stderr


@pytest.mark.slow
def test_after_a_restart_no_rank_looks_for_one_that_is_gone() -> None:
    """torchrun keeps its store, and in it the addresses of the killed ranks."""
    finished = torchrun("late_restart.py", "--max-restarts=3")
    assert finished.returncode == 0, finished.stderr

"""A process that has done its work ends well, however busy the machine is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("busy_end.py")
BUSY = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at threads through /proc")
def test_a_rank_that_is_done_does_not_abort_at_exit() -> None:
    """correctness 70: Gloo's threads have let go of what is Python's before Python ends."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(3)]
    try:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(PROGRAM)]
        finished = subprocess.run(
            command,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        for process in busy:
            process.kill()
            process.wait()
    assert finished.returncode == 0, finished.stderr

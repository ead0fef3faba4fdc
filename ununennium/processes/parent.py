"""End a process together with the one that started it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

PREEMPTED_EXIT_CODE = 143
"""128 + SIGTERM, the exit status of a training process that was asked to stop and wrote a checkpoint."""
_PR_SET_PDEATHSIG = 1


def die_with_parent(grace_s: float) -> None:
    """End this rank when torchrun is gone: SIGTERM from the kernel first, and after ``grace_s`` for good."""
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(grace_s)
        os._exit(PREEMPTED_EXIT_CODE)

    threading.Thread(target=watch, name="orphan-watch", daemon=True).start()

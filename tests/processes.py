"""What the tests of killed runs share: which processes a run has, when to strike, and what must be left."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

from ununennium.checkpoints.store import CheckpointStore
from ununennium.processes.supervise import start_time
from ununennium.runs.directory import RunDirectory

LONG_S = 240.0
"""A machine that is five times slower must not fail a test that waits for an event."""


def rank_pids(run: RunDirectory) -> list[int]:
    """Process ids of the ranks, in their order."""
    files = sorted(run.pids_folder.glob("rank*"))
    return [int(file.read_text(encoding="utf-8").split()[0]) for file in files]


def parent_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])


def steps_done(run: RunDirectory) -> int:
    """Optimizer steps, as the heartbeat has them."""
    try:
        return int(json.loads(run.heartbeat_file.read_text(encoding="utf-8"))["global_step"])
    except (OSError, ValueError):
        return 0


def wait_until(condition: Callable[[], object], timeout_s: float = LONG_S) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def when(condition: Callable[[], object], act: Callable[[], None]) -> threading.Thread:
    """Do ``act`` in a thread as soon as ``condition`` holds; without it, once it never will."""

    def wait() -> None:
        wait_until(condition)
        act()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


def has_checkpoint(run: RunDirectory) -> bool:
    """Whether the run has a complete checkpoint and has gone on training."""
    return steps_done(run) > 0 and any(Path(run.checkpoints_url).glob("*.json"))


def processes_of(run: RunDirectory) -> list[str]:
    """Command lines of the processes that work on ``run``: launcher, torchrun, ranks, and the ranks' children."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            environment = (folder / "environ").read_bytes()
            ours = str(run.run_file) in command or run.run_id in command
            if (ours and "worker" in command) or (b"UNUNENNIUM_LAUNCH=" in environment and run.run_id in command):
                found.append(command)
    return found


def assert_nothing_left(run: RunDirectory, grace_s: float) -> None:
    """No process of the run is alive after the grace time."""
    pids = rank_pids(run)
    assert pids, "no training process had begun"
    wait_until(lambda: not any(start_time(pid) for pid in pids) and not processes_of(run), grace_s)
    assert [pid for pid in pids if start_time(pid)] == []
    assert processes_of(run) == []


def newest_checkpoint(run: RunDirectory) -> dict[str, object]:
    """The newest checkpoint, read whole: its size and hash are checked on the way."""
    newest = CheckpointStore(run.checkpoints_url).latest()
    assert newest is not None
    return CheckpointStore.read(newest.url)

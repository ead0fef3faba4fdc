"""Detect a training that stalls, from outside: its heartbeat stops, and ``Stalled`` is raised in the launcher."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ununennium.processes.errors import RankError
from ununennium.processes.supervise import process_state, send_signal, start_time
from ununennium.runs.heartbeat import RunProgress

if TYPE_CHECKING:
    from ununennium.runs.directory import RunDirectory

OnLine = Callable[[str], None]

STACKS_SIGNAL = signal.SIGUSR1
"""A training process that gets it writes the stack of each of its threads into ``stacks/``."""
_STACKS_S = 2.0


class Stalled(BaseException):
    """Training does not move. Not an ``Exception``: nothing on the way may swallow it.

    Attributes:
        error: description of the stall.
    """

    def __init__(self, error: RankError) -> None:
        super().__init__(error.message)
        self.error = error


@dataclass(frozen=True)
class RankProcess:
    """A training process.

    Attributes:
        rank: its rank.
        pid: its process id.
        start: when it started, which with the id names it for good.
    """

    rank: int
    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """Tell whether it runs; a process that was given the same id later is another."""
        return self.start != 0 and start_time(self.pid) == self.start


def register_process(run: RunDirectory, rank: int) -> None:
    """Note which process is ``rank``, so that the launcher can end it even if torchrun is gone."""
    run.pids_folder.mkdir(parents=True, exist_ok=True)
    words = f"{os.getpid()} {start_time(os.getpid())} {os.environ.get('UNUNENNIUM_LAUNCH', '')}"
    (run.pids_folder / f"rank{rank}").write_text(words, encoding="utf-8")


def processes(run: RunDirectory, launch_id: str | None = None) -> list[RankProcess]:
    """The training processes that a launch started on this machine; None for any launch."""
    found = []
    for file in sorted(run.pids_folder.glob("rank*")):
        with contextlib.suppress(OSError, ValueError):
            pid, start, launch = file.read_text(encoding="utf-8").split()
            if launch_id in (None, launch):
                found.append(RankProcess(int(file.name.removeprefix("rank")), int(pid), int(start)))
    return found


class Watch:
    """Called every quarter of a second while training runs: raises if it stalls.

    Args:
        run: its ``heartbeat.json`` is read, which rank 0 rewrites every few seconds as long as batches are done.
        launch_id: of the processes to ask where they are, once it stands still.
        stall_timeout_s: seconds without a change of the heartbeat after which ``Stalled`` is raised.
    """

    def __init__(self, run: RunDirectory, launch_id: str, stall_timeout_s: float | None) -> None:
        self._run, self._launch_id, self._stall_timeout_s = run, launch_id, stall_timeout_s
        self._beat = ""
        self._moved = time.monotonic()

    def __call__(self) -> None:
        """Look once.

        Raises:
            Stalled: nothing has moved for too long.
        """
        with contextlib.suppress(OSError):
            beat = self._run.heartbeat_file.read_text(encoding="utf-8")
            if beat != self._beat:
                self._beat, self._moved = beat, time.monotonic()
        if self._stall_timeout_s is not None and time.monotonic() - self._moved > self._stall_timeout_s:
            raise Stalled(self._diagnose())

    def _diagnose(self) -> RankError:
        """Ask every process where it stands, and say which ones were stopped from outside."""
        ranks = processes(self._run, self._launch_id)
        for process in ranks:
            if process.alive:
                send_signal(process.pid, STACKS_SIGNAL)
        time.sleep(_STACKS_S)
        stopped = [process.rank for process in ranks if process.alive and process_state(process.pid) == "T"]
        stacks = [_stack(self._run.stacks_folder / f"rank{process.rank}.txt", process.rank) for process in ranks]
        standing = RunProgress.of(self._run)
        where = "before the first batch" if standing is None else f"at {standing.position}"
        message = f"training has not moved for {self._stall_timeout_s:g} s, {where}"
        if stopped:
            message += f"; the process of rank {', '.join(map(str, stopped))} is stopped (SIGSTOP)"
        message += f"; {self._run.stacks_folder} has where each process stood (launcher.stall_timeout_s is the limit)"
        rank = stopped[0] if stopped else 0
        return RankError(rank, time.time(), "Stalled", message, "\n".join(stacks), expected=True, lost=True)


def _stack(file: Path, rank: int) -> str:
    try:
        return f"rank {rank}:\n{file.read_text(encoding='utf-8').strip() or 'does not answer'}"
    except OSError:
        return f"rank {rank}: does not answer"

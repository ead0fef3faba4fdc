"""Run a child process to its end, and make sure of that end whatever happens to the caller."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ununennium.errors import LaunchError
from ununennium.redaction import redact

POLL_S = 0.25
"""The waits of the caller's thread are this short, so that a cancellation raised in it is seen at once."""
_DEFAULTS = {"OMP_WAIT_POLICY": "PASSIVE"}
"""OpenMP's threads spin while they wait for each other. Where another process wants a core, too, they burn the time
that the thread they wait for needs: an epoch took 69 s beside two busy processes on two cores, and 8 s with this."""
TAIL_LINES = 200
MAX_LINE = 10_000


class Terminated(BaseException):
    """SIGTERM as an exception: what is under way is ended in order, and the exit status is 143."""


def raise_on_sigterm() -> None:
    """Make SIGTERM raise ``Terminated`` in the main thread; by default Python would die at once, tidying nothing up."""

    def handle(number: int, frame: object) -> None:
        raise Terminated("SIGTERM was received")

    signal.signal(signal.SIGTERM, handle)


@dataclass(frozen=True)
class Outcome:
    """End of a supervised process.

    Attributes:
        returncode: exit status; negative for a signal.
        timed_out: whether the deadline ended it.
        tail: its own last lines.
        duration_s: seconds.
    """

    returncode: int
    timed_out: bool
    tail: list[str]
    duration_s: float


def supervise(
    command: Sequence[str],
    *,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    grace_s: float = 25.0,
    on_line: Callable[[str], bool | None] = print,
    on_wait: Callable[[], None] | None = None,
) -> Outcome:
    """Run ``command`` to its end, and make sure of that end whatever happens to the caller.

    Args:
        command: program and arguments.
        env: added to the environment; ``PREFECT_*`` is taken out of it, as a training process needs no orchestrator.
        timeout_s: deadline in seconds.
        grace_s: seconds between SIGTERM and SIGKILL.
        on_line: called with each line of output, from a thread; a true return says that it has been dealt with, and
            keeps it out of ``Outcome.tail``.
        on_wait: called in this thread, every quarter of a second; what it raises ends the process, as below.

    Raises:
        LaunchError: the program could not be started.
        BaseException: whatever was raised in the calling thread meanwhile, after the process has ended.
    """
    guard = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
    started = time.monotonic()
    try:
        process = subprocess.Popen(
            [*guard, *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            errors="replace",
            env={**_DEFAULTS, **inherited, "PYTHONUNBUFFERED": "1", **(env or {})},
        )
    except OSError as error:
        raise LaunchError(f"{command[0]} cannot be started: {error.strerror or error}") from error
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    assert process.stdout is not None
    pump = threading.Thread(target=_pump, args=(process.stdout, on_line, tail), name="pump", daemon=True)
    pump.start()
    timed_out = False
    try:
        while process.poll() is None:
            if timeout_s is not None and time.monotonic() - started > timeout_s:
                timed_out = True
                stop(process, grace_s)
                break
            if on_wait is not None:
                on_wait()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S)
    except BaseException:  # a cancellation, a timeout or an interrupt of the caller: never leave it running
        stop(process, grace_s)
        raise
    finally:
        pump.join(5.0)
    return Outcome(process.returncode, timed_out, list(tail), time.monotonic() - started)


def stop(process: subprocess.Popen[str], grace_s: float) -> None:
    """Ask ``process`` to end, wait ``grace_s``, then kill it and all its descendants."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(grace_s + 3.0)  # torchrun itself kills its ranks after grace_s
    except subprocess.TimeoutExpired:
        family = _descendants(process.pid)
        process.kill()
        for pid in family:
            send_signal(pid, signal.SIGKILL)
        process.wait()


def _pump(stream: IO[str], on_line: Callable[[str], bool | None], tail: deque[str]) -> None:
    """Hand on lines until the stream ends; a failing reader must not block the writer."""
    for raw in stream:
        line = redact(raw.rstrip())[:MAX_LINE]
        if not line:
            continue
        handled: bool | None = False
        with contextlib.suppress(Exception):
            handled = on_line(line)
        if not handled:
            tail.append(line)


def how_it_ended(returncode: int) -> str:
    """An exit status in words."""
    if returncode == -signal.SIGKILL:
        return "was killed (SIGKILL); most often that is the machine running out of memory"
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended with exit status {returncode} and no word of why"


def start_time(pid: int) -> int:
    """Start of the process in clock ticks since boot, which with its id names it for good; 0 if unknown."""
    fields = _stat(pid)
    return 0 if not fields or fields[0] == "Z" else int(fields[19])


def process_state(pid: int) -> str:
    """The system's letter for what the process does, such as ``T`` for stopped; empty if there is none."""
    return "".join(_stat(pid)[:1])


def _stat(pid: int) -> list[str]:
    """The fields that the system keeps of a process, from its state on."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return []


def _descendants(pid: int) -> list[int]:
    """Processes that ``pid`` started, and theirs, as far as the system tells."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="utf-8").split():
                found += [int(child), *_descendants(int(child))]
    return found


def send_signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)

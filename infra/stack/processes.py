"""Servers that outlive the command that starts them, and are found again by it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ununennium.processes.supervise import start_time

MARK = "UNUNENNIUM_STACK"
"""Environment variable with the stack's folder, which every process of it has, and every process that those start."""
_OF = "UNUNENNIUM_STACK_SERVICE"
_POLL_S = 0.2


@dataclass(frozen=True)
class Service:
    """One server of the stack.

    Attributes:
        name: for people, and for its log.
        command: program and arguments.
        environment: its whole environment.
        cwd: working directory.
        is_ready: whether it does its work now.
        stops_by: the signal that asks it to end.
        stop_s: seconds that it gets for that.
        start_s: seconds that it gets to be ready.
        where: its address, for people.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    cwd: Path
    is_ready: Callable[[], bool]
    where: str
    stops_by: signal.Signals = signal.SIGTERM
    stop_s: float = 30.0
    start_s: float = 180.0


@dataclass(frozen=True)
class Process:
    """A process, told from a later one with the same id by when it started.

    Attributes:
        pid: its id, which is that of its group, too.
        started: when, in clock ticks since boot.
    """

    pid: int
    started: int

    @property
    def alive(self) -> bool:
        """Whether it runs."""
        return self.started != 0 and start_time(self.pid) == self.started


def start(service: Service, log: Path) -> Process:
    """Start it in a session of its own, and do not wait."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            list(service.command),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**service.environment, _OF: service.name},
            cwd=service.cwd,
            start_new_session=True,
            # A shell's `&` hands down SIGINT as ignored, by which Prefect's worker ends itself.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    return Process(child.pid, start_time(child.pid))


def wait_until_ready(service: Service, process: Process, log: Path) -> None:
    """Return when it is ready.

    Raises:
        RuntimeError: it ended, or took too long; with its last words.
    """
    deadline = time.monotonic() + service.start_s
    while process.alive:
        if service.is_ready():
            return
        if time.monotonic() > deadline:
            raise RuntimeError(f"{service.name} is not ready after {service.start_s:.0f} s; {_last_words(log)}")
        with contextlib.suppress(ChildProcessError):
            os.waitpid(process.pid, os.WNOHANG)  # of our own children, or it would never be gone
        time.sleep(_POLL_S)
    raise RuntimeError(f"{service.name} does not start; {_last_words(log)}")


def stop(process: Process, number: signal.Signals, patience_s: float) -> None:
    """Ask it to end, and kill it and its group if it does not."""
    if not process.alive:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, number)
    if not gone([process], patience_s):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        gone([process], patience_s)


def gone(processes: Sequence[Process], patience_s: float) -> bool:
    """Wait until all have ended; False if one still runs after so many seconds."""
    deadline = time.monotonic() + patience_s
    while True:
        for process in processes:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)
        if not any(process.alive for process in processes):
            return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_S)


def marked(folder: Path) -> list[tuple[Process, str]]:
    """All processes of the stack in ``folder``, whether or not somebody wrote them down, each with its service.

    What a service starts is of that service, too. Where the system has no /proc, none are found.
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            variables = (entry / "environ").read_bytes().split(b"\0")
            if f"{MARK}={folder}".encode() in variables and int(entry.name) != os.getpid():
                service = next((each for each in variables if each.startswith(f"{_OF}=".encode())), b"=")
                pid = int(entry.name)
                found.append((Process(pid, start_time(pid)), service.partition(b"=")[2].decode()))
    return [(process, service) for process, service in found if process.alive]


def group_of(process: Process) -> int:
    """The group that it belongs to: of a service, the id of the process that was started."""
    try:
        return os.getpgid(process.pid)
    except ProcessLookupError:
        return 0


def roots(found: Sequence[Process]) -> list[Process]:
    """Those whose parent is not among them: of a run the flow, which ends the rest in order."""
    ids = {process.pid for process in found}
    return [process for process in found if _parent_of(process) not in ids]


def _parent_of(process: Process) -> int:
    try:
        return int(Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
    except OSError:
        return 0


def send(found: Iterable[Process], number: signal.Signals) -> None:
    """Send them a signal, as far as they still run."""
    for process in found:
        if process.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, number)


def _last_words(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-3:]
    return f"{log} ends with: {' | '.join(line.strip() for line in lines) or 'nothing'}"

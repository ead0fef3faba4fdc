"""Work in forked copies of this process, which may hang or die, several at a time."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Tell = Callable[[dict[str, Any]], None]


@dataclass
class Job:
    """Work of one copy.

    Attributes:
        work: called in the copy with a function that sends a message to this process. A message with the key
            ``patience_s`` says how long the next one may take.
        about: what the caller wants to find again.
        patience_s: how long the first message may take.
        messages: what was sent.
        end: ``done``, ``hung`` (and was killed), or ``died``.
        seconds: from start to end.
    """

    work: Callable[[Tell], None]
    about: Any = None
    patience_s: float = 60.0
    messages: list[dict[str, Any]] = field(default_factory=list)
    end: str = ""
    seconds: float = 0.0


class _Child:
    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
        self._folder = Path(tempfile.mkdtemp(dir=folder))
        self.reader, writer = os.pipe()
        self._rest = b""
        self._started = time.monotonic()
        self.deadline = self._started + job.patience_s
        self._pid = os.fork()
        if not self._pid:
            os.close(self.reader)
            _in_child(job, writer, self._folder)
        os.close(writer)

    def read(self) -> bool:
        """Take over what was sent; False at the end."""
        data = os.read(self.reader, 1 << 20)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            message = json.loads(line)
            self.job.messages.append(message)
            self.deadline = time.monotonic() + message.get("patience_s", self.job.patience_s)
        return bool(data) and not self.is_done()

    def is_done(self) -> bool:
        """Tell whether the work came to its end; a process that it started may still hold the pipe."""
        return "done" in (self.job.messages or [{}])[-1]

    def finish(self) -> None:
        """End the copy with its process group."""
        self.job.end = "done" if self.is_done() else "hung" if self.deadline >= 0 else "died"
        self.job.seconds = time.monotonic() - self._started
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self.reader)
        shutil.rmtree(self._folder, ignore_errors=True)


def _in_child(job: Job, writer: int, folder: Path) -> None:
    """Do the work, and never return."""
    os.setsid()
    nowhere = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(nowhere, number)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)

    pipe = os.fdopen(writer, "wb", buffering=0)

    def tell(message: dict[str, Any]) -> None:
        pipe.write(json.dumps(message).encode() + b"\n")

    try:
        job.work(tell)
        tell({"done": True})
    finally:
        os._exit(0)


def run(jobs: deque[Job], *, at_once: int) -> Iterator[Job]:
    """Run ``jobs``, and give each as it ends; more may be appended meanwhile."""
    with tempfile.TemporaryDirectory(prefix="mut") as folder, selectors.DefaultSelector() as selector:
        running: list[_Child] = []
        while jobs or running:
            while jobs and len(running) < at_once:
                child = _Child(jobs.popleft(), Path(folder))
                running.append(child)
                selector.register(child.reader, selectors.EVENT_READ, child)
            first = min(child.deadline for child in running)
            for key, _ in selector.select(max(0.0, first - time.monotonic())):
                if not key.data.read():
                    key.data.deadline = -1.0  # it has ended
            for child in [child for child in running if child.deadline < time.monotonic()]:
                running.remove(child)
                selector.unregister(child.reader)
                child.finish()
                yield child.job

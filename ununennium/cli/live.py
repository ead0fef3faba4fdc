"""Live line of ``train`` on a terminal: what it waits for, then the progress that the heartbeat tells."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator

from ununennium.cli.console import say
from ununennium.live_line import LiveLine
from ununennium.report.live import progress_text
from ununennium.runs.directory import RunDirectory
from ununennium.runs.heartbeat import RunProgress

LOOK_S = 0.5
"""Seconds between two looks at the heartbeat."""


class LiveOutput:
    """Lines about a run on standard error; on a terminal with a live line below them."""

    def __init__(self) -> None:
        self._line = LiveLine(sys.stderr) if sys.stderr.isatty() else None

    def __enter__(self) -> LiveOutput:
        return self

    def __exit__(self, *of_exception: object) -> None:
        self.stop()

    def write(self, line: str) -> None:
        """Write a line; what is waited for is the live line."""
        if self._line is None:
            say(line)
        else:
            self._line.write(line)

    def stop(self) -> None:
        """Remove the live line."""
        if self._line is not None:
            self._line.stop()

    @contextlib.contextmanager
    def following(self, run: RunDirectory) -> Iterator[None]:
        """While it lasts, the live line tells how ``run`` trains; what an earlier process left is not shown."""
        line = self._line
        if line is None:
            yield
            return
        shown, over = RunProgress.of(run), threading.Event()

        def follow() -> None:
            nonlocal shown
            while not over.wait(LOOK_S):
                progress = RunProgress.of(run)
                if progress is not None and progress != shown:
                    shown = progress
                    line.update(progress_text(progress, line.width))

        thread = threading.Thread(target=follow, name="live", daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            line.stop()

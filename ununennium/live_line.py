"""Live line of a program that works: rewritten in place on a terminal or in a notebook, and notes about long waits."""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    from rich.console import Console

WAIT_S = 2.0
"""Seconds after which a wait is worth a line."""
_WAITS = " ..."
_MIN_WIDTH = 20


class LiveLine:
    """A line that is rewritten in place, below the lines that are written meanwhile.

    rich draws it on a terminal if it is installed; otherwise a carriage return does. Any thread may call.

    Args:
        stream: terminal or notebook output to draw on.
        console: rich's console to draw on instead.
    """

    def __init__(self, stream: TextIO | None = None, *, console: Console | None = None) -> None:
        self._stream = stream or sys.stderr
        self._console = _rich_console(self._stream) if console is None else console
        self._live: Any = None
        self._text = ""
        self._lock = threading.Lock()

    def __enter__(self) -> LiveLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def width(self) -> int:
        """Columns of the line; what is longer is cut."""
        columns = shutil.get_terminal_size().columns if self._console is None else self._console.width
        return max(_MIN_WIDTH, columns - 1)

    def update(self, text: str) -> None:
        """Show ``text``."""
        with self._lock:
            if self._console is None:
                self._rewrite(text)
                return
            self._text = text
            from rich.live import Live
            from rich.text import Text

            if self._live is None:
                self._live = Live(console=self._console, auto_refresh=False, transient=True)
                self._live.start()
            self._live.update(Text(text, no_wrap=True, overflow="ellipsis"), refresh=True)

    def write(self, line: str) -> None:
        """Write a line that stays, above the live one; a note about a wait (``Wait``) is live until then."""
        if line.endswith(_WAITS):
            self.update(line)
            return
        if self._text.endswith(_WAITS):
            self.stop()
        with self._lock:
            if self._console is not None:
                self._console.print(line, markup=False, highlight=False, soft_wrap=True)
                return
            text = self._text
            self._rewrite("")
            self._stream.write(f"{line}\n")
            self._rewrite(text)

    def stop(self) -> None:
        """Remove the live line; ``update`` brings it back."""
        with self._lock:
            if self._console is None:
                self._rewrite("")
            elif self._live is not None:
                self._live.stop()
                self._live, self._text = None, ""

    def _rewrite(self, text: str) -> None:
        text = text[: self.width]
        blank = " " * (len(self._text) - len(text))
        self._stream.write(f"\r{text}{blank}" if text else f"\r{blank}\r")
        self._stream.flush()
        self._text = text


class Wait:
    """Tells of a wait, once the program has waited ``after_s`` seconds; ``end`` or leaving the context ends it.

    Args:
        text: words for the wait, such as ``waiting for the first batch``.
        write: given the line, from a thread; None for nobody.
        after_s: seconds; a shorter wait is not worth a line.
    """

    def __init__(self, text: str, write: Callable[[str], object] | None, after_s: float = WAIT_S) -> None:
        self._timer = threading.Timer(after_s, write or _nowhere, [text + _WAITS])
        self._timer.daemon = True
        if write is not None:
            self._timer.start()

    def __enter__(self) -> Wait:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """The wait is over."""
        self._timer.cancel()


def _nowhere(line: str) -> None:
    pass


def live_stream() -> TextIO | None:
    """Standard error or output, whichever is a terminal, or a notebook's output; None if nobody looks at either."""
    for stream in (sys.stderr, sys.stdout):
        if stream is not None and stream.isatty() and not is_notebook(stream):
            return stream
    return sys.stdout if is_notebook(sys.stdout) else None


def is_notebook(stream: object) -> bool:
    """Tell whether ``stream`` is a Jupyter kernel's, which shows it below the cell."""
    return type(stream).__module__.startswith("ipykernel.")


def _rich_console(stream: TextIO) -> Console | None:
    """rich's console on a terminal; None without rich, and where there is no terminal to draw on."""
    if not stream.isatty() or is_notebook(stream):
        return None
    try:
        from rich.console import Console
    except ImportError:
        return None
    return Console(file=stream)

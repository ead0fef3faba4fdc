"""Console of a run: a live line on a terminal, plain lines elsewhere, and a closing table."""

from __future__ import annotations

import contextlib
import logging
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console as RichConsole
from rich.markup import escape
from rich.table import Table

from ununennium.live_line import LiveLine
from ununennium.report import closing_rows
from ununennium.runs.records import RunSummary

_FLOWS = str(Path(__file__).parent)
_HEARTBEAT = "flows.heartbeat"
_ENGINE = ("prefect.flow_runs", "prefect.task_runs")
"""What the engine says of a failed run, the exception that it raises says again."""


class Console:
    """Prints to standard output; on a terminal with colours and a line that lives.

    Args:
        rich: rich console to print to; standard output if not given.
    """

    def __init__(self, rich: RichConsole | None = None) -> None:
        width = None if sys.stdout.isatty() else 200  # a log has no edge that paths would have to be broken at
        self._rich = rich or RichConsole(soft_wrap=True, highlight=False, width=width)
        self._line: LiveLine | None = None

    @property
    def is_live(self) -> bool:
        """Tell whether somebody is watching."""
        return self._rich.is_terminal

    def say(self, line: str) -> None:
        """One line; what is waited for is the live line, where there is one."""
        if self._line is not None:
            self._line.write(line)
        else:
            self._rich.print(escape(line))

    def error(self, message: str) -> None:
        """One line that tells what went wrong, on standard error."""
        RichConsole(stderr=True, soft_wrap=True, highlight=False).print(f"[bold red]error:[/] {escape(message)}")

    def traceback(self) -> None:
        """Traceback of an error, with the notes that hold the training process's own."""
        traceback.print_exc()

    def attach(self) -> None:
        """From here on, what the flow logs appears here instead of in Prefect's own format.

        Messages of Prefect's engine are shown from WARNING on; its API handler still gets everything.
        """
        logging.getLogger().handlers[:] = [_RunHandler(self)]
        if self.is_live:
            logging.getLogger(_HEARTBEAT).setLevel(logging.DEBUG)

    @contextlib.contextmanager
    def live(self) -> Iterator[None]:
        """While it lasts, a terminal shows a line that lives below what is printed."""
        if not self.is_live:
            yield
            return
        with LiveLine(console=self._rich) as self._line:
            self._line.update("starting")
            yield
        self._line = None

    def beat(self, text: str) -> None:
        """Text of the live line."""
        if self._line is not None:
            self._line.update(text)

    def closing(self, summary: RunSummary, state: str, seconds: float) -> None:
        """The closing table."""
        table = Table(title=f"{summary.name}: {state} after {seconds:.0f} s", title_justify="left", show_header=False)
        table.add_column(no_wrap=True, style="bold" if self.is_live else "")
        table.add_column(overflow="fold")
        for heading, text in closing_rows(summary):
            table.add_row(escape(heading), escape(text))
        self._rich.print(table, soft_wrap=False)


class _RunHandler(logging.Handler):
    """Shows the records that the flow's own code writes, and warnings of anybody."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            if record.name == _HEARTBEAT:
                self._console.beat(record.getMessage())
            elif record.pathname.startswith(_FLOWS):
                self._console.say(record.getMessage())
            elif record.levelno >= logging.WARNING and not record.name.startswith(_ENGINE):
                text = record.getMessage().splitlines()[0]
                self._console.say(f"{record.levelname.lower()}: {text}")
        except Exception:
            self.handleError(record)

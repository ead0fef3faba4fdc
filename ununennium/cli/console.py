"""Parts that the commands share: exit codes, errors in one line, tables, and JSON for scripts."""

from __future__ import annotations

import getpass
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from ununennium.errors import ConfigError, GateError, PromotionConflict, UnunenniumError
from ununennium.redaction import redact
from ununennium.version import __version__

FAILED, USAGE, NOT_PROMOTED, INTERRUPTED, PREEMPTED = 1, 2, 3, 130, 143

Json = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
StorageOption = Annotated[
    str,
    typer.Option("--storage", envvar="UNUNENNIUM_STORAGE", help="Folder or URL that holds runs and the registry."),
]
DEFAULT_STORAGE = "storage"


def fail(error: BaseException, *, debug: bool) -> int:
    """Say in one line what went wrong, and return the exit code for it."""
    from ununennium.launch.result import Preempted
    from ununennium.processes.supervise import Terminated

    if debug:
        typer.echo(redact("".join(traceback.format_exception(error))), err=True, nl=False)
    if isinstance(error, KeyboardInterrupt):
        message, code = "interrupted", INTERRUPTED
    elif isinstance(error, ConfigError):
        message, code = str(error), USAGE
    elif isinstance(error, Preempted | Terminated):
        message, code = str(error), PREEMPTED
    elif isinstance(error, GateError | PromotionConflict):
        message, code = str(error), NOT_PROMOTED
    elif isinstance(error, UnunenniumError):
        message, code = str(error), FAILED
    else:
        message, code = f"{type(error).__name__}: {error}", FAILED
    hint = "" if debug or code in (USAGE, NOT_PROMOTED, INTERRUPTED, PREEMPTED) else " (--debug shows where)"
    typer.secho("error: ", fg="red", bold=True, err=True, nl=False)
    typer.echo(redact(" ".join(message.split())) + hint, err=True)
    return code


def print_json(content: Any) -> None:
    """Print ``content`` as JSON, the same on a terminal and in a pipe."""
    typer.echo(json.dumps(content, indent=2, ensure_ascii=False))


def print_table(rows: Sequence[Mapping[str, Any]], *, empty: str, numbers: bool = False) -> None:
    """Print rows as a table with a heading; on anything but a terminal as wide as it needs to be.

    Args:
        rows: heading to value, each with the same headings.
        empty: printed instead of no rows.
        numbers: whether all columns but the first hold numbers, which stand right.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if not rows:
        typer.echo(empty)
        return
    console = Console(width=None if sys.stdout.isatty() else 240)
    table = Table(box=None, pad_edge=False)
    for position, heading in enumerate(rows[0]):
        table.add_column(heading, justify="right" if numbers and position else "left")
    for row in rows:
        table.add_row(*("-" if value is None else escape(str(value)) for value in row.values()))
    console.print(table)


def print_pairs(rows: Sequence[tuple[str, str]]) -> None:
    """Print headings with their texts, one a line."""
    width = max((len(heading) for heading, _ in rows), default=0)
    for heading, text in rows:
        typer.secho(f"{heading:<{width}}  ", bold=True, nl=False)
        typer.echo(text)


def say(line: str) -> None:
    """A line about progress; on standard error, so that standard output holds the result alone."""
    typer.echo(line, err=True)


def version_text() -> str:
    """The program and its version."""
    return f"ununennium {__version__}"


def user() -> str:
    """Name of the user, for records."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):  # a container's user may have no name
        return "unknown"

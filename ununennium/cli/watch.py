"""``runs --watch``: the runs that are under way, as a table that lives, or a line for each change."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

import typer

from ununennium.errors import UnunenniumError
from ununennium.pipeline.active_runs import ActiveRun, end_of, local_runs, unfinished_runs
from ununennium.report.live import metrics_text, progress_text
from ununennium.report.rows import duration_text
from ununennium.storage.open import resolve_storage

if TYPE_CHECKING:
    from rich.table import Table

LOOK_S = 1.0
STORAGE_S = 15.0
"""Seconds from one look at the storage to the next; heartbeats are files of this machine."""


def watch(storage: str, name: str | None = None) -> None:
    """Show what is under way until Ctrl-C.

    Raises:
        StorageError: the storage cannot be read at the first look; later it is tried again.
    """
    view = _Terminal(storage) if sys.stdout.isatty() else _Lines(storage)
    root = resolve_storage(storage)
    known, next_look = set[str](), time.monotonic() + STORAGE_S
    elsewhere = unfinished_runs(root, name)
    with contextlib.suppress(KeyboardInterrupt), view:
        while True:
            here = local_runs(root, name)
            if known - (known := {run.run_id for run in here}):  # one ended; soon the storage says how
                next_look = min(next_look, time.monotonic() + 2 * LOOK_S)
            if time.monotonic() >= next_look:
                next_look = time.monotonic() + STORAGE_S
                with contextlib.suppress(UnunenniumError, OSError):  # it is asked again
                    elsewhere = unfinished_runs(root, name)
            view.show([*here, *(run for run in elsewhere if run.run_id not in known)])
            time.sleep(LOOK_S)


class _Terminal(contextlib.AbstractContextManager["_Terminal"]):
    """A table that is drawn again in its place."""

    def __init__(self, storage: str) -> None:
        from rich.live import Live

        self._storage = storage
        self._live = Live(auto_refresh=False)

    def __enter__(self) -> _Terminal:
        self._live.start()
        return self

    def __exit__(self, *of_exception: object) -> None:
        self._live.stop()

    def show(self, runs: list[ActiveRun]) -> None:
        self._live.update(_table(runs, self._storage), refresh=True)


class _Lines(contextlib.AbstractContextManager["_Lines"]):
    """A line for each run that appears, ends an epoch, falls silent or ends."""

    def __init__(self, storage: str) -> None:
        self._storage = storage
        self._known: dict[str, tuple[object, ...]] = {}
        typer.echo(f"watching {storage}; Ctrl-C ends it")

    def __exit__(self, *of_exception: object) -> None:
        pass

    def show(self, runs: list[ActiveRun]) -> None:
        now = {run.run_id: _line_key(run) for run in runs}
        for run in runs:
            if now[run.run_id] != self._known.get(run.run_id):
                words = [run.state, *([progress_text(run.progress)] if run.progress else [])]
                if run.metrics:
                    words.append(f"epoch {run.metrics['epoch']}: {metrics_text(run.metrics)}")
                typer.echo(f"{run.run_id}  {'; '.join(words)}")
        for gone in self._known.keys() - now.keys():
            try:
                end = end_of(resolve_storage(self._storage), gone)
            except (UnunenniumError, OSError):
                end = "is not under way any more"
            typer.echo(f"{gone}  {end}")
        self._known = now


def _line_key(run: ActiveRun) -> tuple[object, ...]:
    """Part of a run that is worth a line when it changes."""
    state = run.state.partition(" for ")[0]  # a silence grows
    return state, run.progress and run.progress.epoch, run.metrics.get("epoch")


def _table(runs: list[ActiveRun], storage: str) -> Table:
    from rich.markup import escape
    from rich.table import Table

    caption = "Ctrl-C ends it" if runs else f"no run is under way in {storage}; Ctrl-C ends it"
    table = Table(box=None, pad_edge=False, caption=escape(caption), caption_justify="left")
    table.add_column("run", no_wrap=True)
    for heading in ("epoch", "batch", "done", "batches/s", "left"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("last epoch")
    table.add_column("state")
    for run in runs:
        table.add_row(run.run_id, *_figures(run), metrics_text(run.metrics), escape(run.state))
    return table


def _figures(run: ActiveRun) -> list[str]:
    """Epoch, batch, share, speed and time left."""
    progress = run.progress
    if progress is None:
        return [""] * 5
    left_s = progress.left_s
    return [
        f"{progress.epoch}/{progress.epochs}",
        f"{progress.batches_done}/{progress.batches}",
        f"{progress.share:.0%}",
        "" if progress.speed is None else f"{progress.speed:.3g}",
        "" if left_s is None else duration_text(left_s),
    ]

"""Trackers of metrics: a CSV or JSONL file, TensorBoard, the terminal."""

from __future__ import annotations

import csv
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ununennium.errors import ConfigError
from ununennium.files import finite, replaced
from ununennium.tasks import progress_metrics
from ununennium.training.callbacks.callback import Callback

if TYPE_CHECKING:
    from ununennium.training.trainer import Trainer

WORTH_SAYING = 0.05
"""Share of an epoch's training time spent waiting for data from which on a progress line says so."""


class MetricsFile(Callback):
    """Writes one row per epoch, metrics and timing, to a CSV or JSON-lines file, flushed at once, by rank 0.

    After a resume, rows of epochs that are run again are dropped first, so that the file equals the history.

    Args:
        path: a local path that ends in ``.csv`` or ``.jsonl``.

    Raises:
        ConfigError: another ending.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.suffix not in (".csv", ".jsonl"):
            raise ConfigError("path", str(path), "end it in .csv or .jsonl")

    def on_fit_start(self, trainer: Trainer) -> None:
        if not trainer.is_main_process:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._write([row for row in self._read() if int(row["epoch"]) <= trainer.state.epoch])

    def on_epoch_end(self, trainer: Trainer) -> None:
        if not trainer.is_main_process:
            return
        state = trainer.state
        row: dict[str, float] = {"epoch": state.epoch, "global_step": state.global_step}
        row |= {"skipped_steps": state.skipped_steps, **trainer.metrics, **trainer.timing}
        if self.path.suffix == ".jsonl":
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(finite(row)) + "\n")
        else:
            self._write([*self._read(), row])  # a later epoch may bring a new column

    def _read(self) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        with self.path.open(encoding="utf-8", newline="") as file:
            if self.path.suffix == ".csv":
                return list(csv.DictReader(file))
            return [json.loads(line) for line in file if line.endswith("\n")]  # a torn last line is dropped

    def _write(self, rows: list[dict[str, Any]]) -> None:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        with replaced(self.path) as part, part.open("w", encoding="utf-8", newline="") as file:
            if self.path.suffix == ".csv" and rows:
                writer = csv.DictWriter(file, columns)
                writer.writeheader()
                writer.writerows(rows)
            elif self.path.suffix == ".jsonl":
                file.writelines(json.dumps(row) + "\n" for row in rows)


class TensorBoard(Callback):
    """Writes every metric of every epoch for TensorBoard, by rank 0.

    Args:
        logdir: folder of the event files.

    Raises:
        ConfigError: in ``fit``, if the ``tensorboard`` package is missing.
    """

    def __init__(self, logdir: str | Path) -> None:
        self.logdir = str(logdir)
        self._writer: Any = None

    def on_fit_start(self, trainer: Trainer) -> None:
        if not trainer.is_main_process:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ConfigError("TensorBoard", self.logdir, "needs `pip install tensorboard`") from error
        self._writer = SummaryWriter(self.logdir, purge_step=trainer.state.epoch + 1)

    def on_epoch_end(self, trainer: Trainer) -> None:
        if self._writer is not None:
            for name, value in {**trainer.metrics, **trainer.timing}.items():
                self._writer.add_scalar(name, value, trainer.state.epoch)
            self._writer.flush()

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        self.on_fit_end(trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


class Progress(Callback):
    """Shows where training stands, by rank 0: a live bar on a terminal, one plain line per epoch elsewhere.

    Args:
        write: takes each finished epoch's line; standard error if not given.
        live: whether to draw a live bar (needs ``rich``); None does so on a terminal.
    """

    def __init__(self, write: Callable[[str], None] | None = None, *, live: bool | None = None) -> None:
        self._write = write
        self._live = live
        self._bar: Any = None
        self._task: Any = None
        self._started = 0.0

    def on_fit_start(self, trainer: Trainer) -> None:
        if not trainer.is_main_process or not _wants_bar(self._live, sys.stderr):
            return
        try:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
            from rich.progress import Progress as Bar
        except ImportError:
            return  # plain lines need no package
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Bar(*columns, TextColumn("{task.fields[loss]}"), console=Console(stderr=True), transient=True)
        self._bar.start()

    def on_epoch_start(self, trainer: Trainer) -> None:
        self._started = time.monotonic()
        if self._bar is not None:
            total = _steps_per_epoch(trainer)
            self._task = self._bar.add_task(f"epoch {trainer.state.epoch + 1}", total=total, loss="")

    def on_step_end(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.advance(self._task)

    def on_epoch_end(self, trainer: Trainer) -> None:
        if not trainer.is_main_process:
            return
        line = epoch_line(trainer, time.monotonic() - self._started)
        if self._bar is not None:
            self._bar.remove_task(self._task)
            self._bar.console.print(line, highlight=False)
        elif self._write is not None:
            self._write(line)
        else:
            print(line, file=sys.stderr, flush=True)  # noqa: T201

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        self.on_fit_end(trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def epoch_line(trainer: Trainer, seconds: float) -> str:
    """One line about the epoch just completed."""
    names = progress_metrics(trainer.metrics)
    values = "  ".join(f"{name} {trainer.metrics[name]:.4f}" for name in names)
    line = f"epoch {trainer.state.epoch:>3}  {values}  lr {trainer.metrics['lr']:.2e}  {seconds:.1f} s"
    wait = trainer.timing.get("data_wait", 0.0)
    return f"{line}  waits for data {wait:.0%}" if wait >= WORTH_SAYING else line


def _wants_bar(live: bool | None, stream: TextIO) -> bool:
    return stream.isatty() if live is None else live


def _steps_per_epoch(trainer: Trainer) -> int | None:
    try:
        return math.ceil(len(trainer.train_loader) / trainer.config.accumulation_steps)
    except TypeError:  # an iterable dataset has no length
        return None

"""Trackers of metrics: a CSV or JSONL file, TensorBoard."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ununennium.errors import ConfigError
from ununennium.files import finite, replaced
from ununennium.training.callbacks.callback import Callback
from ununennium.training.callbacks.progress import WORTH_SAYING as WORTH_SAYING  # their former home
from ununennium.training.callbacks.progress import Progress as Progress
from ununennium.training.callbacks.progress import epoch_line as epoch_line

if TYPE_CHECKING:
    from ununennium.training.trainer import Trainer


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

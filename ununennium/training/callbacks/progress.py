"""Progress of training for whoever watches: a live line on a terminal or in a notebook, a line per epoch elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from ununennium.errors import ConfigError
from ununennium.files import finite
from ununennium.live_line import LiveLine, Wait, live_stream
from ununennium.tasks import progress_metrics
from ununennium.training.callbacks.callback import Callback
from ununennium.training.callbacks.monitor import Monitor
from ununennium.training.progress import TrainingProgress, progress_text
from ununennium.training.state import mean_of

if TYPE_CHECKING:
    from ununennium.training.trainer import Trainer

FIRST_BATCH = "waiting for the first batch"
WORTH_SAYING = 0.05
"""Share of an epoch's training time spent waiting for data from which on a progress line says so."""
_REDRAW_S = 0.5
"""Seconds between two drawings; each waits for the device, to read the loss."""


class Progress(Callback):
    """Shows where training stands, by rank 0: a live line on a terminal or in a notebook, one line per epoch anywhere.

    The live line has epoch, batch, loss, the monitored metric of the last epoch and the time left. rich draws it where
    it is installed.

    Args:
        write: takes each finished epoch's line where no live line is drawn; standard error if not given.
        live: whether to draw the live line; None does so on a terminal or in a notebook.
    """

    def __init__(self, write: Callable[[str], None] | None = None, *, live: bool | None = None) -> None:
        self._write = write
        self._live = live
        self._line: LiveLine | None = None
        self._wait: Wait | None = None
        self._clock = Clock()
        self._epoch_started = self._next = 0.0

    def on_fit_start(self, trainer: Trainer) -> None:
        self._clock.start(trainer)
        if not trainer.is_main_process:
            return
        self._line = self._live_line()
        if self._line is None:
            self._wait = Wait(FIRST_BATCH, self._say)
        else:
            self._line.update(FIRST_BATCH)

    def on_epoch_start(self, trainer: Trainer) -> None:
        self._epoch_started = time.monotonic()

    def on_step_end(self, trainer: Trainer) -> None:
        self._advance(trainer, is_validating=False)

    def on_validation_batch(self, trainer: Trainer, output: Any, target: Any) -> None:
        self._advance(trainer, is_validating=True)

    def on_epoch_end(self, trainer: Trainer) -> None:
        if not trainer.is_main_process:
            return
        self._end_wait()
        line = epoch_line(trainer, time.monotonic() - self._epoch_started)
        if self._line is None:
            self._say(line)
        else:
            self._line.write(line)
            self._draw(self._line, trainer, is_validating=False)

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        self.on_fit_end(trainer)

    def on_fit_end(self, trainer: Trainer) -> None:
        self._end_wait()
        if self._line is not None:
            self._line.stop()
            self._line = None

    def _live_line(self) -> LiveLine | None:
        stream = live_stream()
        if self._live is None:
            return None if stream is None else LiveLine(stream)
        return LiveLine(stream or sys.stderr) if self._live else None

    def _advance(self, trainer: Trainer, *, is_validating: bool) -> None:
        if self._wait is not None:
            self._end_wait()
        if self._line is not None and time.monotonic() >= self._next:
            self._draw(self._line, trainer, is_validating=is_validating)

    def _draw(self, line: LiveLine, trainer: Trainer, *, is_validating: bool) -> None:
        beat = self._clock.beat(trainer, is_validating=is_validating)
        line.update(progress_text(TrainingProgress(**TrainingProgress.values_of(beat)), line.width))
        self._next = time.monotonic() + _REDRAW_S

    def _end_wait(self) -> None:
        if self._wait is not None:
            self._wait.end()
            self._wait = None

    def _say(self, line: str) -> None:
        if self._write is not None:
            self._write(line)
        else:
            print(line, file=sys.stderr, flush=True)  # noqa: T201


class Clock:
    """Start of a training process's work, from which its speed follows; makes the heartbeats."""

    def __init__(self) -> None:
        self._started = 0.0
        self._started_at = 0

    def start(self, trainer: Trainer) -> None:
        """Training begins, or goes on, here."""
        self._started = time.time()
        self._started_at = trainer.state.epoch * (_num_batches(trainer) or 0) + trainer.state.batches_done

    def beat(self, trainer: Trainer, *, is_validating: bool = False) -> dict[str, Any]:
        """Progress of ``trainer`` as JSON-ready numbers, for ``TrainingProgress``; waits for the device."""
        state = trainer.state
        return {
            "time": time.time(),
            "epoch": state.epoch,
            "epochs": trainer.epochs,
            "batches_done": state.batches_done,
            "batches": _num_batches(trainer),
            "global_step": state.global_step,
            "started": self._started,  # when this process began to train, and after how many batches
            "started_at": self._started_at,
            "figures": finite(_figures(trainer)),
            "validating": is_validating,
        }


def with_progress(callbacks: Iterable[Callback] | None, wanted: bool | None) -> list[Callback]:
    """``callbacks``, with a ``Progress`` if it is wanted and none is there.

    Args:
        callbacks: of a Trainer.
        wanted: None for yes where somebody looks: on a terminal or in a notebook.

    Raises:
        ConfigError: ``wanted`` is something else.
    """
    if wanted is not None and not isinstance(wanted, bool):
        raise ConfigError("progress", wanted, "give True, False, or None for a terminal or a notebook alone")
    given = list(callbacks or [])
    if wanted is None:
        wanted = live_stream() is not None
    return given if not wanted or any(isinstance(each, Progress) for each in given) else [*given, Progress()]


def epoch_line(trainer: Trainer, seconds: float) -> str:
    """One line about the epoch just completed."""
    names = progress_metrics(trainer.metrics)
    values = "  ".join(f"{name} {trainer.metrics[name]:.4f}" for name in names)
    line = f"epoch {trainer.state.epoch:>3}  {values}  lr {trainer.metrics['lr']:.2e}  {seconds:.1f} s"
    wait = trainer.timing.get("data_wait", 0.0)
    return f"{line}  waits for data {wait:.0%}" if wait >= WORTH_SAYING else line


def _figures(trainer: Trainer) -> dict[str, float]:
    """Loss of the epoch under way, and the monitored metric of the last one."""
    found = {"loss": mean_of(trainer.epoch_loss.sums())} if trainer.state.batches_done else {}
    name = _monitored(trainer)
    return found | ({name: trainer.history[name][-1]} if trainer.history.get(name) else {})


def _monitored(trainer: Trainer) -> str:
    """The metric that the callbacks monitor; without one the main score, or the loss."""
    monitors = (getattr(callback, "monitor", None) for callback in trainer.callbacks)
    names = [each.monitor for each in monitors if isinstance(each, Monitor) and each.monitor in trainer.history]
    return next(iter([*names, *reversed(progress_metrics(trainer.history))]), "")


def _num_batches(trainer: Trainer) -> int | None:
    try:
        return len(trainer.train_loader)
    except TypeError:  # an iterable dataset has no length
        return None

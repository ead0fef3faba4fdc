"""Callbacks of a training process: the heartbeat that the launcher watches, and the stop that a signal asks for."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

from ununennium.files import write_json
from ununennium.live_line import Wait
from ununennium.runs.directory import RunDirectory
from ununennium.training.callbacks import Callback
from ununennium.training.callbacks.progress import Clock
from ununennium.training.state import StopReason
from ununennium.training.trainer import Trainer

if TYPE_CHECKING:
    from types import FrameType

HEARTBEAT_S = 2.0
"""Seconds between two writings of ``heartbeat.json``."""


class Heartbeat(Callback):
    """Says every few seconds where training stands, for whoever watches the run.

    Args:
        run: directory of the run, for ``heartbeat.json``; rank 0 only.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._file = run.heartbeat_file
        self._next = 0.0
        self._clock = Clock()

    def on_fit_start(self, trainer: Trainer) -> None:
        self._clock.start(trainer)
        self._beat(trainer)

    def on_step_end(self, trainer: Trainer) -> None:
        if time.monotonic() >= self._next:
            self._beat(trainer)

    def on_validation_batch(self, trainer: Trainer, output: Any, target: Any) -> None:
        if time.monotonic() >= self._next:
            self._beat(trainer, is_validating=True)

    def on_epoch_end(self, trainer: Trainer) -> None:
        self._beat(trainer)

    def _beat(self, trainer: Trainer, *, is_validating: bool = False) -> None:
        self._next = time.monotonic() + HEARTBEAT_S
        if trainer.is_main_process:
            write_json(self._file, self._clock.beat(trainer, is_validating=is_validating))


class EndWait(Callback):
    """Ends a wait when training starts, or goes on.

    Args:
        wait: for what comes before, such as reading a checkpoint.
    """

    def __init__(self, wait: Wait) -> None:
        self._wait = wait

    def on_fit_start(self, trainer: Trainer) -> None:
        self._wait.end()


class StopOnSignal(Callback):
    """SIGTERM and SIGINT ask the Trainer to stop at its next step; the handler sets a flag and nothing else.

    A signal that comes before ``fit`` counts too. Loader workers, which inherit the handler if they are forked, end as
    they would without it (correctness 68).
    """

    def __init__(self) -> None:
        self._trainer: Trainer | None = None
        self._signal: signal.Signals | None = None
        self._pid = os.getpid()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def on_fit_start(self, trainer: Trainer) -> None:
        self._trainer = trainer
        self._request()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            os._exit(128 + number)
        self._signal = signal.Signals(number)
        self._request()

    def _request(self) -> None:
        if self._signal is not None and self._trainer is not None:
            self._trainer.request_stop(StopReason.PREEMPTED, f"{self._signal.name} was received")

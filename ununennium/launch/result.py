"""Result of training, read from the files that it left and from the way its processes ended."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ununennium.errors import (
    TrainingError,
)
from ununennium.processes.errors import RankError, as_exception, read_error
from ununennium.processes.supervise import Outcome, how_it_ended

if TYPE_CHECKING:
    from ununennium.runs.directory import RunDirectory

_FAILURE = re.compile(r"^\s*rank\s*:\s*(\d+).*\n\s*exitcode\s*:\s*(-?\d+) \(pid: (\d+)\)", re.MULTILINE)
_KILLED_BY_TORCHRUN = re.compile(r"Unable to shutdown process (\d+) via")
_SIGNALLED = re.compile(r"got signal: (\d+)")
_ASKED_TO_STOP = (-signal.SIGTERM, -signal.SIGINT)


class Preempted(TrainingError):
    """Training was asked to stop before it was done; the newest checkpoint resumes it."""


@dataclass(frozen=True)
class TrainingResult:
    """End of training.

    Attributes:
        stop_reason: ``completed``, ``early_stopped``, ``preempted``, ``timed_out`` or ``failed``.
        message: the same in words.
        epochs: completed epochs.
        best_epoch: completed epochs at the best checkpoint, counted from 1; None if there is none.
        best_score: its monitored value.
        best_checkpoint: its URL.
        last_checkpoint: URL of the newest one.
        checkpoints: URLs of all that were kept, oldest first.
        monitor: metric that ranks them.
        mode: ``min`` or ``max``.
        history: metric -> one value per completed epoch.
        device: the device that was used.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        world_size: number of processes.
        skipped_steps: optimizer steps skipped for a non-finite gradient or a window without a valid pixel.
        data_wait: share of the training time that went by waiting for batches, from 0 to 1; None without an epoch.
        storage_problem: checkpoints that could not be uploaded, and where they wait; None if all were.
        duration_s: seconds, with start-up.
        cost: chips, memory and hardware, see ``ununennium.workers.resource_usage``.
        error: the root cause, if a process failed.
    """

    stop_reason: str
    message: str = ""
    epochs: int = 0
    best_epoch: int | None = None
    best_score: float | None = None
    best_checkpoint: str | None = None
    last_checkpoint: str | None = None
    checkpoints: list[str] = field(default_factory=list)
    monitor: str = ""
    mode: str = ""
    history: dict[str, list[float | None]] = field(default_factory=dict)
    device: str = ""
    precision: str = ""
    world_size: int = 0
    skipped_steps: int = 0
    data_wait: float | None = None
    storage_problem: str | None = None
    duration_s: float = 0.0
    cost: dict[str, Any] = field(default_factory=dict)
    error: RankError | None = None

    @property
    def usable(self) -> bool:
        """Tell whether there is a model to evaluate."""
        return self.stop_reason in ("completed", "early_stopped", "timed_out") and self.best_checkpoint is not None

    def require_usable(self) -> TrainingResult:
        """Return this result if there is a model to evaluate.

        Raises:
            Preempted: training was asked to stop.
            ProcessLost: a process was killed, stalled, or lost its connection; a new start goes on.
            TrainingError: it failed, or wrote no checkpoint; the process's traceback is in the exception's notes.
        """
        if self.usable:
            return self
        if self.stop_reason == "preempted":
            raise Preempted(
                f"training was asked to stop after {self.epochs} epochs; 'ununennium train --resume' goes on"
            )
        if self.error is not None:
            raise as_exception(self.error, f"In the training process of rank {self.error.rank}:")
        if self.stop_reason in ("completed", "early_stopped"):
            raise TrainingError(
                "training wrote no checkpoint with a finite score, so that there is nothing to evaluate"
            )
        raise TrainingError(f"training {self.stop_reason.replace('_', ' ')}: {self.message}")


def read_result(run: RunDirectory, outcome: Outcome, *, stalled: RankError | None = None) -> TrainingResult:
    """Result of training from the files of ``run`` and the end of its launcher.

    The root cause of a failure is the earliest error of a rank. A rank that was killed writes none, and its peers then
    lose their connection to it: those errors are an echo, and the killed rank is the cause.

    Args:
        run: a run whose training has ended.
        outcome: how torchrun ended.
        stalled: finding of the watch, if it ended the training.
    """
    written: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        written = json.loads(run.result_file.read_text(encoding="utf-8"))
    written["duration_s"] = round(outcome.duration_s, 3)
    if outcome.returncode == 0 and "stop_reason" in written:
        return TrainingResult(**written)
    tail = "\n".join(outcome.tail)
    exits = _exits(tail)
    cause = stalled or root_cause(read_errors(run), exits, tail)
    if cause is not None and not (cause.lost and written.get("stop_reason") == "preempted"):
        return TrainingResult(**{**written, "stop_reason": "failed", "message": cause.message, "error": cause})
    if outcome.timed_out:
        message = "the launcher's timeout_s passed"
        if "stop_reason" not in written:
            message += ", and no result was written in grace_s"
        return TrainingResult(**{**written, "stop_reason": "timed_out", "message": message})
    if "stop_reason" in written:
        return TrainingResult(**written)
    if _SIGNALLED.search(tail) or any(
        code in _ASKED_TO_STOP for code in [*list(exits.values())[:1], outcome.returncode]
    ):
        return TrainingResult("preempted", "asked to stop before a step was done", duration_s=written["duration_s"])
    ending = how_it_ended(outcome.returncode)
    began = any(run.pids_folder.glob("rank*"))
    message = f"a training process {ending}" if began else f"torchrun {ending}, before training had begun"
    lost = RankError(0, time.time(), "LaunchError", message, tail, expected=True, lost=True)
    return TrainingResult("failed", message, error=lost, duration_s=written["duration_s"])


def root_cause(errors: Sequence[RankError], exits: Mapping[int, int], traceback: str = "") -> RankError | None:
    """Root cause: the error that came first.

    Args:
        errors: errors that ranks wrote.
        exits: rank -> exit status, negative for a signal, of ranks that failed; the first to fail first.
        traceback: torchrun's own words, for a rank that could write nothing.
    """
    first = min(errors, key=lambda error: (error.lost, error.time, error.rank), default=None)
    if first is not None and not first.lost:
        return first
    wrote = {error.rank for error in errors}
    for rank, code in exits.items():
        if code < 0 and code not in _ASKED_TO_STOP and rank not in wrote:
            message = f"the training process of rank {rank} {how_it_ended(code)}"
            return RankError(rank, time.time(), "ProcessLost", message, traceback, expected=True, lost=True)
    return first


def _exits(tail: str) -> dict[int, int]:
    """Rank -> exit status of what failed, by torchrun's own words; the first to fail first."""
    killed = set(_KILLED_BY_TORCHRUN.findall(tail))  # it had asked them to stop, because another one failed
    failures = reversed(_FAILURE.findall(tail))  # its "first observed failure" comes last
    return {int(rank): -signal.SIGTERM if pid in killed else int(code) for rank, code, pid in failures}


def rank_error_file(run: RunDirectory, rank: int) -> Path:
    """File in which ``rank`` writes the error that ended it."""
    return run.errors_folder / f"rank{rank}.json"


def read_errors(run: RunDirectory) -> list[RankError]:
    """Errors that ended the ranks of ``run`` that failed."""
    return [error for file in sorted(run.errors_folder.glob("rank*.json")) if (error := read_error(file))]

"""Start training under torchrun, watch it, and bring back a typed result; nothing is left behind.

The caller (a flow, the command line) never imports torch and never runs the loop itself: Prefect's processes cannot
fork loader workers safely, cannot time out a thread, and should not hold a GPU. Hand-over is by files of the run's
work folder: ``run.json`` in; ``result.json``, ``errors/rank<n>.json``, ``metrics.jsonl`` and ``heartbeat.json`` out.

Who ends whom:

====================================  ==================================================================
the caller is cancelled or interrupted  ``supervise`` sends SIGTERM, waits ``grace_s``, kills; then re-raises
the caller is killed                  the kernel sends torchrun SIGTERM (``setpriv --pdeathsig``)
torchrun gets SIGTERM                 it passes it on; ranks write a checkpoint; it kills them after ``grace_s``
torchrun is killed                    the kernel sends each rank SIGTERM; each ends itself after ``grace_s``
a rank fails                          torchrun ends the others; the earliest error file is the root cause
the deadline passes                   as cancelled, but ``timed_out`` comes back as a result
====================================  ==================================================================
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ununennium.errors import TrainingError
from ununennium.runs import RunDirectory
from ununennium.training.supervise import POLL_S, Outcome, how_it_ended, send_signal, start_time, supervise

PREEMPTED_EXIT_CODE = 143
"""128 + SIGTERM, the exit status of a training process that was asked to stop and wrote a checkpoint."""

_RANK_PREFIX = re.compile(r"^\[[A-Za-z_]+\d+\]:")
OnLine = Callable[[str], None]


class Preempted(TrainingError):
    """Training was asked to stop before it was done; the newest checkpoint resumes it."""


@dataclass(frozen=True)
class RankError:
    """What ended a training process.

    Attributes:
        rank: its rank.
        time: seconds since the epoch; the earliest of all ranks is the root cause.
        type: name of the exception's class.
        message: the exception's message.
        traceback: in full.
        expected: whether it is one of ``ununennium.errors``, which a user can mend.
    """

    rank: int
    time: float
    type: str
    message: str
    traceback: str
    expected: bool = False


@dataclass(frozen=True)
class TrainingResult:
    """How training ended.

    Attributes:
        stop_reason: ``completed``, ``early_stopped``, ``preempted``, ``timed_out`` or ``failed``.
        message: the same in words.
        epochs: completed epochs.
        best_epoch: completed epochs at the best checkpoint, counted from 1; None if there is none.
        best_score: its monitored value.
        best_checkpoint: its URL.
        last_checkpoint: URL of the newest one.
        checkpoints: URLs of all that were kept, oldest first.
        monitor: what ranks them.
        mode: ``min`` or ``max``.
        history: metric -> one value per completed epoch.
        device: the device that was used.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        world_size: number of processes.
        skipped_steps: optimizer steps skipped for a non-finite gradient or a window without a valid pixel.
        data_wait: share of the training time that went by waiting for batches, from 0 to 1; None without an epoch.
        duration_s: seconds, with start-up.
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
    duration_s: float = 0.0
    error: RankError | None = None

    @property
    def usable(self) -> bool:
        """Whether there is a model to evaluate."""
        return self.stop_reason in ("completed", "early_stopped", "timed_out") and self.best_checkpoint is not None

    def require_usable(self) -> TrainingResult:
        """Return this result if there is a model to evaluate.

        Raises:
            Preempted: training was asked to stop.
            TrainingError: it failed, or wrote no checkpoint; the process's traceback is in the exception's notes.
        """
        if self.usable:
            return self
        if self.stop_reason == "preempted":
            raise Preempted(
                f"training was asked to stop after {self.epochs} epochs; 'ununennium train --resume' goes on"
            )
        if self.error is not None:
            error = self.error
            failure = TrainingError(error.message if error.expected else f"{error.type}: {error.message}")
            failure.add_note(f"In the training process of rank {error.rank}:\n{error.traceback}")
            raise failure
        if self.stop_reason in ("completed", "early_stopped"):
            raise TrainingError(
                "training wrote no checkpoint with a finite score, so that there is nothing to evaluate"
            )
        raise TrainingError(f"training {self.stop_reason.replace('_', ' ')}: {self.message}")


def launch(
    run: RunDirectory,
    *,
    nproc: int = 1,
    timeout_s: float | None = None,
    grace_s: float = 25.0,
    on_line: OnLine = print,
    on_heartbeat: OnLine | None = None,
) -> TrainingResult:
    """Train ``run`` under torchrun on this machine, and wait for it.

    Training goes on from the newest checkpoint of the run if there is one.

    Args:
        run: a run whose index and statistics have been written.
        nproc: training processes.
        timeout_s: after so many seconds training is asked to stop; None waits for ever.
        grace_s: seconds to write a checkpoint after being asked to stop, before being killed.
        on_line: called with each line that rank 0 prints, from a thread.
        on_heartbeat: called every few seconds with where training stands, in words.

    Returns:
        The result, also of a training that failed: ``require_usable`` raises.

    Raises:
        LaunchError: torchrun could not be started.
    """
    for stale in (run.result_file, run.heartbeat_file):
        stale.unlink(missing_ok=True)
    for folder in (run.error_file("rank0").parent, _pid_folder(run)):
        shutil.rmtree(folder, ignore_errors=True)
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=0"),
        *(f"--nproc-per-node={nproc}", f"--log-dir={run.logs_folder}", "--tee=3", "--local-ranks-filter=0"),
        *(f"--shutdown-timeout={max(1, round(grace_s))}", "--module", "ununennium.training.worker", str(run.run_file)),
    ]

    def on_output(line: str) -> bool:
        prefix = _RANK_PREFIX.match(line)
        if prefix is None:  # torchrun's own words: kept for the error message alone
            return False
        on_line(line[prefix.end() :])
        return True

    try:
        outcome = supervise(
            command,
            env={**_compute_environment(), "UNUNENNIUM_GRACE_S": str(grace_s)},
            timeout_s=timeout_s,
            grace_s=grace_s,
            on_line=on_output,
            on_wait=None if on_heartbeat is None else _Heartbeat(run.heartbeat_file, on_heartbeat),
        )
    finally:
        _end_ranks(run, grace_s=grace_s)
    return _result(run, outcome)


def evaluate_in_subprocess(run: RunDirectory, *, grace_s: float = 5.0, on_line: OnLine = print) -> None:
    """Evaluate the best checkpoint of ``run``, and the champion, on the holdout, in a process of its own.

    Raises:
        TrainingError: the evaluation failed; its traceback is in the exception's notes.
    """
    error_file = run.error_file("evaluation")
    error_file.unlink(missing_ok=True)

    def on_output(line: str) -> bool:
        on_line(line)
        return True

    command = [sys.executable, "-m", "ununennium.evaluation.worker", str(run.run_file)]
    outcome = supervise(command, env=_compute_environment(), grace_s=grace_s, on_line=on_output)
    if outcome.returncode != 0:
        error = _read_error(error_file)
        if error is None:
            raise TrainingError(f"the evaluation {how_it_ended(outcome.returncode)}")
        failure = TrainingError(error.message if error.expected else f"{error.type}: {error.message}")
        failure.add_note(f"In the evaluation:\n{error.traceback}")
        raise failure


def _compute_environment() -> dict[str, str]:
    """Settings for a process that computes, unless the caller's environment has them.

    OpenMP's threads spin while they wait for each other. Where something else wants a core, too, they burn the time
    that the thread they wait for needs: an epoch of the sample run took 69 s beside two busy processes on two cores,
    and 8 s with threads that sleep.
    """
    return {"OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE")}


class _Heartbeat:
    """Passes on where training stands, whenever the file that says so has changed."""

    def __init__(self, file: Path, tell: OnLine) -> None:
        self._file, self._tell = file, tell
        self._told = ""

    def __call__(self) -> None:
        with contextlib.suppress(OSError, ValueError, KeyError):
            beat = json.loads(self._file.read_text(encoding="utf-8"))
            epoch = min(beat["epoch"] + 1, beat["epochs"])
            words = f"epoch {epoch} of {beat['epochs']}, batch {beat['batches_done']} of {beat['batches']}"
            if words != self._told:
                self._told = words
                self._tell(words)


def _result(run: RunDirectory, outcome: Outcome) -> TrainingResult:
    """What the files that training left, and the way it ended, amount to."""
    errors = [
        error for file in sorted(run.error_file("rank0").parent.glob("rank*.json")) if (error := _read_error(file))
    ]
    result: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError):
        result = json.loads(run.result_file.read_text(encoding="utf-8"))
    result["duration_s"] = round(outcome.duration_s, 3)
    if errors and outcome.returncode != 0:
        first = min(errors, key=lambda error: (error.time, error.rank))
        return TrainingResult(**{**result, "stop_reason": "failed", "message": first.message, "error": first})
    if "stop_reason" in result:
        if outcome.timed_out and result["stop_reason"] == "preempted":
            result.update(stop_reason="timed_out", message="the launcher's timeout_s passed")
        return TrainingResult(**result)
    if outcome.timed_out:
        return TrainingResult("timed_out", "the launcher's timeout_s passed, and no result was written in grace_s")
    last = "\n".join(outcome.tail)
    lost = re.search(r"exitcode\s*:\s*(-?\d+)", last)
    ending = how_it_ended(int(lost.group(1)) if lost else outcome.returncode)
    return TrainingResult(
        "failed",
        f"a training process {ending}",
        error=RankError(0, time.time(), "LaunchError", f"a training process {ending}", last, expected=True),
        duration_s=outcome.duration_s,
    )


def _read_error(file: Path) -> RankError | None:
    try:
        return RankError(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _pid_folder(run: RunDirectory) -> Path:
    return run.work / "pids"


def register_process(run: RunDirectory, rank: int) -> None:
    """Note which process is ``rank``, so that the launcher can end it even if torchrun is gone."""
    folder = _pid_folder(run)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"rank{rank}").write_text(f"{os.getpid()} {start_time(os.getpid())}", encoding="utf-8")


def _end_ranks(run: RunDirectory, *, grace_s: float) -> None:
    """Wait for ranks that outlive torchrun, then kill them; a process id that was given to another is left alone."""
    deadline = time.monotonic() + grace_s
    for file in sorted(_pid_folder(run).glob("rank*")):
        with contextlib.suppress(OSError, ValueError):
            pid, start = (int(word) for word in file.read_text(encoding="utf-8").split())
            while start_time(pid) == start and time.monotonic() < deadline:
                time.sleep(POLL_S)
            if start and start_time(pid) == start:
                send_signal(pid, signal.SIGKILL)

"""Every way to die, with one rank and with two: no process is left, a checkpoint is whole, the reason is right.

The flow's own deaths are in ``tests/flows/test_death_matrix.py``. All processes are real.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.processes import (
    LONG_S,
    assert_nothing_left,
    has_checkpoint,
    newest_checkpoint,
    parent_of,
    rank_pids,
    steps_done,
    wait_until,
    when,
)
from ununennium.errors import ProcessLost
from ununennium.launch.result import Preempted, TrainingResult
from ununennium.launch.training import launch, torchrun_command
from ununennium.runs.directory import RunDirectory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="watches processes through /proc"),
    pytest.mark.parametrize("nproc", [1, 2], ids=["1 rank", "2 ranks"]),
]
Prepared = Callable[..., RunDirectory]
FOR_EVER = ("trainer.epochs=100000", "data.batch_size=2", "checkpoints.every_n_steps=3")
GRACE_S = 60.0


def train(run: RunDirectory, nproc: int, **options: object) -> TrainingResult:
    lines: list[str] = []
    return launch(run, nproc=nproc, **{"grace_s": GRACE_S, "on_line": lines.append, **options})  # type: ignore[arg-type]


def strike(run: RunDirectory, number: signal.Signals, which: Callable[[], int]) -> None:
    """Send a signal as soon as there is a checkpoint."""
    when(lambda: has_checkpoint(run), lambda: os.kill(which(), number))


def assert_resumable(run: RunDirectory, nproc: int) -> None:
    checkpoint = newest_checkpoint(run)
    assert checkpoint["world_size"] == nproc
    assert checkpoint["state"]["global_step"] > 0  # type: ignore[index]


def test_own_deadline(prepared: Prepared, nproc: int) -> None:
    """correctness 75: SIGTERM, a checkpoint, and a result that says so."""
    for timeout_s in (10, 40, 120):  # until it is enough for this machine to have begun
        run = prepared(*FOR_EVER)
        result = train(run, nproc, timeout_s=timeout_s)
        assert (result.stop_reason, result.error) in [("timed_out", None)]
        if steps_done(run):
            break
    assert_nothing_left(run, GRACE_S)
    assert_resumable(run, nproc)
    assert newest_checkpoint(run)["state"]["global_step"] >= steps_done(run)  # type: ignore[index]


def test_cancelled_caller(prepared: Prepared, nproc: int) -> None:
    """correctness 75: Prefect cancels by raising in the thread that waits."""

    class Cancelled(BaseException):
        pass

    def cancel(*_: object) -> None:
        raise Cancelled

    run = prepared(*FOR_EVER)
    before = signal.signal(signal.SIGUSR2, cancel)
    try:
        when(lambda: has_checkpoint(run), lambda: os.kill(os.getpid(), signal.SIGUSR2))
        with pytest.raises(Cancelled):
            train(run, nproc)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert_nothing_left(run, GRACE_S)
    assert_resumable(run, nproc)
    assert '"preempted"' in run.result_file.read_text()


def test_sigterm_to_torchrun(prepared: Prepared, nproc: int) -> None:
    """correctness 69: a machine that is taken away sends it to everything it runs."""
    run = prepared(*FOR_EVER)
    strike(run, signal.SIGTERM, lambda: parent_of(rank_pids(run)[0]))
    result = train(run, nproc, max_restarts=2)
    assert result.stop_reason == "preempted", result
    assert_nothing_left(run, GRACE_S)
    assert_resumable(run, nproc)
    with pytest.raises(Preempted, match="--resume"):
        result.require_usable()


def test_sigterm_to_torchrun_again_and_again(prepared: Prepared, nproc: int) -> None:
    """correctness 75: torchrun that is told while it ends its ranks ends by itself, though nobody waits or reads."""
    run = prepared(*FOR_EVER, f"launcher.nproc_per_node={nproc}", f"launcher.grace_s={GRACE_S}")
    command = torchrun_command(run, nproc=nproc, grace_s=GRACE_S)
    environment = {**os.environ, "UNUNENNIUM_GRACE_S": str(GRACE_S), "UNUNENNIUM_LAUNCH": "again"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment) as torchrun:
        try:
            assert wait_until(lambda: has_checkpoint(run))
            assert torchrun.stdout is not None
            torchrun.stdout.close()  # as when the caller was killed
            torchrun.send_signal(signal.SIGTERM)
            time.sleep(0.2)  # it is at work on the first one
            torchrun.send_signal(signal.SIGTERM)
            assert torchrun.wait(LONG_S) != 0
        finally:
            torchrun.kill()
    assert_nothing_left(run, GRACE_S)
    assert_resumable(run, nproc)


def test_sigkill_of_torchrun(prepared: Prepared, nproc: int) -> None:
    """correctness 75: the kernel tells the ranks, which write a checkpoint and end."""
    run = prepared(*FOR_EVER)
    strike(run, signal.SIGKILL, lambda: parent_of(rank_pids(run)[0]))
    result = train(run, nproc)
    assert result.stop_reason == "preempted", result
    assert_nothing_left(run, GRACE_S)
    assert_resumable(run, nproc)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_launcher_of_its_own(prepared: Prepared, nproc: int, number: signal.Signals) -> None:
    """correctness 75: ``python -m ununennium.launch.training``, as a scheduler runs it."""
    if shutil.which("setpriv") is None and number is signal.SIGKILL:
        pytest.skip("needs setpriv")
    run = prepared(*FOR_EVER, f"launcher.nproc_per_node={nproc}", f"launcher.grace_s={GRACE_S}")
    command = [sys.executable, "-m", "ununennium.launch.training", str(run.run_file)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parents[2]) as launcher:
        try:
            assert wait_until(lambda: has_checkpoint(run))
            launcher.send_signal(number)
            assert launcher.wait(LONG_S) == (143 if number is signal.SIGTERM else -signal.SIGKILL)
        finally:
            launcher.kill()
    assert_nothing_left(run, GRACE_S)
    assert_resumable(run, nproc)
    assert '"preempted"' in run.result_file.read_text()


def test_sigkill_of_a_rank(prepared: Prepared, nproc: int) -> None:
    """correctness 48, 70: the killed rank is the cause, not its peer's lost connection."""
    run = prepared(*FOR_EVER)
    strike(run, signal.SIGKILL, lambda: rank_pids(run)[-1])
    result = train(run, nproc)
    assert result.stop_reason == "failed"
    assert result.error is not None
    assert result.error.rank == nproc - 1
    assert "SIGKILL" in result.message
    assert "memory" in result.message
    with pytest.raises(ProcessLost):
        result.require_usable()
    assert_nothing_left(run, GRACE_S)
    assert_resumable(run, nproc)


def test_a_rank_that_stalls(prepared: Prepared, nproc: int) -> None:
    """The heartbeat stops; the message names the rank, and the stacks say where its peers wait for it."""
    run = prepared(*FOR_EVER)
    strike(run, signal.SIGSTOP, lambda: rank_pids(run)[-1])
    result = train(run, nproc, stall_timeout_s=30.0, grace_s=5.0)
    assert result.stop_reason == "failed"
    assert result.error is not None
    assert (result.error.type, result.error.rank) == ("Stalled", nproc - 1)
    assert f"rank {nproc - 1} is stopped" in result.message
    assert "epoch" in result.message
    if nproc == 2:
        assert "trainer.py" in result.error.traceback  # where rank 0 waits
    with pytest.raises(ProcessLost, match="has not moved for 30 s"):
        result.require_usable()
    assert_nothing_left(run, GRACE_S)
    assert_resumable(run, nproc)


def test_a_rank_that_is_killed_is_started_again(prepared: Prepared, nproc: int) -> None:
    """The run ends as if nothing had been; what it costs is the steps since the newest checkpoint."""
    changes = ("trainer.epochs=6", "data.batch_size=2", "checkpoints.every_n_steps=3", "trainer.deterministic=true")
    undisturbed = prepared(*changes)
    assert train(undisturbed, nproc).stop_reason == "completed"
    run = prepared(*changes)
    strike(run, signal.SIGKILL, lambda: rank_pids(run)[-1])
    lines: list[str] = []
    result = train(run, nproc, max_restarts=1, on_line=lines.append)
    assert result.stop_reason == "completed", result
    assert any("restart 1 of 1" in line for line in lines)
    assert any(line.startswith("going on from the checkpoint after epoch") for line in lines)
    _assert_equal(newest_checkpoint(undisturbed)["model"], newest_checkpoint(run)["model"])
    assert_nothing_left(run, GRACE_S)


def _assert_equal(first: object, second: object) -> None:
    import torch

    assert isinstance(first, dict)
    assert isinstance(second, dict)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

"""Start training under torchrun, watch it, and bring back a typed result; nothing is left behind.

The caller (a flow, the command line) never imports torch and never runs the loop itself: Prefect's processes cannot
fork loader workers safely, cannot time out a thread, and should not hold a GPU. Hand-over is by files of the run's
work folder: ``run.json`` in; ``result.json``, ``errors/``, ``metrics.jsonl`` and ``heartbeat.json`` out.

Who ends whom:

====================================  ==================================================================
the caller is cancelled or interrupted  ``supervise`` sends SIGTERM, waits ``grace_s``, kills; then re-raises
the caller is killed                  the kernel sends torchrun SIGTERM (``setpriv --pdeathsig``)
torchrun gets SIGTERM                 it passes it on; ranks write a checkpoint; it kills them after ``grace_s``
torchrun is killed                    the kernel sends each rank SIGTERM; each ends itself after ``grace_s``
a rank is killed, or loses a peer     torchrun ends the others, and starts all again from the newest checkpoint
a rank raises                         torchrun ends the others; the earliest error is the root cause
nothing moves for ``stall_timeout_s``  every rank's stack is kept; then as cancelled, but an error comes back
the deadline passes                   as cancelled, but ``timed_out`` comes back as a result
====================================  ==================================================================

On several machines the same command runs on each (``python -m ununennium.launch.training RUN_JSON --nnodes 2 ...``),
and the work folder lies where all of them see it.
"""

from __future__ import annotations

import argparse
import contextlib
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ununennium.errors import ConfigError, UnunenniumError
from ununennium.launch.result import Preempted, TrainingResult, read_result
from ununennium.launch.stalls import OnLine, Stalled, Watch, processes
from ununennium.live_line import Wait
from ununennium.processes.console import is_warning
from ununennium.processes.entry_points import Worker
from ununennium.processes.parent import PREEMPTED_EXIT_CODE
from ununennium.processes.supervise import POLL_S, Outcome, Terminated, raise_on_sigterm, send_signal, supervise
from ununennium.processes.worker import run_worker
from ununennium.runs.directory import RunDirectory, read_json

CHECK, NO_CHECK = "--check", "--no-check"
"""Options of the training worker: only check that the run can be trained; train without checking first."""
_RANK_PREFIX = re.compile(r"^\[[A-Za-z_]+(\d+)\]:")


@dataclass(frozen=True)
class Nodes:
    """The machines that train together, and which of them this is.

    Attributes:
        count: machines.
        rank: this one's number; 0 keeps the rendezvous.
        endpoint: ``host:port`` of machine 0 that all of them reach.
        local_addr: address by which the others reach this one; None for its host name's.
    """

    count: int = 1
    rank: int = 0
    endpoint: str | None = None
    local_addr: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.count:
            raise ConfigError("node_rank", self.rank, f"give this machine's number, from 0 to {self.count - 1}")
        if self.count > 1 and not self.endpoint:
            raise ConfigError("rdzv_endpoint", self.endpoint, "give machine 0 and a free port of it, as host:29400")

    def arguments(self, run_id: str) -> list[str]:
        """Arguments of torchrun for them."""
        if self.count == 1:
            return ["--standalone"]
        local = [] if self.local_addr is None else [f"--local-addr={self.local_addr}"]
        return [
            *(f"--nnodes={self.count}", f"--node-rank={self.rank}", "--rdzv-backend=c10d"),
            *(f"--rdzv-id={run_id}", f"--rdzv-endpoint={self.endpoint}"),
            *(f"--rdzv-conf=is_host={int(self.rank == 0)}", *local),
        ]


def torchrun_command(
    run: RunDirectory,
    *,
    nproc: int = 1,
    nodes: Nodes | None = None,
    grace_s: float = 25.0,
    max_restarts: int = 0,
    check: bool = True,
) -> list[str]:
    """The command that trains ``run``: the same here, on a cluster, and under a scheduler."""
    return [
        *(sys.executable, "-m", "ununennium.launch.torchrun", *(nodes or Nodes()).arguments(run.run_id)),
        *(f"--nproc-per-node={nproc}", f"--max-restarts={max_restarts}"),
        *(f"--log-dir={run.logs_folder}", "--tee=3"),
        *(f"--shutdown-timeout={max(1, round(grace_s))}", "--module", Worker.TRAIN, str(run.run_file)),
        *([] if check else [NO_CHECK]),
    ]


def launch(
    run: RunDirectory,
    *,
    nproc: int = 1,
    nodes: Nodes | None = None,
    timeout_s: float | None = None,
    grace_s: float = 25.0,
    stall_timeout_s: float | None = None,
    max_restarts: int = 0,
    check: bool = True,
    on_line: OnLine = print,
    on_wait: Callable[[], None] | None = None,
) -> TrainingResult:
    """Train ``run`` under torchrun on this machine, and wait for it.

    Training goes on from the newest checkpoint of the run if there is one.

    Args:
        run: a run whose index and statistics have been written.
        nproc: training processes on this machine.
        nodes: the machines that train together; None for this one alone.
        timeout_s: after so many seconds training is asked to stop; None waits for ever.
        grace_s: seconds to write a checkpoint after being asked to stop, before being killed.
        stall_timeout_s: seconds without a batch being done after which training is ended; None waits for ever.
        max_restarts: times that training is started again after a process was lost.
        check: train one batch on copies first, unless training goes on from a checkpoint.
        on_line: called with each line that rank 0 prints, and with warnings and errors of others, from a thread.
        on_wait: called in this thread every quarter of a second; what it raises ends training as a cancellation does.

    Returns:
        The result, also of a training that failed: ``require_usable`` raises.

    Raises:
        LaunchError: torchrun could not be started.
    """
    nodes = nodes or Nodes()
    if nodes.rank == 0:  # its store is what the others wait for, so nothing of this start is there yet
        for stale in (run.result_file, run.heartbeat_file):
            stale.unlink(missing_ok=True)
        for folder in (run.errors_folder, run.pids_folder, run.stacks_folder):
            shutil.rmtree(folder, ignore_errors=True)

    heard: set[str] = set()

    def on_output(line: str) -> bool:
        prefix = _RANK_PREFIX.match(line)
        if prefix is None:  # torchrun's own words: kept for the error message alone
            return False
        starting.end()
        rank, text = int(prefix[1]), line[prefix.end() :]
        if rank == 0:
            on_line(text)
        if is_warning(text) and text not in heard:  # what every rank warns of is told once
            heard.add(text)
            if rank:
                on_line(f"rank {rank}: {text}")
        return True

    launch_id = secrets.token_hex(8)
    watch = Watch(run, launch_id, stall_timeout_s)

    def on_poll() -> None:
        watch()
        if on_wait is not None:
            on_wait()

    started = time.monotonic()
    outcome, stalled = None, None
    starting = Wait(f"starting {nproc} training process{'' if nproc == 1 else 'es'}", on_line)
    try:
        outcome = supervise(
            torchrun_command(run, nproc=nproc, nodes=nodes, grace_s=grace_s, max_restarts=max_restarts, check=check),
            env={"UNUNENNIUM_GRACE_S": str(grace_s), "UNUNENNIUM_LAUNCH": launch_id},
            timeout_s=timeout_s,
            grace_s=grace_s,
            on_line=on_output,
            on_wait=on_poll,
        )
    except Stalled as found:
        stalled = found.error
        outcome = Outcome(-signal.SIGTERM, False, [], time.monotonic() - started)
    finally:
        starting.end()
        _end_ranks(run, launch_id, grace_s=0.0 if stalled else grace_s)
    return read_result(run, outcome, stalled=stalled)


def check_in_subprocess(run: RunDirectory, *, on_line: OnLine = print) -> dict[str, Any]:
    """Train one batch of ``run`` in a process of its own, without keeping anything of it.

    Returns:
        What ``ununennium.workers.check.CheckResult`` has, and ``words``.

    Raises:
        ConfigError: a setting with which the run cannot train.
        ProcessLost: the process was killed.
        TrainingError: it failed.
    """
    error_file = run.check_error_file
    with Wait("trying two batches in a process of its own", on_line):
        run_worker(Worker.TRAIN, [run.run_file, CHECK], what="check", error_file=error_file, on_line=on_line)
    found: dict[str, Any] = read_json(run.check_file)
    return found


def evaluate_in_subprocess(
    run: RunDirectory, *, grace_s: float = 5.0, on_line: OnLine = print, on_wait: Callable[[], None] | None = None
) -> None:
    """Evaluate the best checkpoint of ``run``, and the champion, on the holdout, in a process of its own.

    What ``on_wait`` raises, every quarter of a second, ends the evaluation.

    Raises:
        ProcessLost: the evaluation was killed; a new call begins anew.
        TrainingError: it failed; its traceback is in the exception's notes.
    """
    run_worker(
        Worker.EVALUATE,
        [run.run_file],
        what="evaluation",
        error_file=run.evaluation_error_file,
        grace_s=grace_s,
        on_line=on_line,
        on_wait=on_wait,
    )


def smoke_test(url: str, probe: Path, run_file: Path, *, timeout_s: float = 600.0) -> tuple[bool, str]:
    """Load the artefact at ``url`` in a process of its own, and compare its logits of a chip with the judged model's.

    Args:
        url: of the artefact in the storage.
        probe: file that ``ununennium.workers.smoke_test.write_probe`` wrote at evaluation.
        run_file: ``run.json`` of the run, whose configuration names the model.
        timeout_s: seconds after which it is lost.

    Returns:
        Whether it passed, and how, in words.

    Raises:
        ProcessLost: the process was killed, or too slow: nothing is known of the artefact; try again.
        StorageUnavailable: likewise, as the storage did not answer.
        TrainingError: the test could not be made for another reason.
    """
    with tempfile.TemporaryDirectory(prefix="ununennium-smoke-") as folder:
        answer = Path(folder) / "answer.json"
        run_worker(
            Worker.SMOKE_TEST,
            [url, probe, answer, run_file],
            what="smoke test",
            error_file=Path(folder) / "error.json",
            timeout_s=timeout_s,
            on_line=lambda line: None,
        )
        found = read_json(answer)
    return bool(found["passed"]), str(found["words"])


def _end_ranks(run: RunDirectory, launch_id: str, *, grace_s: float) -> None:
    """Wait for ranks that outlive torchrun, then kill them; a process id that was given to another is left alone."""
    deadline = time.monotonic() + grace_s
    for process in processes(run, launch_id):
        while process.alive and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if process.alive:
            send_signal(process.pid, signal.SIGKILL)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 wrong usage, 143 asked to stop, with a checkpoint to go on from."""
    parser = argparse.ArgumentParser(
        prog="python -m ununennium.launch.training",
        description="Train a prepared run on this machine or, with the same command on each, on several.",
        epilog="The work folder that holds RUN_JSON must be the same on all machines.",
    )
    parser.add_argument("run_json", type=Path, metavar="RUN_JSON", help="the run.json of its work folder")
    parser.add_argument("--nnodes", type=int, default=1, metavar="N", help="machines (default: %(default)s)")
    parser.add_argument("--node-rank", type=int, default=0, metavar="I", help="this machine's number, from 0")
    parser.add_argument("--rdzv-endpoint", metavar="HOST:PORT", help="machine 0, and a free port of it")
    parser.add_argument("--local-addr", metavar="ADDRESS", help="by which the other machines reach this one")
    parser.add_argument(NO_CHECK, action="store_true", help="train without trying two batches first")
    options = parser.parse_args(arguments)
    raise_on_sigterm()
    try:
        run = RunDirectory.open(options.run_json)
        settings = run.config().launcher
        launch(
            run,
            nproc=settings.nproc_per_node,
            nodes=Nodes(options.nnodes, options.node_rank, options.rdzv_endpoint, options.local_addr),
            timeout_s=settings.timeout_s,
            grace_s=settings.grace_s,
            stall_timeout_s=settings.stall_timeout_s,
            max_restarts=settings.max_restarts,
            check=not options.no_check,
            on_line=_say,
        ).require_usable()
    except (Terminated, Preempted, KeyboardInterrupt) as stopped:
        _say(str(stopped) or "interrupted")
        return PREEMPTED_EXIT_CODE
    except UnunenniumError as error:
        _say(f"error: {error}")
        return 2 if isinstance(error, ConfigError) else 1
    return 0


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())

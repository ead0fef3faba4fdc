"""Kill runs at random moments until they are done, and compare each with one that was left alone.

    python -m benchmarks.soak --kills 60 --ranks 1 2 --starters cli launcher plain --workers 0 1

There is one pair of runs for each number of ranks, starter and kind of workers. A starter is the command line
(``ununennium train --resume``), the launcher alone, or a plain program with a shuffled ``DataLoader`` that has a
generator of its own (``benchmarks.soak_plain``). What was started, torchrun, a rank, or all of them at once (a machine
that loses power) get SIGKILL, SIGTERM or SIGINT, while they start or while they train; then the run is started again,
as a flow's next try does. In the end model, modules beside it, optimizer, averages and history must equal the
undisturbed run's to the bit, and no complete checkpoint may have been lost on the way.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ununennium import pipeline
from ununennium.checkpoints.store import CheckpointStore
from ununennium.config import RunConfig
from ununennium.runs.directory import RunDirectory

EXAMPLE = Path(__file__).parents[1] / "examples" / "atlanta" / "run.yaml"
SETTINGS = [
    "model.kwargs={base_channels: 4, depth: 2}",
    "data.chip_size=64",
    "data.chips_per_epoch=24",
    "data.batch_size=2",
    "trainer.device=cpu",
    "trainer.mixed_precision=false",
    "trainer.deterministic=true",
    "early_stopping=null",
    "checkpoints.save_top_k=2",
    "checkpoints.every_n_steps=2",
    "launcher.grace_s=60",
]
STARTERS = ("cli", "launcher", "plain")
VICTIMS = {
    "everything": "KILL",
    "what was started": "KILL TERM INT",
    "torchrun": "KILL TERM INT",
    "rank": "KILL TERM INT",
}
PARTS = ("model", "modules", "optimizer")
PATIENCE_S = 300.0


@dataclass(frozen=True)
class Job:
    """A run that can be started again and again.

    Attributes:
        command: starts it, or goes on with it.
        marker: what the command lines of all its processes have in common.
        checkpoints: their URL.
        log: what its processes print.
    """

    command: list[str]
    marker: str
    checkpoints: str
    log: Path

    @classmethod
    def of_project(cls, starter: str, folder: Path, *, epochs: int, ranks: int, workers: int) -> Job:
        """A run of the example, by the command line or by the launcher."""
        changes = [
            f"trainer.epochs={epochs}", f"launcher.nproc_per_node={ranks}", f"storage={folder / 'storage'}",
            f"data.num_workers={workers}",
        ]  # fmt: skip
        run = RunDirectory.create(RunConfig.load(EXAMPLE, [*SETTINGS, *changes]))
        pipeline.prepare(run)
        command = ["-m", "ununennium.launch.training", str(run.run_file)]
        if starter == "cli":
            run.publish([run.plan_file, run.index_file, run.statistics_file, run.split_file])
            command = ["-m", "ununennium", "train", "--resume", run.run_id, "--storage", str(run.storage)]
        return cls([sys.executable, *command], run.run_id, run.checkpoints_url, run.work / "soak.log")

    @classmethod
    def of_plain(cls, folder: Path, *, epochs: int, ranks: int, workers: int) -> Job:
        """A run of ``benchmarks.soak_plain``, under torchrun if there are several ranks."""
        url = str(folder / "plain")
        program = ["-m", "benchmarks.soak_plain", url, str(epochs), str(int(workers > 0))]
        if ranks > 1:
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "--module"]
            program = [*torchrun, *program[1:]]
        return cls([sys.executable, *program], url, url, folder / "soak.log")


class Soak:
    """One job under fire.

    Args:
        job: what is started.
        seed: of the moments and the victims.
    """

    def __init__(self, job: Job, seed: int) -> None:
        self.job = job
        self._random = random.Random(seed)
        self._store = CheckpointStore(job.checkpoints)

    def start(self) -> subprocess.Popen[str]:
        """Start, or go on with, the run."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with self.job.log.open("a") as log:
            return subprocess.Popen(
                self.job.command, stdout=log, stderr=subprocess.STDOUT, text=True, env=environment,
                start_new_session=True,
            )  # fmt: skip

    def kill(self, started: subprocess.Popen[str]) -> tuple[str, str, str] | None:
        """Wait for a random moment and kill a random victim; returns signal, victim and moment, or None if it ended."""
        if self._random.random() < 0.25:
            moment = self._random.uniform(0.0, 5.0)
            when = f"{moment:.2f} s after its start"
        else:
            before = self.position()
            deadline = time.monotonic() + PATIENCE_S
            while self.position() <= before and started.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            moment = self._random.uniform(0.0, 1.0)
            when = f"{moment:.2f} s after a checkpoint"
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(moment)
        if started.poll() is not None:
            return None
        ranks = self._ranks()
        agents = sorted({_parent(rank) for rank in ranks} - {0, 1, os.getpid()})
        hit = {
            "everything": [started.pid, *agents, *ranks],
            "what was started": [started.pid],
            "torchrun": agents,
            "rank": [self._random.choice(ranks)] if ranks else [],
        }
        victim = self._random.choice([name for name, pids in hit.items() if pids])
        name = self._random.choice(VICTIMS[victim].split())
        for pid in hit[victim]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.Signals[f"SIG{name}"])
        return f"SIG{name}", victim, when

    def settle(self, started: subprocess.Popen[str]) -> int | None:
        """Until nothing of the run is alive; returns the exit status, or None if it goes on after a lost rank.

        Raises:
            RuntimeError: something of it does not end.
        """
        deadline = time.monotonic() + PATIENCE_S
        with contextlib.suppress(subprocess.TimeoutExpired):
            started.wait(8.0)
        status = started.poll()
        if status is None:
            return None
        while self._alive():
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes of {self.job.log} are left after {PATIENCE_S:.0f} s")
            time.sleep(0.05)
        return status

    def position(self) -> tuple[int, ...]:
        """Where the newest complete checkpoint stands."""
        newest = self._store.latest()
        return (-1,) if newest is None else newest.position

    def newest(self) -> dict[str, Any]:
        """The newest checkpoint, read whole: size and hash are checked."""
        return CheckpointStore.read(self.job.checkpoints)

    def _alive(self) -> list[int]:
        """The processes of the run, but for the one that ended and is not waited for."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.job.marker.encode() in (folder / "cmdline").read_bytes():
                    found.append(int(folder.name))
        return [pid for pid in found if pid != os.getpid()]

    def _ranks(self) -> list[int]:
        """Those that train: with the environment of a rank, but no loader's worker, which has that too."""
        alive = self._alive()
        ranks = [pid for pid in alive if b"\0LOCAL_RANK=" in _environment(pid)]
        ranks = [pid for pid in ranks if _parent(pid) not in ranks]
        return ranks or [pid for pid in alive if _parent(pid) == os.getpid()]


def soak(
    folder: Path, *, kills: int, epochs: int, ranks: int, seed: int, starter: str = "launcher", workers: int = 0
) -> dict[str, Any]:
    """Train once undisturbed and once under fire.

    Args:
        folder: where both runs go.
        kills: how many.
        epochs: of both runs; long enough to last for so many kills.
        ranks: training processes.
        seed: of the moments and the victims.
        starter: one of ``STARTERS``.
        workers: loader processes of each rank, which are persistent.

    Returns:
        ``kills`` done, ``starts``, ``lost_checkpoints``, ``differs``, the parts that are not equal to the bit, and
        ``signals``, how many of each.
    """
    os.environ["UNUNENNIUM_WORK"] = str(folder / "work")
    jobs = []
    for name in ("undisturbed", "under-fire"):
        place = folder / name
        place.mkdir(parents=True)
        arguments = {"epochs": epochs, "ranks": ranks, "workers": workers}
        plain = starter == "plain"
        jobs.append(Job.of_plain(place, **arguments) if plain else Job.of_project(starter, place, **arguments))
    reference, under_fire = Soak(jobs[0], seed), Soak(jobs[1], seed)
    status: int | None = reference.start().wait(PATIENCE_S * 4)
    if status:
        raise RuntimeError(f"the undisturbed run ended with {status}: {jobs[0].log.read_text()}")
    done = starts = lost = 0
    signals: Counter[str] = Counter()
    status = 1
    while status != 0:
        if status is not None:
            started = under_fire.start()
            starts += 1
        before = under_fire.position()
        what = under_fire.kill(started) if done < kills else None
        if what is None:
            status = started.wait(PATIENCE_S * 4)
        else:
            done += 1
            signals[f"{what[0]} to {what[1]}"] += 1
            status = under_fire.settle(started)
        after = under_fire.position()
        if after > (-1,) and status is not None:
            under_fire.newest()
        lost += after < before
        ending = "goes on" if status is None else f"exit {status}"
        told = "left alone" if what is None else f"{what[0]} to {what[1]}, {what[2]}"
        _say(f"{done:3d}  {told}: {ending}; newest checkpoint: epoch, step, batches {after}")
        if starts > 2 * kills + 10:
            raise RuntimeError(f"the run does not end; see {jobs[1].log}")
    first, second = reference.newest(), under_fire.newest()
    differs = [part for part in PARTS if not equal(first.get(part), second.get(part))]
    differs += [name for name, values in first["history"].items() if not equal(values, second["history"].get(name))]
    if not equal(first["callbacks"].get("EMA"), second["callbacks"].get("EMA")):
        differs.append("EMA")
    found = {"kills": done, "starts": starts, "lost_checkpoints": lost, "differs": differs}
    return {**found, "signals": dict(sorted(signals.items()))}


def equal(first: Any, second: Any) -> bool:
    """Whether two states are the same to the bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second) or (first != first and second != second)


def _environment(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return b"\0" + Path(f"/proc/{pid}/environ").read_bytes()
    return b""


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """Exit status 1 if runs differ, a checkpoint was lost, or not so many kills could be made."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=60, help="in all (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=24, help="of each run (default: %(default)s)")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="training processes (default: 1 2)")
    parser.add_argument("--starters", nargs="+", choices=STARTERS, default=list(STARTERS), help="(default: all)")
    parser.add_argument(
        "--workers", type=int, nargs="+", default=[0, 1], help="loader processes, which are persistent (default: 0 1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims (default: %(default)s)")
    options = parser.parse_args()
    pairs = list(itertools.product(options.starters, options.ranks, options.workers))
    total: Counter[str] = Counter()
    signals: Counter[str] = Counter()
    differs: list[str] = []
    for number, (starter, ranks, workers) in enumerate(pairs):
        missing = options.kills - total["kills"]
        kills = -(-missing // (len(pairs) - number))
        name = f"{starter}, {ranks} ranks, {workers} workers"
        _say(f"{name}: {kills} kills")
        arguments = {"epochs": options.epochs, "seed": options.seed + number, "ranks": ranks, "workers": workers}
        with tempfile.TemporaryDirectory(prefix="soak-") as folder:
            result = soak(Path(folder), kills=kills, starter=starter, **arguments)
        total.update({key: result[key] for key in ("kills", "starts", "lost_checkpoints")})
        signals.update(result["signals"])
        differs += [f"{name}: {part}" for part in result["differs"]]
        _say(json.dumps({"run": name, **result}))
    _say(json.dumps({**vars(options), "pairs": len(pairs), **total, "differs": differs, "signals": dict(signals)}))
    return int(bool(differs or total["lost_checkpoints"] or total["kills"] < options.kills))


if __name__ == "__main__":
    sys.exit(main())

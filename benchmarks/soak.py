"""Kill a run at random moments until it is done, and compare it with one that was left alone.

    python -m benchmarks.soak --kills 50 --ranks 2

The launcher, torchrun, a rank, or all of them at once (a machine that loses power) get SIGKILL or SIGTERM, while they
start or while they train; then the run is started again, as a flow's next try does. In the end model, optimizer and
history must equal the undisturbed run's to the bit, and no complete checkpoint may have been lost on the way.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from ununennium import pipeline
from ununennium.checkpoints.store import CheckpointStore
from ununennium.config import RunConfig
from ununennium.runs import RunDirectory

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
VICTIMS = {"everything": "KILL", "launcher": "KILL TERM", "torchrun": "KILL TERM", "rank": "KILL TERM"}
PATIENCE_S = 300.0


class Soak:
    """One run under fire.

    Args:
        run: a prepared run.
        seed: of the moments and the victims.
    """

    def __init__(self, run: RunDirectory, seed: int) -> None:
        self.run = run
        self._random = random.Random(seed)
        self._store = CheckpointStore(run.checkpoints_url)

    def start(self) -> subprocess.Popen[str]:
        """Start, or go on with, the run."""
        command = [sys.executable, "-m", "ununennium.training.launch", str(self.run.run_file)]
        with (self.run.work / "soak.log").open("a") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, text=True, start_new_session=True)

    def kill(self, launcher: subprocess.Popen[str]) -> str | None:
        """Wait for a random moment and kill a random victim; returns what was done, None if the run ended first."""
        if self._random.random() < 0.25:
            moment = self._random.uniform(0.0, 5.0)
            when = f"{moment:.2f} s after its start"
            self._sleep(launcher, moment)
        else:
            before = self.position()
            deadline = time.monotonic() + PATIENCE_S
            while self.position() <= before and launcher.poll() is None and time.monotonic() < deadline:
                time.sleep(0.01)
            moment = self._random.uniform(0.0, 1.0)
            when = f"{moment:.2f} s after a checkpoint"
            self._sleep(launcher, moment)
        if launcher.poll() is not None:
            return None
        victim = self._random.choice(list(VICTIMS))
        name = self._random.choice(VICTIMS[victim].split())
        ranks = self._ranks()
        agents = [pid for pid in {_parent(rank) for rank in ranks} if pid > 1]
        hit = {"everything": [launcher.pid, *agents, *ranks], "launcher": [launcher.pid], "torchrun": agents}
        for pid in hit.get(victim, [self._random.choice(ranks)] if ranks else []):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.Signals[f"SIG{name}"])
        return f"SIG{name} to {victim}, {when}"

    def settle(self, launcher: subprocess.Popen[str]) -> int | None:
        """Until nothing of the run is alive; returns the exit status, or None if it goes on after a lost rank.

        Raises:
            RuntimeError: something of it does not end.
        """
        deadline = time.monotonic() + PATIENCE_S
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(8.0)
        status = launcher.poll()
        if status is None:
            return None
        while any(_alive(pid, self.run) for pid in self._ranks()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"processes of {self.run.work} are left after {PATIENCE_S:.0f} s")
            time.sleep(0.05)
        return status

    def position(self) -> tuple[int, ...]:
        """Where the newest complete checkpoint stands."""
        newest = self._store.latest()
        return (-1,) if newest is None else newest.position

    def newest(self) -> dict[str, Any]:
        """The newest checkpoint, read whole: size and hash are checked."""
        return CheckpointStore.read(self.run.checkpoints_url)

    def _ranks(self) -> list[int]:
        pids = [int(file.read_text().split()[0]) for file in sorted(self.run.pids_folder.glob("rank*"))]
        return [pid for pid in pids if _alive(pid, self.run)]

    @staticmethod
    def _sleep(launcher: subprocess.Popen[str], seconds: float) -> None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            launcher.wait(seconds)


def soak(folder: Path, *, kills: int, epochs: int, ranks: int, seed: int) -> dict[str, Any]:
    """Train once undisturbed and once under fire.

    Args:
        folder: where both runs go.
        kills: how many.
        epochs: of both runs; long enough to last for so many kills.
        ranks: training processes.
        seed: of the moments and the victims.

    Returns:
        ``kills`` done, ``starts``, ``lost_checkpoints`` and ``differs``, the parts that are not equal to the bit.
    """
    os.environ["UNUNENNIUM_WORK"] = str(folder / "work")
    changes = [f"trainer.epochs={epochs}", f"launcher.nproc_per_node={ranks}", f"storage={folder / 'storage'}"]
    config = RunConfig.load(EXAMPLE, [*SETTINGS, *changes])
    undisturbed, fired_at = (RunDirectory.create(config) for _ in range(2))
    for run in (undisturbed, fired_at):
        pipeline.prepare(run)
    reference = Soak(undisturbed, seed)
    status = reference.start().wait(PATIENCE_S * 4)
    if status:
        raise RuntimeError(f"the undisturbed run ended with {status}: {(undisturbed.work / 'soak.log').read_text()}")
    under_fire = Soak(fired_at, seed)
    done = starts = lost = 0
    status: int | None = 1
    while status != 0:
        if status is not None:
            launcher = under_fire.start()
            starts += 1
        before = under_fire.position()
        what = under_fire.kill(launcher) if done < kills else None
        if what is None:
            status = launcher.wait(PATIENCE_S * 4)
        else:
            done += 1
            status = under_fire.settle(launcher)
        after = under_fire.position()
        if after > (-1,) and status is not None:
            under_fire.newest()
        lost += after < before
        ending = "goes on" if status is None else f"exit {status}"
        _say(f"{done:3d}  {what or 'left alone'}: {ending}; newest checkpoint: epoch, step, batches {after}")
        if starts > 2 * kills + 10:
            raise RuntimeError(f"the run does not end; see {fired_at.work / 'soak.log'}")
    first, second = reference.newest(), under_fire.newest()
    differs = [part for part in ("model", "optimizer") if not equal(first[part], second[part])]
    differs += [name for name, values in first["history"].items() if not equal(values, second["history"].get(name))]
    return {"kills": done, "starts": starts, "lost_checkpoints": lost, "differs": differs}


def equal(first: Any, second: Any) -> bool:
    """Whether two states are the same to the bit."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(equal, first, second))
    return bool(first == second) or (first != first and second != second)


def _alive(pid: int, run: RunDirectory) -> bool:
    with contextlib.suppress(OSError):
        return str(run.run_file).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def _parent(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """Exit status 1 if the runs differ or a checkpoint was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=50, help="how many (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=120, help="of the run (default: %(default)s)")
    parser.add_argument("--ranks", type=int, default=1, help="training processes (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims (default: %(default)s)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        result = soak(Path(folder), **vars(options))
    _say(json.dumps({**vars(options), **result}))
    return int(bool(result["differs"] or result["lost_checkpoints"] or result["kills"] < options.kills))


if __name__ == "__main__":
    sys.exit(main())

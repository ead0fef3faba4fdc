"""Several processes that share the rows of each scene: one for each GPU, or a few on a CPU.

The first process leads: it opens a scene's store, says where that is in ``<scene>.store``, makes its own share of the
strips, and waits for the others, each of which leaves ``<scene>.rank<number>.json`` with its error or none. They share
nothing but files, and a strip is bit for bit the same whoever makes it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from ununennium.errors import DataError, ProcessLost
from ununennium.files import write_json
from ununennium.inference.jobs import MapJob
from ununennium.inference.predictor import Predictor
from ununennium.inference.strip_store import StripStore
from ununennium.processes.entry_points import Worker
from ununennium.processes.supervise import how_it_ended
from ununennium.runs.directory import read_json

_POLL_S = 0.05
_END_S = 20.0


class Ranks:
    """The other processes, as the first one sees them; a context manager that ends them.

    Args:
        job_file: file of the job to run.
        count: all processes, the first one among them.
    """

    def __init__(self, job_file: Path, count: int) -> None:
        self.count = count
        self._job_file = job_file
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Ranks:
        threads = str(max(1, (os.cpu_count() or 1) // self.count))
        environment = {"OMP_NUM_THREADS": threads, **os.environ}
        for rank in range(1, self.count):
            command = [sys.executable, "-m", Worker.MAP, str(self._job_file), str(rank)]
            self._processes.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(_END_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def begin(self, name: str, store: StripStore) -> None:
        """Let the others begin with a scene."""
        if self.count > 1:
            write_json(self._work / f"{name}.store", str(store.folder))

    def wait(self, name: str) -> None:
        """Wait until the others have made their share of a scene.

        Raises:
            DataError: one of them could not.
            ProcessLost: one of them has died.
        """
        for rank, process in enumerate(self._processes, 1):
            answer = _answer_file(self._work, name, rank)
            while not answer.exists():
                if process.poll() is not None and not answer.exists():
                    raise ProcessLost(f"rank {rank} of the mapping process {how_it_ended(process.returncode)}")
                time.sleep(_POLL_S)
            if error := read_json(answer)["error"]:
                raise DataError(f"rank {rank}: {error}")

    @property
    def _work(self) -> Path:
        return self._job_file.parent


def follow(job: MapJob, work: Path, rank: int, predictor: Predictor, describe: Callable[[Exception], str]) -> None:
    """Loop of the other processes: their share of scene after scene, until the first process ends them.

    Args:
        job: job in progress.
        work: folder of the job.
        rank: this process's number.
        predictor: on this process's device.
        describe: an error in words.
    """
    for scene in job.scenes:
        place = work / f"{scene.name}.store"
        while not place.exists():
            time.sleep(_POLL_S)
        error = None
        try:
            store = StripStore(Path(json.loads(place.read_text(encoding="utf-8"))))
            plan = predictor.plan(scene.images, job.outputs, name=scene.name, date=scene.date, folder=store.folder)
            predictor.predict(plan, store, share=(rank, job.predictor["ranks"]))
        except Exception as problem:
            error = describe(problem)
        write_json(_answer_file(work, scene.name, rank), {"error": error})


def device_of(rank: int, ranks: int, device: str) -> str:
    """The device of a rank: of several, each GPU in turn."""
    if ranks == 1 or device != "cuda":
        return device
    import torch

    return f"cuda:{rank % torch.cuda.device_count()}"


def _answer_file(work: Path, name: str, rank: int) -> Path:
    return work / f"{name}.rank{rank}.json"

"""A process that trains a small network and saves a large state in one way, as often as it is told to.

``checkpoint_cost`` starts one per way and lets them take turns. Each line on standard input is a JSON object with the
``url`` of a folder, the ``bytes`` of the state, and the seconds (``idle_s``) of training before the save and after it;
the answer is a line of figures. With ``train_s`` it only trains for so long, and answers with the mean time of a step.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

WAYS = {
    "torch.save": "blocking: a file, or fsspec's open file on S3",
    "lightning": "Lightning's Trainer.save_checkpoint, as its ModelCheckpoint calls it, then the removal of the last",
    "dcp": "torch.distributed.checkpoint.async_save",
    "ununennium": "CheckpointCallback as it comes: at once into a folder, spooled and in the background to S3",
    "snapshot": "CheckpointCallback(snapshot=True), which is for folders",
}
_TENSORS = 48
"""As many as a middling network has."""


class Way(Protocol):
    """A way of saving."""

    def save(self, number: int) -> None:
        """Save; training goes on when this returns."""

    def is_done(self) -> bool:
        """Whether nothing more is to be done for the last save."""

    def durable_at(self) -> float | None:
        """When it was complete (``time.monotonic``); None if that is when it was done."""

    def close(self) -> None:
        """End."""


def missing(way: str) -> str | None:
    """Why a way cannot be measured here."""
    if way == "lightning" and importlib.util.find_spec("lightning") is None:
        return "lightning is not installed: see benchmarks/peers.txt"
    return None


class Training:
    """A small network that trains, beside tensors that make its state large."""

    def __init__(self, size_bytes: int) -> None:
        import torch
        from torch import nn

        self._functional = nn.functional
        self.model = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))
        self.model.append(nn.Conv2d(32, 2, 1))
        self.ballast = [torch.rand(size_bytes // 4 // _TENSORS) for _ in range(_TENSORS)]
        self.optimizer = torch.optim.Adam(self.model.parameters())
        self._image, self._target = torch.rand(2, 3, 128, 128), torch.randint(0, 2, (2, 128, 128))

    def step(self) -> None:
        self.optimizer.zero_grad()
        self._functional.cross_entropy(self.model(self._image), self._target).backward()
        self.optimizer.step()

    def state(self) -> dict[str, Any]:
        model, optimizer = self.model.state_dict(), self.optimizer.state_dict()
        return {"model": model, "optimizer": optimizer, "ballast": self.ballast}


class Blocking:
    """Everything is done when ``save`` returns."""

    def is_done(self) -> bool:
        return True

    def durable_at(self) -> float | None:
        return None

    def close(self) -> None:
        pass


class TorchSave(Blocking):
    def __init__(self, training: Training, url: str) -> None:
        self._training, self._url = training, url

    def save(self, number: int) -> None:
        import fsspec
        import torch

        with fsspec.open(f"{self._url}/{number}.pt", "wb", auto_mkdir=True) as file:
            torch.save(self._training.state(), file)


class Lightning(Blocking):
    def __init__(self, training: Training, url: str) -> None:
        import lightning.pytorch as pl
        import torch

        class Module(pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.inner = training.model
                for place, tensor in enumerate(training.ballast):
                    self.register_buffer(f"ballast{place}", tensor)

            def training_step(self, batch: Any, index: int) -> Any:
                return self.inner(batch[0]).mean()

            def configure_optimizers(self) -> Any:
                return training.optimizer

        data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.rand(2, 3, 8, 8)), batch_size=2)
        self._trainer = pl.Trainer(
            max_steps=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        self._trainer.fit(Module(), data)
        self._url = url

    def save(self, number: int) -> None:
        self._trainer.save_checkpoint(f"{self._url}/{number}.ckpt")
        if number > 1:
            self._trainer.strategy.remove_checkpoint(f"{self._url}/{number - 1}.ckpt")


class Dcp:
    def __init__(self, training: Training, url: str) -> None:
        self._training, self._url = training, url
        self._future: Any = None

    def save(self, number: int) -> None:
        from torch.distributed import checkpoint as dcp

        place = f"{self._url}/{number}"
        if "://" in place:
            try:
                from torch.distributed.checkpoint.fsspec_filesystem import FsspecWriter
            except ImportError:
                from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter
            writer: Any = FsspecWriter(place, sync_files=False)
        else:
            writer = dcp.FileSystemWriter(place)
        self._future = dcp.async_save(self._training.state(), storage_writer=writer, no_dist=True)

    def is_done(self) -> bool:
        if self._future.done():
            self._future.result()
            return True
        return False

    def durable_at(self) -> float | None:
        return None

    def close(self) -> None:
        pass


class Ours:
    def __init__(self, training: Training, url: str, snapshot: bool) -> None:
        from ununennium.checkpoints.savers import BackgroundSaver, DirectSaver
        from ununennium.checkpoints.store import CheckpointStore

        self._training = training
        store = CheckpointStore(url)
        create = store.storage.create
        self._committed: float | None = None
        self._number = 0

        def created(key: str, data: bytes) -> None:
            create(key, data)
            self._committed = time.monotonic()

        store.storage.create = created  # type: ignore[method-assign]  # the manifest: from then on it exists
        in_background = snapshot or store.storage.is_remote
        self._saver: Any = DirectSaver(store, 1, [], set())
        if in_background:
            self._saver = BackgroundSaver(store, 1, [], set(), snapshot=snapshot)

    def save(self, number: int) -> None:
        from ununennium.checkpoints.manifest import SavePoint

        self._number = number
        self._saver.save(self._training.state(), SavePoint(epoch=number, step=number))

    def is_done(self) -> bool:
        return [manifest.step for manifest in self._saver.kept[-1:]] == [self._number]

    def durable_at(self) -> float | None:
        return self._committed

    def close(self) -> None:
        self._saver.flush(60.0)
        self._saver.close()


def make(way: str, training: Training, url: str) -> Way:
    """The way called ``way`` of saving ``training`` into the folder at ``url``."""
    if way == "torch.save":
        return TorchSave(training, url)
    if way == "lightning":
        return Lightning(training, url)
    if way == "dcp":
        return Dcp(training, url)
    return Ours(training, url, snapshot=way == "snapshot")


class Session:
    """One way and one state, saved again and again."""

    def __init__(self, way: str, url: str, size_bytes: int) -> None:
        self.described = (url, size_bytes)
        self._training = Training(size_bytes)
        self._way = make(way, self._training, url)
        self._number = 0
        self._memory = 0.0

    def train(self, seconds: float) -> dict[str, Any]:
        """Train, and save nothing."""
        return {"step_s": self._mean_step_s(lambda started: time.monotonic() - started < seconds)}

    def measure(self, idle_s: float) -> dict[str, Any]:
        """Train, save, train until the save is done, and train on; undisturbed is the mean of before and after.

        A machine may change its speed by a tenth within half a minute, and against the time before alone that shows.
        """
        self._number += 1
        if self._number == 1:
            _settle_malloc()
            for _ in range(5):
                self._training.step()
            _forget_peak()
        before = self._mean_step_s(lambda started: time.monotonic() - started < idle_s)
        self._memory = self._memory or _peak_mb()  # of training alone: what a save leaves behind counts as its own
        self._training.model[0].weight.data.add_(0.001)  # the same state again would not be saved again
        started = time.monotonic()
        self._way.save(self._number)
        stood_still = time.monotonic() - started
        meanwhile = None if self._way.is_done() else self._mean_step_s(lambda _: not self._way.is_done())
        done = time.monotonic()
        durable = self._way.durable_at() or done
        figures = {
            "stands_still_s": stood_still,
            "speed_meanwhile": None,
            "durable_s": durable - started,
            "done_s": done - started,
            "extra_memory_mb": max(0.0, _peak_mb() - self._memory),
        }
        if meanwhile is not None:
            after = self._mean_step_s(lambda started: time.monotonic() - started < idle_s)
            figures["speed_meanwhile"] = (before + after) / 2 / meanwhile
        return figures

    def close(self) -> None:
        self._way.close()

    def _mean_step_s(self, go_on: Callable[[float], bool]) -> float:
        """The mean time of a step, while ``go_on(start)``."""
        started, times = time.monotonic(), []
        while not times or go_on(started):
            begin = time.monotonic()
            self._training.step()
            times.append(time.monotonic() - begin)
        return statistics.fmean(times)


def main(way: str, cores: str) -> None:
    """Answer commands until standard input ends; on these cores alone, with all threads."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    import torch

    torch.set_num_threads(len(cores.split(",")))
    session: Session | None = None
    for line in sys.stdin:
        command = json.loads(line)
        described = (command["url"], command["bytes"])
        try:
            if session is None or session.described != described:
                if session is not None:
                    session.close()
                session = None
                gc.collect()
                session = Session(way, *described)
            for task in os.listdir("/proc/self/task"):
                with contextlib.suppress(ProcessLookupError):
                    os.sched_setaffinity(int(task), {int(core) for core in cores.split(",")})
            answer = session.train(command["train_s"]) if "train_s" in command else session.measure(command["idle_s"])
        except Exception as error:
            answer = {"failed": " ".join(f"{type(error).__name__}: {error}".split())[:300]}
        print(json.dumps(answer), file=answers, flush=True)
    if session is not None:
        session.close()


def _settle_malloc() -> None:
    """Free one large block, as any longer training did: glibc then keeps what is freed, up to twice that size.

    Otherwise each step returns its memory to the system and faults it in again, until a way of saving happens to free
    something large: training would then be faster while it saves.
    """
    bytearray(31 << 20)


def _peak_mb() -> float:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024 / 1e6


def _forget_peak() -> None:
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main(*sys.argv[1:])

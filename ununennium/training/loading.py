"""The batches of an epoch, and where the windows of gradient accumulation end."""

from __future__ import annotations

import itertools
import math
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler


class DataWait:
    """Measures how long training waits for its batches: inside ``next``, and while the loader starts.

    Two readings of a clock per batch, and no wait for the device. On a GPU, which works on while the host waits for
    data, the share is an upper bound of what the device idles.

    Args:
        clock: seconds, monotonic.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._started = clock()
        self._waited_s = 0.0
        self._run = [0.0, 0.0]

    def measure(self, load: Callable[[], Iterator[Any]]) -> Iterator[Any]:
        """Start an epoch: the batches of the iterator that ``load`` makes, timed as they are taken."""
        self._started = self._clock()
        self._waited_s = 0.0
        batches = load()
        self._waited_s = self._clock() - self._started
        return self._timed(batches)

    def _timed(self, batches: Iterator[Any]) -> Iterator[Any]:
        nothing = object()
        while True:
            asked = self._clock()
            batch = next(batches, nothing)
            self._waited_s += self._clock() - asked
            if batch is nothing:
                return
            yield batch

    def epoch(self) -> list[float]:
        """Seconds waited since ``measure``, and seconds passed."""
        return [self._waited_s, self._clock() - self._started]

    def close_epoch(self, waited_s: float, passed_s: float) -> dict[str, float]:
        """Add an epoch to the run; returns its figures, ``train_s`` in seconds and ``data_wait`` from 0 to 1."""
        self._run = [self._run[0] + waited_s, self._run[1] + passed_s]
        return {"train_s": passed_s, "data_wait": share(waited_s, passed_s)}

    @property
    def of_run(self) -> float:
        """Share of the training time of all closed epochs that went by waiting; NaN before the first."""
        return share(*self._run)


def share(part: float, whole: float) -> float:
    """``part / whole``; NaN of nothing."""
    return part / whole if whole else math.nan


def epoch_batches(loader: Any, epoch: int, batches_done: int) -> Iterator[Any]:
    """Iterator over the batches of ``epoch`` that come after the first ``batches_done``.

    Those that the sampler cannot leave out (see ``prepare_samplers``) are loaded and dropped.
    """
    starts_there = prepare_samplers(loader, epoch, batches_done * (getattr(loader, "batch_size", None) or 0))
    batches: Iterator[Any] = iter(loader)
    for _ in range(0 if starts_there else batches_done):
        next(batches, None)
    return batches


def prepare_samplers(loader: Any, epoch: int, samples_done: int) -> bool:
    """Tell the samplers of ``loader`` the epoch and the number of samples to leave out; True if one leaves them out.

    ``set_epoch(epoch)`` is called first, so that the order depends on the seed and the epoch alone (correctness 64);
    then ``set_start(samples_done)`` on a sampler that has it, if batches have a known size.
    """
    samplers = samplers_of(loader)
    for sampler in samplers:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
    starter = next((sampler for sampler in samplers if hasattr(sampler, "set_start")), None)
    if starter is None or not getattr(loader, "batch_size", None):
        return False
    starter.set_start(samples_done)
    return True


def mark_windows(batches: Iterable[Any], size: int) -> Iterator[tuple[Any, bool]]:
    """Pairs of a batch and whether it is the last of its window of ``size``; the last window may be shorter.

    Looks one batch ahead inside a window only, so it needs no length, and at a window's end nothing beyond the
    batches consumed has been drawn from the loader.
    """
    if size == 1:
        for batch in batches:
            yield batch, True
        return
    iterator = iter(batches)
    nothing = object()
    batch = next(iterator, nothing)
    position = 1
    while batch is not nothing:
        if position == size:
            yield batch, True
            batch, position = next(iterator, nothing), 1
        else:
            following = next(iterator, nothing)
            yield batch, following is nothing
            batch, position = following, position + 1


def to_device(value: Any, device: torch.device, *, channels_last: bool) -> Any:
    """``value`` on ``device``, if it is a tensor, without a wait; 4-d ones in NHWC memory order if asked for."""
    if not isinstance(value, Tensor):
        return value
    if channels_last and value.ndim == 4:
        return value.to(device, non_blocking=True, memory_format=torch.channels_last)
    return value if value.device == device else value.to(device, non_blocking=True)


def samplers_of(loader: Any) -> list[Any]:
    """The samplers of a ``DataLoader``: its own, its batch sampler, those that these wrap; none of anything else."""
    distinct: list[Any] = []
    waiting = [getattr(loader, "sampler", None), getattr(loader, "batch_sampler", None)]
    while waiting:
        sampler = waiting.pop(0)
        if sampler is not None and all(sampler is not other for other in distinct):
            distinct.append(sampler)
            waiting += [getattr(sampler, "sampler", None), getattr(sampler, "batch_sampler", None)]
    return distinct


class IndexOrder:
    """An index sampler that can leave samples out, and remembers a digest of what it gave, after each batch.

    Args:
        sampler: gives the indices of a batch (or of a sample) at a time.

    Attributes:
        expected: digest of what was consumed before a resume.
        skip: samples that the next iterations leave out; for torch's ``BatchSampler``.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.expected: int | None = None
        self.skip = 0
        self._left_out: Iterator[Any] = iter(())
        self._digests: list[int] = []

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Any]:
        digests: list[int] = []
        self._digests = digests
        sampler = self.sampler
        if self.skip:
            samples = iter(sampler.sampler)
            self._left_out = left_out = itertools.islice(samples, self.skip)
            rest = itertools.chain((index for index in left_out if False), samples)
            sampler = BatchSampler(rest, sampler.batch_size, sampler.drop_last)
        return self._recording(iter(sampler), digests)

    def _recording(self, batches: Iterator[Any], digests: list[int]) -> Iterator[Any]:
        digest = 0
        for indices in batches:
            digest = zlib.crc32(repr(indices).encode(), digest)
            digests.append(digest)
            yield indices

    def leave_out(self) -> None:
        """Draw the samples that are skipped now, if no batch has been asked for yet."""
        for _ in self._left_out:
            pass

    def digest(self, batches: int) -> int | None:
        """Digest of the first ``batches`` batches; None if not so many were given."""
        return self._digests[batches - 1] if 0 < batches <= len(self._digests) else None

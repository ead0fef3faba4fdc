"""The batches of an epoch, and where the windows of gradient accumulation end."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any


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

    ``set_epoch(epoch)`` is called on the loader's samplers first, so that the order depends on the seed and the epoch
    alone (correctness 64). A sampler with ``set_start(num_samples)`` is told where to begin; with any other, the
    batches that were consumed already are loaded again and dropped.
    """
    samplers = samplers_of(loader)
    for sampler in samplers:
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(epoch)
    starter = next((sampler for sampler in samplers if hasattr(sampler, "set_start")), None)
    if starter is not None and getattr(loader, "batch_size", None):
        starter.set_start(batches_done * loader.batch_size)
        return iter(loader)
    batches: Iterator[Any] = iter(loader)
    for _ in range(batches_done):
        next(batches, None)
    return batches


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
    place = 1
    while batch is not nothing:
        if place == size:
            yield batch, True
            batch, place = next(iterator, nothing), 1
        else:
            following = next(iterator, nothing)
            yield batch, following is nothing
            batch, place = following, place + 1


def samplers_of(loader: Any) -> list[Any]:
    """The samplers of a ``DataLoader``: its own, its batch sampler, and that one's; none of anything else."""
    batch_sampler = getattr(loader, "batch_sampler", None)
    found = [getattr(loader, "sampler", None), batch_sampler, getattr(batch_sampler, "sampler", None)]
    distinct: list[Any] = []
    for sampler in found:
        if sampler is not None and all(sampler is not other for other in distinct):
            distinct.append(sampler)
    return distinct

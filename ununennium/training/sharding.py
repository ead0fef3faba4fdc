"""Every rank its own part of the data: loaders that do not see to it themselves are made to, or refused."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sized
from typing import Any, Literal

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from ununennium.errors import ConfigError
from ununennium.training import distributed

_KNOWS_RANKS = ("num_replicas", "world_size")
_KEPT = (
    "batch_size", "num_workers", "collate_fn", "pin_memory", "drop_last", "timeout", "worker_init_fn",
    "multiprocessing_context", "generator", "prefetch_factor", "persistent_workers", "pin_memory_device",
)  # fmt: skip


class ShardSampler(Sampler[int]):
    """One rank's part of a data set, in order: disjoint, neighbours together, and nothing padded.

    Parts differ by at most one sample, and may be empty. That is what validation needs, where each sample counts
    exactly once (correctness 30); training needs equal parts.

    Args:
        length: samples in all.
        rank: this process's.
        world_size: number of processes.
    """

    def __init__(self, length: int, rank: int, world_size: int) -> None:
        self.rank, self.world_size = rank, world_size
        self._part = range(length * rank // world_size, length * (rank + 1) // world_size)

    def __len__(self) -> int:
        return len(self._part)

    def __iter__(self) -> Iterator[int]:
        return iter(self._part)


def shard(loader: Any, field: Literal["train_loader", "val_loader"], seed: int | None) -> Any:
    """``loader``, or one over this rank's part of the same data.

    In one process, and for a loader whose sampler, batch sampler or iterable data set has a ``num_replicas`` or
    ``world_size``, that is ``loader`` itself. So it is for what is no ``DataLoader``: it is taken as this rank's part.

    Args:
        loader: what the user gave.
        field: its name, for messages.
        seed: of the order of the training samples; 0 if None.

    Raises:
        ConfigError: all ranks would see the same data, and it cannot be known how to divide them.
    """
    world_size = distributed.world_size()
    if world_size == 1 or not isinstance(loader, DataLoader) or _knows_ranks(loader):
        return loader
    divided = "several ranks would all see the same data; "
    if isinstance(loader.dataset, IterableDataset):
        remedy = "divide them in its __iter__, and give it the attribute world_size to say so"
        raise ConfigError(field, type(loader.dataset).__name__, divided + remedy)
    if type(loader.batch_sampler) is not BatchSampler or type(loader.sampler) not in (RandomSampler, SequentialSampler):
        given = loader.sampler if type(loader.batch_sampler) is BatchSampler else loader.batch_sampler
        remedy = "divide them in this sampler, and give it the attribute world_size to say so"
        raise ConfigError(field, type(given).__name__, divided + remedy)
    length = len(loader.dataset) if isinstance(loader.dataset, Sized) else 0
    sampler: Sampler[int]
    if field == "val_loader":
        sampler, words = ShardSampler(length, distributed.rank(), world_size), "in parts without padding"
    elif length < world_size:
        raise ConfigError(field, f"{length} samples", f"there are {world_size} ranks, and each needs a sample")
    else:
        shuffle = type(loader.sampler) is RandomSampler
        sampler = DistributedSampler(loader.dataset, shuffle=shuffle, seed=seed or 0, drop_last=True)
        words = "with a DistributedSampler"
    if distributed.rank() == 0:
        warnings.warn(
            f"{field} has no distributed sampler: every rank would see the same data, so it is divided {words}; give a "
            "DataLoader with a sampler of your own to silence this",
            stacklevel=4,
        )
    return DataLoader(loader.dataset, sampler=sampler, **{name: getattr(loader, name) for name in _KEPT})


def check_equal_steps(loader: Any, accumulation_steps: int) -> None:
    """Make sure that all ranks take the same number of optimizer steps in an epoch (correctness 72).

    Raises:
        ConfigError: they do not, or it cannot be known; on all ranks.
    """
    if distributed.world_size() == 1:
        return
    try:
        batches: int | None = len(loader)
    except TypeError:
        batches = None
    every = distributed.gather(batches)
    if None in every:
        raise ConfigError(
            "train_loader",
            type(loader).__name__,
            "has no length, so that several ranks cannot know that they take the same number of steps; give it a "
            "__len__, the same on all ranks",
        )
    steps = [math.ceil(number / accumulation_steps) for number in every]
    if len(set(every)) > 1:
        listed = ", ".join(f"rank {rank}: {number}" for rank, number in enumerate(every))
        raise ConfigError(
            "train_loader",
            f"batches of {listed}",
            f"the ranks would take {min(steps)} to {max(steps)} steps and wait for each other for ever; give each as "
            "many batches, as a DistributedSampler does",
        )


def _knows_ranks(loader: DataLoader[Any]) -> bool:
    batch_sampler = loader.batch_sampler
    parts = (loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None), loader.dataset)
    return any(hasattr(part, name) for part in parts for name in _KNOWS_RANKS)

"""Sharding of loaders over ranks: a loader that knows nothing of ranks is split, or refused with what to do."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sized
from typing import Any, cast

from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)

from ununennium.data.chips.sharding import ShardSampler
from ununennium.errors import ConfigError
from ununennium.training import distributed
from ununennium.training.loading import samplers_of

_SAME = (
    "num_workers", "collate_fn", "pin_memory", "timeout", "worker_init_fn", "multiprocessing_context", "generator",
    "prefetch_factor", "persistent_workers", "in_order",
)  # fmt: skip


def knows_ranks(loader: Any) -> bool:
    """Tell whether a sampler of ``loader``, or its dataset, says whose part it is.

    It has ``rank`` and either ``num_replicas``, as torch's DistributedSampler, or ``world_size``, as ours.
    """
    parts = [*samplers_of(loader), getattr(loader, "dataset", None)]
    return any(hasattr(p, "rank") and (hasattr(p, "num_replicas") or hasattr(p, "world_size")) for p in parts)


def for_this_rank(loader: Any, name: str, *, training: bool, seed: int, rank: int, world_size: int) -> Any:
    """``loader``, or one like it that reads this rank's part alone.

    A ``DataLoader`` that knows nothing of ranks would have every rank read everything. It is made again, with a
    warning, over a ``DistributedSampler`` (training: equally many samples per rank, padded unless ``drop_last``) or a
    ``ShardSampler`` (validation: each sample once). Anything but a ``DataLoader`` is its giver's matter.

    Args:
        loader: any iterable of batches, or None.
        name: the Trainer's argument, for messages.
        training: whether it is trained on.
        seed: of the order of a shuffled training loader, the same on all ranks.
        rank: this process's.
        world_size: number of processes.

    Raises:
        ConfigError: it cannot be split without guessing.
    """
    if world_size == 1 or not isinstance(loader, DataLoader) or knows_ranks(loader):
        return loader
    kind = _what_cannot_be_split(loader)
    if kind is not None:
        raise ConfigError(
            name,
            kind,
            f"there are {world_size} ranks, and it does not say what each reads; give it a DistributedSampler, or a "
            "sampler or dataset with the attributes rank and world_size",
        )
    samples = len(cast(Sized, loader.dataset))
    sampler: Sampler[int]
    if training:
        shuffle = isinstance(loader.sampler, RandomSampler)
        sampler = DistributedSampler(loader.dataset, world_size, rank, shuffle, seed, loader.drop_last)
        how = f"a DistributedSampler(shuffle={shuffle}, seed={seed})"
    else:
        sampler, how = ShardSampler(samples, rank, world_size), "disjoint shards, nothing padded"
    if rank == 0:
        warnings.warn(
            f"{name} has no DistributedSampler, and there are {world_size} ranks: each reads its part by {how}, in "
            f"batches of {loader.batch_size}. Give the loader such a sampler to silence this.",
            stacklevel=3,
        )
    options = {option: getattr(loader, option) for option in _SAME}
    drop_last = loader.drop_last
    return DataLoader(loader.dataset, loader.batch_size, sampler=sampler, drop_last=drop_last, **options)


def check_equal_steps(loader: Any, accumulation_steps: int) -> None:
    """Refuse, on all ranks alike, what would leave one rank waiting for another's optimizer step (correctness 72).

    Ranks may differ in micro-batches, as long as they have equally many windows: a window costs one all-reduce.

    Raises:
        ConfigError: the ranks have different numbers of optimizer steps, or a loader has no length.
    """
    if distributed.world_size() == 1:
        return
    try:
        mine: int | None = len(loader)
    except TypeError:
        mine = None
    lengths = distributed.gather(mine)
    known = [length for length in lengths if length is not None]
    if len(known) < len(lengths):
        without = [rank for rank, length in enumerate(lengths) if length is None]
        raise ConfigError(
            "train_loader",
            f"no len() on ranks {without}",
            "with several ranks give a loader with __len__, equal on all: a rank with fewer steps would hang the rest",
        )
    steps = [math.ceil(length / accumulation_steps) for length in known]
    if len(set(steps)) > 1:
        each = ", ".join(
            f"rank {rank}: {length} batches, {count} optimizer steps"
            for rank, (length, count) in enumerate(zip(known, steps, strict=True))
        )
        raise ConfigError("train_loader", each, "give every rank equally many steps, as a DistributedSampler does")


def check_not_empty(loader: Any, name: str) -> None:
    """Refuse a loader without a batch on any rank, where its length is known.

    Raises:
        ConfigError: it is empty.
    """
    if loader is None:
        return
    try:
        mine: int | None = len(loader)
    except (TypeError, NotImplementedError):
        mine = None
    if not any(length is None or length > 0 for length in distributed.gather(mine)):
        raise ConfigError(name, "0 batches", "give it data (drop_last leaves out a batch that is not full), or omit it")


def _what_cannot_be_split(loader: DataLoader[Any]) -> str | None:
    """Obstacle in ``loader`` to another sampler; None if there is none."""
    if type(loader) is not DataLoader:
        return type(loader).__name__
    if isinstance(loader.dataset, IterableDataset):
        return f"a DataLoader of the IterableDataset {type(loader.dataset).__name__}"
    if loader.batch_sampler is not None and (
        loader.batch_size is None or type(loader.batch_sampler) is not BatchSampler
    ):
        return f"a DataLoader with the batch_sampler {type(loader.batch_sampler).__name__}"
    sampler = loader.sampler
    if type(sampler) is SequentialSampler:
        return None
    if type(sampler) is RandomSampler:
        whole = not sampler.replacement and sampler.num_samples == len(cast(Sized, loader.dataset))
        return None if whole else "a DataLoader with a RandomSampler of its own number of samples"
    return f"a DataLoader with the sampler {type(sampler).__name__}"

"""The loaders of a run."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader

from ununennium.config import DataConfig
from ununennium.data.chips.counts import chips_that_cover
from ununennium.data.chips.dataset import Batch, TrainingChips, as_batch
from ununennium.data.chips.grid_chips import GridChips
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.memory import DecodedCache
from ununennium.data.chips.sampler import BucketedRandomSampler
from ununennium.data.chips.sharding import ShardSampler
from ununennium.data.chips.statistics import BandStatistics
from ununennium.data.chips.workers import obey_parent, start_worker_server
from ununennium.data.splits.splits import VALIDATION

Batches = DataLoader[Batch]


class Loaders(NamedTuple):
    """Batches are (image float32 (B, bands, S, S), target int64 (B, S, S)).

    With ``data.augment.where: device`` they are mappings of what ``DeviceTransform`` takes.

    Attributes:
        train: random chips.
        validation: the validation fold, each pixel once over all ranks; None without such a fold.
    """

    train: Batches
    validation: Batches | None


def build_loaders(
    config: DataConfig,
    index: ChipIndex,
    statistics: BandStatistics,
    *,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
) -> Loaders:
    """Loaders over an index, as configured.

    Args:
        config: the data section of a run.
        index: of the same data.
        statistics: of its training fold.
        seed: of order, places and augmentation.
        rank: this process's.
        world_size: number of processes.

    Raises:
        DataError: nothing to train on.
        ConfigError: fewer chips than ranks.
    """
    cache = DecodedCache(config.cache_mb << 20)
    chips = TrainingChips(
        index,
        statistics,
        chip_size=config.chip_size,
        num_chips=config.chips_per_epoch
        or chips_that_cover(sum(index.labelled["train"]), config.chip_size, multiple=config.batch_size * world_size),
        seed=seed,
        class_balance=config.class_balance,
        augmentation=config.augment,
        cache=cache,
        raw=config.augment.where == "device",
    )
    sampler = BucketedRandomSampler(
        chips.chip_regions,
        len(chips),
        lanes=chips.regions.lanes,
        seed=seed,
        rank=rank,
        world_size=world_size,
    )
    options: dict[str, Any] = {
        "num_workers": config.num_workers,
        "collate_fn": as_batch,
        "pin_memory": torch.cuda.is_available(),
        # Loaders draw a seed for their workers, by default from the generator that training draws from (dropout).
        "generator": torch.Generator(),
    }
    if config.num_workers:
        start_worker_server()
        options |= {
            "persistent_workers": True,
            "multiprocessing_context": "forkserver",
            "worker_init_fn": obey_parent,
        }
    train: Batches = DataLoader(chips, batch_size=config.batch_size, sampler=sampler, **options)
    validation: Batches | None = None
    if sum(index.labelled["validation"]):
        grid = GridChips(index, statistics, chip_size=config.chip_size, fold=VALIDATION, cache=cache, raw=chips.raw)
        share = ShardSampler(len(grid), rank, world_size)
        validation = DataLoader(grid, batch_size=config.batch_size, sampler=share, **options)
    return Loaders(train, validation)

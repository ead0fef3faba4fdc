"""Shares of a dataset that ranks read, each sample once."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler


class ShardSampler(Sampler[int]):
    """One rank's part of a dataset, in order: over all ranks each sample once, nothing padded.

    Parts are contiguous, and differ by one sample at most; with fewer samples than ranks some are empty.

    Args:
        num_samples: in the dataset.
        rank: this process's.
        world_size: number of processes.
    """

    def __init__(self, num_samples: int, rank: int, world_size: int) -> None:
        self.rank = rank
        self.world_size = world_size
        self._indices = range(num_samples * rank // world_size, num_samples * (rank + 1) // world_size)

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self._indices)

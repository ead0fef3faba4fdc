"""The order of training chips: a function of (seed, epoch) alone, so that a resume needs no memory of it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

from ununennium.errors import ConfigError


class RandomChipSampler(Sampler[tuple[int, int]]):
    """Yields ``(epoch, chip)`` pairs: each rank every world_size-th of a permutation of the epoch's chips.

    Every rank has equally many; what is left over where the chips do not divide is left out of that epoch.

    Args:
        num_chips: chips per epoch, over all ranks.
        seed: of the order.
        rank: this process's.
        world_size: number of processes.

    Raises:
        ConfigError: fewer chips than ranks.
    """

    def __init__(self, num_chips: int, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if num_chips < world_size:
            raise ConfigError("data.chips_per_epoch", num_chips, f"there are {world_size} ranks; each needs a chip")
        self.num_chips = num_chips
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self._epoch = 0
        self._start = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 0."""
        self._epoch = epoch

    def set_start(self, num_samples: int) -> None:
        """Leave out the first ``num_samples`` of this rank: they were trained on before a resume."""
        self._start = num_samples

    def __len__(self) -> int:
        return self.num_chips // self.world_size

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng([self.seed, self._epoch]).permutation(self.num_chips)
        mine = order[: len(self) * self.world_size][self.rank :: self.world_size]
        for chip in mine[self._start :]:
            yield self._epoch, int(chip)

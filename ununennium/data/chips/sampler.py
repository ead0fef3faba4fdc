"""The order of training chips: a function of (seed, epoch) alone, so that a resume needs no memory of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from torch.utils.data import Sampler

from ununennium.data.chips.randomness import generator
from ununennium.data.chips.regions import IntArray, bucketed_order
from ununennium.errors import ConfigError


class BucketedRandomSampler(Sampler[tuple[int, int]]):
    """Yields ``(epoch, chip)`` pairs: each rank every world_size-th of a random order of the epoch's chips.

    The order goes through the regions of an epoch ``lanes`` at a time (``ununennium.data.chips.regions``). Every rank
    has equally many chips; what is left over where they do not divide is left out of that epoch. With as many lanes as
    ranks, or a multiple, no two ranks read the same region at the same time.

    Args:
        regions: epoch -> int64 (N,), the region of each of the N chips of every epoch.
        num_chips: N, over all ranks.
        lanes: regions in use at the same time; 0 for an order that is random altogether.
        seed: of the order.
        rank: this process's.
        world_size: number of processes.

    Raises:
        ConfigError: fewer chips than ranks.
    """

    def __init__(
        self,
        regions: Callable[[int], IntArray],
        num_chips: int,
        *,
        lanes: int = 0,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if num_chips < world_size:
            raise ConfigError("data.chips_per_epoch", num_chips, f"there are {world_size} ranks; each needs a chip")
        self.regions = regions
        self.num_chips = num_chips
        self.lanes = lanes
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
        rng = generator("order", self.seed, self._epoch)
        order = bucketed_order(self.regions(self._epoch), self.lanes, rng)
        mine = order[: len(self) * self.world_size][self.rank :: self.world_size]
        for chip in mine[self._start :]:
            yield self._epoch, int(chip)

"""Numbers of chips and steps of an epoch; needs no torch, so that a plan can show them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ununennium.config import RunConfig


def chips_that_cover(num_pixels: int, chip_size: int, multiple: int) -> int:
    """A multiple, above 0, about as many chips as cover the pixels once.

    Args:
        num_pixels: labelled pixels of the training fold.
        chip_size: side of a chip.
        multiple: chips of one batch of all ranks.
    """
    return max(1, math.ceil(num_pixels / chip_size**2 / multiple)) * multiple


@dataclass(frozen=True)
class EpochCounts:
    """Counts of a run's epochs.

    Attributes:
        chips: of an epoch, of all ranks.
        steps: optimizer steps of an epoch.
        total_steps: optimizer steps of all epochs, if nothing stops the run.
    """

    chips: int
    steps: int
    total_steps: int

    @classmethod
    def of(cls, config: RunConfig, num_pixels: int) -> EpochCounts:
        """Counts of the run that ``config`` describes, whose training fold has ``num_pixels`` labelled pixels."""
        data, world_size = config.data, config.launcher.nproc_per_node
        chips = data.chips_per_epoch or chips_that_cover(num_pixels, data.chip_size, data.batch_size * world_size)
        batches = math.ceil(chips // world_size / data.batch_size)
        steps = math.ceil(batches / config.trainer.accumulation_steps)
        return cls(chips, steps, steps * config.trainer.epochs)

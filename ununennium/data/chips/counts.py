"""Numbers of chips and steps of an epoch; needs no torch, so that a plan can show them."""

from __future__ import annotations

import math
from dataclasses import dataclass


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
    def of(
        cls,
        num_pixels: int,
        *,
        chip_size: int,
        batch_size: int,
        chips_per_epoch: int | None,
        world_size: int,
        accumulation_steps: int,
        epochs: int,
    ) -> EpochCounts:
        """Counts of a run whose training fold has ``num_pixels`` labelled pixels; the others are its settings."""
        chips = chips_per_epoch or chips_that_cover(num_pixels, chip_size, batch_size * world_size)
        batches = math.ceil(chips // world_size / batch_size)
        steps = math.ceil(batches / accumulation_steps)
        return cls(chips, steps, steps * epochs)

"""Temperature of probabilities (Guo et al. 2017), applied once tiles and views have been put together.

Probabilities are pooled first and tempered then (Rahaman and Thiery 2021): p^(1/T), divided by its sum, which is the
softmax of log p / T, and of logits / T where nothing was averaged. The temperature is fitted, judged and mapped with
this one function, and the most probable class stays the most probable, so class maps do not depend on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ununennium.checkpoints.contract import ModelContract

TINY = torch.finfo(torch.float32).tiny
"""Probabilities below this, which float32 does not hold, count as this."""


def tempered(probabilities: Tensor, temperature: float) -> Tensor:
    """Probabilities (K, ...), summing to 1 over classes, at a temperature; all 0 (no data) stays 0.

    Args:
        probabilities: float32, unchanged by this.
        temperature: above 0; 1 gives ``probabilities`` themselves.
    """
    if temperature == 1.0:
        return probabilities
    highest, winner = probabilities.max(0, keepdim=True)
    found = probabilities.clamp(min=TINY).log_().div_(temperature).softmax(0)
    found *= highest > 0
    # Probabilities that differ by little may become equal: the one that was the largest stays so, by the last bit.
    top, first = found.max(0, keepdim=True)
    tied = first != winner
    if tied.any():
        raised = torch.nextafter(top, torch.ones_like(top))
        found.scatter_(0, winner, torch.where(tied, raised, found.gather(0, winner)))
    return found


def temperature_of(contract: ModelContract) -> float:
    """The temperature that a contract holds; 1 if it is of an earlier version, or was not fitted."""
    return float(contract.temperature or 1.0)

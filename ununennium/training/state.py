"""State of a run: counters, reason of the stop, and the random state that makes it repeatable."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any

import numpy as np
import torch
from torch import Tensor


class StopReason(StrEnum):
    """Reason for which ``fit`` returned (or, for ``failed``, raised)."""

    COMPLETED = "completed"
    EARLY_STOPPED = "early_stopped"
    PREEMPTED = "preempted"
    TIMED_OUT = "timed_out"
    FAILED = "failed"


@dataclass
class TrainerState:
    """Position and counters; all of it is in a checkpoint.

    Attributes:
        epoch: completed epochs.
        batches_done: micro-batches consumed in the running epoch; 0 at an epoch boundary.
        global_step: optimizer steps that ran.
        skipped_steps: optimizer steps that were skipped (non-finite gradient, or nothing valid in the window).
        stop_reason: why the last ``fit`` ended; None before and while it runs.
        stop_message: the same in words.
        running: sums of the running epoch, so that a mid-epoch resume reports the whole epoch's mean.
    """

    epoch: int = 0
    batches_done: int = 0
    global_step: int = 0
    skipped_steps: int = 0
    stop_reason: StopReason | None = None
    stop_message: str = ""
    running: dict[str, list[float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values only."""
        state = asdict(self)
        state["stop_reason"] = None if self.stop_reason is None else self.stop_reason.value
        return state

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> TrainerState:
        """The inverse of ``to_dict``; a stop reason is not taken over, since a resumed run has not stopped."""
        return cls(**{**state, "stop_reason": None, "stop_message": ""})


class WeightedSum:
    """Running sum of values and weights in float64: on the host for CPU training, else on the device, where adding
    never waits for the device."""

    __slots__ = ("_device", "total", "weight")

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.total: float | Tensor
        self.weight: float | Tensor
        self.load([0.0, 0.0])

    def add(self, total: float | Tensor, weight: float | Tensor) -> None:
        """Add a weighted value (value times weight) and its weight."""
        self.total += total
        self.weight += weight

    def sums(self) -> list[float]:
        """``[total, weight]`` as Python floats (waits for the device)."""
        return [float(self.total), float(self.weight)]

    def load(self, sums: list[float]) -> None:
        """Take over ``sums()``."""
        if self._device.type == "cpu":
            self.total, self.weight = sums
        else:
            self.total = torch.tensor(sums[0], dtype=torch.float64, device=self._device)
            self.weight = torch.tensor(sums[1], dtype=torch.float64, device=self._device)


def mean_of(sums: list[float]) -> float:
    """Mean from ``[total, weight]``; NaN where nothing was weighed."""
    total, weight = sums
    return total / weight if weight else float("nan")


def random_state() -> dict[str, Any]:
    """The states of Python's, NumPy's, torch's and CUDA's generators, as values ``weights_only`` loading accepts."""
    name, keys, position, has_gauss, cached = np.random.get_state()  # noqa: NPY002
    version, internal, gauss = random.getstate()
    return {
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Take over ``random_state()``."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])

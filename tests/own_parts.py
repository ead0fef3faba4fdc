"""Parts that a configuration of a test names by import path."""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ununennium.training import Callback


class Alarm(Callback):
    """Counts epochs whose loss is above a limit."""

    def __init__(self, limit: float) -> None:
        self.limit = limit
        self.alarms = 0

    def on_epoch_end(self, trainer: Any) -> None:
        self.alarms += trainer.metrics["train_loss"] > self.limit


class Pause(Callback):
    """Makes training slow: waits after each optimizer step.

    Args:
        seconds: length of the wait.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def on_step_end(self, trainer: Any) -> None:
        time.sleep(self.seconds)


class Accuracy:
    """Share of labelled pixels that are right, in the form of a metric of torchmetrics."""

    def __init__(self, ignore_index: int) -> None:
        self.ignore_index = ignore_index
        self.reset()

    def reset(self) -> None:
        self.right = self.number = 0

    def update(self, prediction: Tensor, target: Tensor) -> None:
        labelled = target != self.ignore_index
        self.right += int((prediction.argmax(1) == target)[labelled].sum())
        self.number += int(labelled.sum())

    def compute(self) -> Tensor:
        return torch.tensor(self.right / self.number if self.number else math.nan)


class Darken:
    """Lowers every pixel by an amount, and by a little that the chip's generator draws."""

    def __init__(self, amount: float) -> None:
        self.amount = amount

    def __call__(self, image: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> tuple[Any, Any]:
        return image - self.amount - 0.01 * rng.random(), target


class Cropped:
    """Returns arrays of other shapes, which is wrong."""

    def __call__(self, image: np.ndarray, target: np.ndarray, rng: np.random.Generator) -> tuple[Any, Any]:
        return image[:, 1:], target[1:]

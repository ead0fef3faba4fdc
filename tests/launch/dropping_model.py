"""Models that draw random numbers, or change, as they train; and models that do not work."""

from __future__ import annotations

import random
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


class Dropping(nn.Module):
    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        first = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.layers = nn.Sequential(first, nn.Dropout(0.5), nn.ReLU(), nn.Conv2d(8, num_classes, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)  # type: ignore[no-any-return]


class Changing(nn.Module):
    """Changes with every batch: running statistics, a counter, and draws from every generator there is."""

    def __init__(self, in_channels: int, num_classes: int) -> None:
        super().__init__()
        first = nn.Conv2d(in_channels, 8, 3, padding=1)
        self.layers = nn.Sequential(first, nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Conv2d(8, num_classes, 1))
        self.calls = 0
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, image: Tensor) -> Tensor:
        self.calls += 1
        self.seen += 1.0
        noise = random.random() + np.random.random() + float(torch.rand(()))  # noqa: NPY002
        return self.layers(image) * (1.0 + 0.01 * noise)  # type: ignore[no-any-return]


class Sleeping(nn.Module):
    """Takes its time for each batch of training."""

    def __init__(self, in_channels: int, num_classes: int, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.layer = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        if self.training:
            time.sleep(self.seconds)
        return self.layer(image)  # type: ignore[no-any-return]


class Failing(nn.Module):
    """Fails, or gives something else than logits, as ``how`` says."""

    def __init__(self, in_channels: int, num_classes: int, how: str) -> None:
        super().__init__()
        self.how = how
        self.layer = nn.Conv2d(in_channels, num_classes, 1)

    def forward(self, image: Tensor) -> Any:
        output = self.layer(image)
        if self.how == "raises":
            raise KeyError("no such key")
        if self.how == "raises in validation" and not self.training:
            raise KeyError("no such key")
        return {"half": output[..., ::2, ::2], "list": [output]}.get(self.how, output)


class ThreeArguments(nn.Module):
    """A loss with a parameter of its own that fails when it is called."""

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return (output - target).mean()


def unsteady(optimizer: Any, share: Any) -> Any:
    """A scheduler that fails when it advances."""
    return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0 if epoch == 0 else share / 2)

"""Networks with batch normalisation whose statistics are those of the rank's batch, of all ranks' batches, or none."""

from __future__ import annotations

import torch
import torch.distributed
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce


class SynchronisedNorm(nn.BatchNorm2d):
    """Batch normalisation over the batches of all ranks, on any device: ``torch.nn.SyncBatchNorm`` needs a GPU."""

    def forward(self, image: Tensor) -> Tensor:
        if not self.training:
            return super().forward(image)
        axes = (0, 2, 3)
        number = image.new_tensor([float(image.numel() // image.shape[1])])
        sums = torch.cat([image.sum(axes), image.square().sum(axes), number])
        if torch.distributed.is_initialized():
            sums = all_reduce(sums)
        total, squares, count = sums[: self.num_features], sums[self.num_features : -1], sums[-1]
        mean = total / count
        variance = squares / count - mean.square()
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        shape = (1, -1, 1, 1)
        normal = (image - mean.view(shape)) / (variance + self.eps).sqrt().view(shape)
        return normal * self.weight.view(shape) + self.bias.view(shape)


class Network(nn.Module):
    """Two convolutions with a normalisation between them."""

    def __init__(self, in_channels: int, num_classes: int, norm: str) -> None:
        super().__init__()
        norms = {"none": nn.Identity(), "rank": nn.BatchNorm2d(8), "all ranks": SynchronisedNorm(8)}
        # A bias before a normalisation has no gradient but rounding, which Adam scales up to whole steps.
        first = nn.Conv2d(in_channels, 8, 3, padding=1, bias=False)
        self.layers = nn.Sequential(first, norms[norm], nn.ReLU(), nn.Conv2d(8, num_classes, 3, padding=1))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)  # type: ignore[no-any-return]

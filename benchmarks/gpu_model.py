"""A U-Net on a ResNet-34, in plain PyTorch, for the GPU's measurement: it needs no network and no model library.

The encoder is He et al. 2016 (arXiv:1512.03385), table 1, column "34-layer"; the decoder is that of Ronneberger et al.
2015 (arXiv:1505.04597) with nearest-neighbour upsampling, with the channels that segmentation libraries use.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

WIDTH = 64
ENCODER = ((1, 3), (2, 4), (4, 6), (8, 3))  # of each stage: channels, over the width, and blocks


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    """A convolution without bias and its normalisation."""
    return [nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False), nn.BatchNorm2d(outputs)]


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a short cut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *conv_norm(inputs, outputs, 3, stride), nn.ReLU(inplace=True), *conv_norm(outputs, outputs, 3)
        )
        is_same = stride == 1 and inputs == outputs
        self.short_cut = nn.Identity() if is_same else nn.Sequential(*conv_norm(inputs, outputs, 1, stride))

    def forward(self, features: Tensor) -> Tensor:
        return torch.relu(self.body(features) + self.short_cut(features))


class ResNetUNet(nn.Module):
    """Logits of every pixel: ``(batch, bands, height, width)`` to ``(batch, classes, height, width)``, sides in 32s.

    Args:
        bands: channels of the images.
        classes: channels of the logits.
        width: channels of the first stage, a multiple of 4; 64 in a ResNet-34.
    """

    def __init__(self, bands: int, classes: int, width: int = WIDTH) -> None:
        super().__init__()
        self.stem = nn.Sequential(*conv_norm(bands, width, 7, stride=2), nn.ReLU(inplace=True))
        stages: list[nn.Module] = []
        inputs = width
        for number, (times, blocks) in enumerate(ENCODER):
            channels = width * times
            first = Block(inputs, channels, stride=1 if number == 0 else 2)
            stages.append(nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(blocks - 1))))
            inputs = channels
        self.stages = nn.ModuleList(stages)
        skips = [4 * width, 2 * width, width, width, 0]
        decoded = [4 * width, 2 * width, width, width // 2, width // 4]
        self.decoder = nn.ModuleList(
            nn.Sequential(
                *conv_norm(before + skip, after, 3), nn.ReLU(inplace=True),
                *conv_norm(after, after, 3), nn.ReLU(inplace=True),
            )
            for (before, after), skip in zip(pairwise((inputs, *decoded)), skips, strict=True)
        )  # fmt: skip
        self.head = nn.Conv2d(decoded[-1], classes, 3, padding=1)

    def forward(self, image: Tensor) -> Tensor:
        features = self.stem(image)
        skips = [features]
        features = nn.functional.max_pool2d(features, 3, stride=2, padding=1)
        for stage in self.stages:
            features = stage(features)
            skips.append(features)
        skips.pop()
        for block in self.decoder:
            features = nn.functional.interpolate(features, scale_factor=2.0, mode="nearest")
            features = block(torch.cat((features, skips.pop()), dim=1) if skips else features)
        logits: Tensor = self.head(features)
        return logits

"""Normalising and augmenting whole batches where the model computes.

The loader then hands over pixels as the file has them, and labels in a byte: a third to a quarter of what float32
images and int64 targets take of memory bandwidth, of the queues between processes, and of the way to the device.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ununennium.config import AugmentConfig
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.statistics import BandStatistics


class DeviceTransform:
    """A Trainer's ``batch_transform``: normalises every batch, and augments those of training.

    What is decided is a function of (seed, epoch, number of the batch, rank) alone, so that a resume goes on as if it
    had not been; the noise itself is drawn on the device, by a generator with that seed.

    Args:
        index: of the data: dates, layout, and what unlabelled targets are.
        statistics: for the normalisation.
        config: augmentations to apply.
        seed: of the run.
        rank: this process's.
    """

    def __init__(
        self, index: ChipIndex, statistics: BandStatistics, config: AugmentConfig, *, seed: int, rank: int = 0
    ) -> None:
        self.config = config
        self.seed = seed
        self.rank = rank
        self._num_dates = index.num_dates
        self._is_stack = index.layout == "stack"
        self._fill = index.fill
        self._target_dtype = getattr(torch, index.task.target_dtype)
        self._mean, self._std, self._log_floor = (
            torch.tensor(values * index.num_dates, dtype=torch.float32)[:, None, None]
            for values in (statistics.mean, statistics.std, statistics.log_floor)
        )

    def __call__(
        self, image: Tensor, target: Tensor, valid: Tensor | None, *, training: bool, epoch: int, batch: int
    ) -> tuple[Tensor, Tensor]:
        """The batch as the model takes it.

        Args:
            image: (B, dates x bands, size, size) in the file's dtype.
            target: (B, size, size), any dtype.
            valid: bool (B, size, size), valid pixels; None where all are.
            training: whether to augment.
            epoch: counted from 0.
            batch: number of the batch in the epoch, from 0.

        Returns:
            Image, float32, as ``data.layout`` says, 0 where invalid; and target, int64 or float32.
        """
        if self._mean.device != image.device:
            self._mean, self._std = self._mean.to(image.device), self._std.to(image.device)
            self._log_floor = self._log_floor.to(image.device)
        image = image.to(torch.float32, copy=True)
        if len(self._log_floor):
            image.clamp_(min=self._log_floor).log_()
        image.sub_(self._mean).div_(self._std)
        target = target.to(self._target_dtype)
        if valid is not None:
            image = image.masked_fill_(~valid[:, None], 0.0)
        if training:
            image, target = self._augment(image, target, valid, epoch, batch)
        if self._is_stack:
            image = image.reshape(len(image), self._num_dates, -1, *image.shape[2:])
        return image, target

    def _augment(
        self, image: Tensor, target: Tensor, valid: Tensor | None, epoch: int, batch: int
    ) -> tuple[Tensor, Tensor]:
        config, count = self.config, len(image)
        rng = np.random.default_rng([self.seed, epoch, batch, self.rank])
        turns = rng.integers(4, size=count) * config.quarter_turns
        mirrored = (rng.random((2, count)) < 0.5) * config.flips
        factors = (1.0 + config.scale) ** rng.uniform(-1.0, 1.0, count)
        contrast = 1.0 + config.contrast * rng.standard_normal(count)
        brightness = config.brightness * rng.standard_normal(count)
        dropped = rng.random((count, image.shape[1] // self._num_dates))
        noise_seed = int(rng.integers(2**63))
        if config.quarter_turns or config.flips:
            image, target, valid = _turn(image, target, valid, turns, mirrored)
        if config.scale:
            image, target, valid = _zoom(image, target, valid, factors, self._fill)
        if config.contrast or config.brightness or config.noise:
            image = image * _column(contrast, image) + _column(brightness, image)
            if config.noise:
                noise = torch.Generator(image.device).manual_seed(noise_seed)
                image += config.noise * torch.randn(image.shape, generator=noise, device=image.device)
            if valid is not None:
                image.masked_fill_(~valid[:, None], 0.0)
        if config.band_dropout:
            keep = dropped >= config.band_dropout
            keep[np.arange(count), dropped.argmax(1)] = True
            image = image * torch.from_numpy(np.tile(keep, self._num_dates)).to(image)[:, :, None, None]
        return image, target


def _column(values: np.ndarray, like: Tensor) -> Tensor:
    return torch.from_numpy(values).to(like)[:, None, None, None]


def _turn(
    image: Tensor, target: Tensor, valid: Tensor | None, turns: np.ndarray, mirrored: np.ndarray
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Turn by quarters, then mirror up-down and left-right, each chip as its own numbers say."""
    tensors = [image, target, *([] if valid is None else [valid])]
    turned = [torch.empty_like(tensor) for tensor in tensors]
    kinds = turns * 4 + mirrored[0] * 2 + mirrored[1]
    for kind in np.unique(kinds):
        chosen = torch.from_numpy(np.flatnonzero(kinds == kind)).to(image.device)
        axes = [axis for axis, bit in ((-2, kind & 2), (-1, kind & 1)) if bit]
        for tensor, out in zip(tensors, turned, strict=True):
            out[chosen] = torch.rot90(tensor[chosen], int(kind // 4), (-2, -1)).flip(axes)
    return turned[0], turned[1], None if valid is None else turned[2]


def _zoom(
    image: Tensor, target: Tensor, valid: Tensor | None, factors: np.ndarray, fill: float
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Show each chip larger or smaller about its centre: bilinear pixels, nearest labels and mask.

    Invalid pixels do not bleed: the weights of the valid ones are scaled up to 1.
    """
    size, device = image.shape[-1], image.device
    centre = (size - 1) / 2
    position = (torch.arange(size, dtype=torch.float64) - centre) / torch.from_numpy(factors)[:, None] + centre
    nearest = torch.floor(position + 0.5).long()
    inside = ((nearest >= 0) & (nearest < size)).to(device)
    nearest = nearest.clamp(0, size - 1).to(device)
    there = inside[:, :, None] & inside[:, None, :]
    rows = torch.arange(len(image), device=device)[:, None, None], nearest[:, :, None], nearest[:, None, :]
    along = (position / centre - 1.0).to(image) if size > 1 else torch.zeros_like(position).to(image)
    grid = torch.stack((along[:, None, :].expand(-1, size, -1), along[:, :, None].expand(-1, -1, size)), -1)
    pixels = image if valid is None else torch.cat((image, valid[:, None].to(image)), 1)
    pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=True)
    if valid is not None:
        pixels = pixels[:, :-1] / pixels[:, -1:].clamp(min=1e-6)
        there &= valid[rows]
    zoomed = target[rows].masked_fill(~there, fill)
    return pixels.masked_fill(~there[:, None], 0.0), zoomed, there

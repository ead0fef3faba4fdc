"""Class probabilities, or values, of a region of any size, from overlapping tiles, in strips of rows.

Tiles lie on a regular grid that starts half an overlap outside the region, so that the region's edge pixels have
context where the scene goes on. Along each axis a tile's weight rises and falls as a raised cosine (Hann) over the
overlap; the weights of all tiles are divided by their sum, which is known beforehand because the grid is a product of
its axes. Rows that no later tile touches are handed out at once: memory is that of one row of tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ununennium.errors import ConfigError, DataError
from ununennium.moved import former_arguments
from ununennium.prediction.forward import Forward, Output, cpu_batch_size, ready
from ununennium.prediction.temperature import tempered
from ununennium.prediction.tiles import check_sizes, num_strips, overlap_of, overlap_with, place_tiles

__all__ = ["Output", "ReadWindow", "Strip", "predict_strips"]

_ROWS = 64

ReadWindow = Callable[[int, int, int, int], tuple[NDArray[np.float32], NDArray[np.bool_]]]
"""``(row, col, height, width) -> (image (C, height, width), valid (height, width))``, normalised, invalid pixels 0;
the image of a stack of dates may be (T, C, height, width).

Rows and columns count from the region's corner, and windows reach outside it; what does not exist there is invalid.
A tile whose mask is all False is not predicted.
"""


class _Tiles(NamedTuple):
    """Tiles of one row of them, to be predicted together.

    Attributes:
        places: offset of each from the left.
        images: float32 (N, C, tile, tile); None if there is nothing to predict.
        valid: bool (tile, width), of the whole row, with its last tiles; None before.
    """

    places: list[int]
    images: Tensor | None
    valid: NDArray[np.bool_] | None


class Strip(NamedTuple):
    """Predicted rows, over the region's whole width.

    Attributes:
        row: first row, counted from the region's top.
        probabilities: float32 (K, rows, width), summing to 1 over classes where ``valid``, and 0 elsewhere; or what
            else the model's output is to be made into.
        valid: bool (rows, width), the mask that was read.
    """

    row: int
    probabilities: NDArray[np.float32]
    valid: NDArray[np.bool_]


@former_arguments(bands="strips")
def predict_strips(
    model: nn.Module,
    read: ReadWindow,
    height: int,
    width: int,
    *,
    num_classes: int,
    tile: int = 256,
    overlap: int | None = None,
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    tta: bool = False,
    output: Output = "probabilities",
    temperature: float = 1.0,
    channels_last: bool | None = None,
    compiled: bool = False,
    strips: tuple[int, int] | None = None,
) -> Iterator[Strip]:
    """Predict a region from top to bottom.

    Args:
        model: from (N, C, tile, tile) to logits (N, ``num_classes``, tile, tile). It is put in evaluation mode while
            the strips are made, and each submodule is put back as it was.
        read: gives the normalised image and its mask.
        height: rows of the region.
        width: columns of the region.
        num_classes: classes K.
        tile: side of a tile in pixels.
        overlap: pixels that neighbouring tiles share, at most half a tile; a quarter if not given, 0 for none.
        batch_size: tiles per forward pass, halved where memory does not suffice; if not given, ``cpu_batch_size`` on a
            CPU, and 4 elsewhere.
        device: device of the model, on which the strips are put together.
        autocast: dtype of the forward pass, such as ``torch.bfloat16``; float32 if not given.
        tta: average over the eight flips and turns of each tile.
        output: conversion of the model's output, before tiles are blended.
        temperature: of the probabilities, once views and tiles have been put together; the most probable class of a
            pixel does not depend on it. Other outputs have none.
        channels_last: memory layout of tiles and weights; if not given, that of a CPU, where convolutions are faster
            with it.
        compiled: the model is compiled: every batch is filled up to one size, so that it is compiled once.
        strips: only these of the region's strips (``tiles.num_strips``): the first, and the one after the last. Each
            is, bit for bit, what it is among all; the row of tiles above the first is predicted once more for that.

    Yields:
        The rows in order, each exactly once.

    Raises:
        ConfigError: sizes that cannot work.
        DataError: the model's output does not have ``num_classes`` channels and the tile's size, or is NaN.
    """
    overlap, on_cpu = overlap_of(tile, overlap), torch.device(device).type == "cpu"
    batch_size = (cpu_batch_size(tile) if on_cpu else 4) if batch_size is None else batch_size
    channels_last = on_cpu if channels_last is None else channels_last
    check_sizes(height=height, width=width, num_classes=num_classes, tile=tile, overlap=overlap, batch_size=batch_size)
    first, last = _chosen(strips, num_strips(height, tile, overlap))
    stride = tile - overlap
    down, across = place_tiles(height, tile, overlap), place_tiles(width, tile, overlap)
    forward = Forward(
        model, num_classes, autocast=autocast, tta=tta, output=output,
        channels_last=channels_last, pad_to=batch_size if compiled else None,
    )  # fmt: skip
    temperature = temperature if output == "probabilities" else 1.0
    row_shares = down.shares.to(device)
    sums = torch.zeros(num_classes, tile, width, device=device)
    number = max(first - 1, 0)  # the row of tiles above hands its half of the pixels that both see down to the first
    batches = _batches(read, down.starts[number:last], across.starts, tile, batch_size, width)
    with ready(model, channels_last=channels_last), ThreadPoolExecutor(1, "read-ahead") as reading:
        for positions, images, valid in _ahead(reading, batches):
            if images is not None:
                for position, predicted in zip(positions, forward(images.to(device)), strict=True):
                    inside, part = overlap_with(width, across.starts[position], tile)
                    share = row_shares[number][:, None] * across.shares[position, part].to(device)
                    sums[:, :, inside].addcmul_(predicted[:, :, part], share)
                del images, predicted  # not held while the next batch takes the most memory
            if valid is None:
                continue
            if number >= first:
                top = down.starts[number]
                yield _finished(top, height if top == down.starts[-1] else top + stride, sums, valid, temperature)
            sums[:, :overlap], sums[:, overlap:] = sums[:, stride:], 0.0
            number += 1


def _chosen(strips: tuple[int, int] | None, count: int) -> tuple[int, int]:
    first, last = (0, count) if strips is None else strips
    if not 0 <= first < last <= count:
        raise ConfigError("strips", strips, f"give the first, and the one after the last, of {count}")
    return first, last


def _finished(top: int, stop: int, sums: Tensor, valid: NDArray[np.bool_], temperature: float) -> Strip:
    """The rows from ``top`` to ``stop`` that lie in the region: views and tiles are put together, and tempered now."""
    rows = slice(max(-top, 0), stop - top)
    blended = sums[:, rows]
    probabilities = torch.empty(blended.shape)
    for first in range(0, blended.shape[1], _ROWS):  # few at a time, for the memory that tempering takes besides
        part = slice(first, first + _ROWS)
        probabilities[:, part] = tempered(blended[:, part], temperature)
    strip = Strip(top + rows.start, probabilities.numpy(), valid[rows])
    strip.probabilities[:, ~strip.valid] = 0.0
    if not np.isfinite(strip.probabilities).all():
        raise DataError(
            f"the model gives NaN for rows {strip.row} to {strip.row + len(strip.valid) - 1} of the region; its "
            "weights or its precision cannot be used"
        )
    return strip


def _ahead(reading: ThreadPoolExecutor, batches: Iterator[_Tiles]) -> Iterator[_Tiles]:
    """``batches``, each read in a thread while the one before it is predicted, and its strip is used."""
    upcoming = reading.submit(next, batches, None)
    while (batch := upcoming.result()) is not None:
        upcoming = reading.submit(next, batches, None)
        yield batch


def _batches(
    read: ReadWindow, tops: Sequence[int], starts: Sequence[int], tile: int, batch_size: int, width: int
) -> Iterator[_Tiles]:
    """Read rows of tiles, of which those are kept that have something to predict."""
    for top in tops:
        valid = np.zeros((tile, width), dtype=bool)
        positions: list[int] = []
        images: list[Tensor] = []
        for position, left in enumerate(starts):
            if len(images) == batch_size:
                yield _Tiles(positions, torch.stack(images), None)
                positions, images = [], []
            image, mask = read(top, left, tile, tile)
            inside, part = overlap_with(width, left, tile)
            valid[:, inside] = mask[:, part]
            if mask[:, part].any():
                positions.append(position)
                images.append(torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)))
        yield _Tiles(positions, torch.stack(images) if images else None, valid)

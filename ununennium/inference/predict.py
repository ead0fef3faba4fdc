"""Class probabilities, or values, of a region of any size, from overlapping tiles, in bands of rows.

Tiles lie on a regular grid that starts half an overlap outside the region, so that the region's edge pixels have
context where the scene goes on. Along each axis a tile's weight rises and falls as a raised cosine (Hann) over the
overlap; the weights of all tiles are divided by their sum, which is known beforehand because the grid is a product of
its axes. Rows that no later tile touches are handed out at once: memory is that of one row of tiles.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ununennium.errors import ConfigError, DataError

ReadWindow = Callable[[int, int, int, int], tuple[NDArray[np.float32], NDArray[np.bool_]]]
"""``(row, col, height, width) -> (image (C, height, width), valid (height, width))``, normalised, invalid pixels 0;
the image of a stack of dates may be (T, C, height, width).

Rows and columns count from the region's corner, and windows reach outside it; what does not exist there is invalid.
A tile whose mask is all False is not predicted.
"""


Output = Literal["probabilities", "values", "presences"]
"""What a model's output is made into: probabilities by the softmax over its channels; taken as it is; or, by the
sigmoid, the probability of each channel's class on its own."""


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "probabilities": lambda logits: logits.softmax(1),
    "values": lambda logits: logits,
    "presences": torch.sigmoid,
}


_Batch = tuple[list[int], Tensor]


class Band(NamedTuple):
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


class _Axis(NamedTuple):
    """Tiles along one axis: their first pixels, and each one's share (tiles, tile) of its pixels' prediction."""

    starts: list[int]
    shares: Tensor


def predict_bands(
    model: nn.Module,
    read: ReadWindow,
    height: int,
    width: int,
    *,
    num_classes: int,
    tile: int = 256,
    overlap: int | None = None,
    batch_size: int = 4,
    device: torch.device | str = "cpu",
    autocast: torch.dtype | None = None,
    tta: bool = False,
    output: Output = "probabilities",
) -> Iterator[Band]:
    """Predict a region from top to bottom.

    Args:
        model: from (N, C, tile, tile) to logits (N, ``num_classes``, tile, tile). It is put in evaluation mode while
            the bands are made, and each submodule is put back as it was.
        read: gives the normalised image and its mask.
        height: rows of the region.
        width: columns of the region.
        num_classes: classes K.
        tile: side of a tile in pixels.
        overlap: pixels that neighbouring tiles share, at most half a tile; a quarter if not given, 0 for none.
        batch_size: tiles per forward pass.
        device: where the model is, and the bands are put together.
        autocast: dtype of the forward pass, such as ``torch.bfloat16``; float32 if not given.
        tta: average over the eight flips and turns of each tile.
        output: what the model's output is made into, before tiles are blended.

    Yields:
        The rows in order, each exactly once.

    Raises:
        ConfigError: sizes that cannot work.
        DataError: the model's output does not have ``num_classes`` channels and the tile's size, or is NaN.
    """
    overlap = tile // 4 if overlap is None else overlap
    _check_sizes(height=height, width=width, num_classes=num_classes, tile=tile, overlap=overlap, batch_size=batch_size)
    stride = tile - overlap
    down, across = _axis(height, tile, overlap), _axis(width, tile, overlap)
    sums = torch.zeros(num_classes, tile, width, device=device)
    valid = np.zeros((tile, width), dtype=bool)
    with _evaluation_mode(model), ThreadPoolExecutor(1, "read-ahead") as reading:
        for top, row_shares in zip(down.starts, down.shares.to(device), strict=True):
            for places, images in _ahead(reading, _batches(read, top, across.starts, tile, batch_size, valid)):
                predicted = _forward(model, images.to(device), num_classes, autocast, tta, output)
                for place, probabilities in zip(places, predicted, strict=True):
                    inside, part = _overlap_with(width, across.starts[place], tile)
                    share = row_shares[:, None] * across.shares[place, part].to(device)
                    sums[:, :, inside] += probabilities[:, :, part] * share
            stop = height if top == down.starts[-1] else top + stride
            rows = slice(max(-top, 0), stop - top)
            band = Band(top + rows.start, sums[:, rows].to("cpu", copy=True).numpy(), valid[rows].copy())
            band.probabilities[:, ~band.valid] = 0.0
            if not np.isfinite(band.probabilities).all():
                raise DataError(
                    f"the model gives NaN for rows {band.row} to {band.row + len(band.valid) - 1} of the region; its "
                    "weights or its precision cannot be used"
                )
            yield band
            sums[:, :overlap], valid[:overlap] = sums[:, stride:], valid[stride:]
            sums[:, overlap:], valid[overlap:] = 0.0, False


def _ahead(reading: ThreadPoolExecutor, batches: Iterator[_Batch]) -> Iterator[_Batch]:
    """``batches``, each read in a thread while the one before it is predicted."""
    upcoming = reading.submit(next, batches, None)
    while (batch := upcoming.result()) is not None:
        upcoming = reading.submit(next, batches, None)
        yield batch


def _batches(
    read: ReadWindow, top: int, starts: list[int], tile: int, batch_size: int, valid: NDArray[np.bool_]
) -> Iterator[_Batch]:
    """Read a row of tiles: places and images (N, C, tile, tile) of those with something to predict.

    ``valid`` (tile, width) is filled in.
    """
    places: list[int] = []
    images: list[Tensor] = []
    for place, left in enumerate(starts):
        image, mask = read(top, left, tile, tile)
        inside, part = _overlap_with(valid.shape[1], left, tile)
        valid[:, inside] = mask[:, part]
        if mask[:, part].any():
            places.append(place)
            images.append(torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)))
        if len(images) == batch_size:
            yield places, torch.stack(images)
            places, images = [], []
    if images:
        yield places, torch.stack(images)


def _forward(
    model: nn.Module, images: Tensor, num_classes: int, autocast: torch.dtype | None, tta: bool, output: Output
) -> Tensor:
    """Class probabilities or values (N, K, tile, tile) in float32."""
    expected = (images.shape[0], num_classes, *images.shape[-2:])
    views = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)] if tta else [(0, False)]
    total: Tensor | None = None
    context: contextlib.AbstractContextManager[Any] = (
        contextlib.nullcontext() if autocast is None else torch.autocast(images.device.type, dtype=autocast)
    )
    with torch.no_grad(), context:
        for turns, mirrored in views:
            view = torch.rot90(images.flip(-1) if mirrored else images, turns, (-2, -1))
            logits = model(view)
            if not isinstance(logits, Tensor) or logits.shape != expected:
                got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
                channels = f"one channel of logits for each of {num_classes} classes"
                channels = f"{num_classes} channel(s) of values" if output == "values" else channels
                raise DataError(
                    f"the model gives {got} for an image of {tuple(images.shape)}: it must be {expected}, {channels} "
                    "at the image's own size"
                )
            values = _ACTIVATIONS[output](logits.float())
            values = torch.rot90(values, -turns, (-2, -1)) if turns else values
            values = values.flip(-1) if mirrored else values
            total = values if total is None else total.add_(values)
    assert total is not None
    return total.div_(len(views)) if tta else total


@contextlib.contextmanager
def _evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every submodule in evaluation mode, and afterwards as it was: a frozen one stays frozen."""
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in flags.items():
            module.training = training


def _overlap_with(length: int, start: int, tile: int) -> tuple[slice, slice]:
    """The pixels of a tile within 0..length: as counted there, and as counted in the tile."""
    inside = slice(max(start, 0), min(start + tile, length))
    return inside, slice(inside.start - start, inside.stop - start)


def _check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < (0 if name == "overlap" else 1):
            raise ConfigError(name, value, "give a whole number >= " + ("0" if name == "overlap" else "1"))
    if sizes["overlap"] > sizes["tile"] // 2:
        raise ConfigError("overlap", sizes["overlap"], f"give at most half a tile, {sizes['tile'] // 2}")


def _axis(length: int, tile: int, overlap: int) -> _Axis:
    """Place tiles over ``length`` pixels, and share every pixel among the tiles that see it."""
    stride, before = tile - overlap, overlap // 2
    count = -(-length // stride)  # the last tile reaches about half an overlap beyond the end
    starts = [number * stride - before for number in range(count)]
    ramp = torch.sin(torch.linspace(0, torch.pi / 2, 2 * overlap + 1, dtype=torch.float64)[1::2]) ** 2
    weight = torch.ones(tile, dtype=torch.float64)
    weight[:overlap] = ramp
    weight[tile - overlap :] = ramp.flip(0)
    total = torch.zeros(starts[-1] + before + tile, dtype=torch.float64)
    for start in starts:
        total[start + before : start + before + tile] += weight
    shares = [weight / total[start + before : start + before + tile] for start in starts]
    return _Axis(starts, torch.stack(shares).float())

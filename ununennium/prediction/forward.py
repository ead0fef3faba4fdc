"""A model over a batch of tiles: its output made into what is mapped, in less at a time where memory runs out."""

from __future__ import annotations

import contextlib
import logging
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ununennium.errors import ConfigError, DataError
from ununennium.training.batches import prediction_of

logger = logging.getLogger(__name__)

Output = Literal["probabilities", "values", "presences"]
"""Conversion of a model's output: probabilities by the softmax over its channels; taken as it is; or, by the
sigmoid, the probability of each channel's class on its own."""

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "probabilities": lambda logits: logits.softmax(1),
    "values": lambda logits: logits,
    "presences": torch.sigmoid,
}
_CPU_PIXELS = 2 * 256 * 256  # at a time: what a larger batch holds leaves a CPU's caches, and is mapped anew each time
_WORTH_IT = 1.05
_MOST = 256


class Forward:
    """Predicts batches of tiles.

    A batch that does not fit into memory is halved, and so are those after it; a single tile that does not fit is the
    user's to mend.

    Args:
        model: from (N, C, H, W) to logits (N, ``num_classes``, H, W), in evaluation mode.
        num_classes: classes K.
        autocast: dtype of the forward pass, such as ``torch.bfloat16``; float32 if not given.
        tta: average over the eight flips and turns of each tile.
        output: conversion of the model's output.
        channels_last: memory layout of the tiles, and of weights (see ``ready``); given up where the model has a
            ``view`` of what then is not contiguous.
        pad_to: fill each batch up to so many tiles, for a compiled model that should meet one shape only.
    """

    def __init__(
        self,
        model: nn.Module,
        num_classes: int,
        *,
        autocast: torch.dtype | None = None,
        tta: bool = False,
        output: Output = "probabilities",
        channels_last: bool = False,
        pad_to: int | None = None,
    ) -> None:
        self.model = model
        self.num_classes = num_classes
        self.autocast = autocast
        self.output: Output = output
        self.channels_last = channels_last
        self.pad_to = pad_to
        self._views = [(turns, mirrored) for turns in range(4) for mirrored in (False, True)] if tta else [(0, False)]
        self._most: int | None = None

    def __call__(self, images: Tensor) -> Tensor:
        """Class probabilities or values (N, K, H, W) in float32.

        Raises:
            DataError: the model's output does not have ``num_classes`` channels and the tile's size.
            ConfigError: memory does not suffice for one tile.
        """
        while True:
            try:
                parts = [self._predict(part) for part in torch.split(images, self._most or len(images))]
            except RuntimeError as error:
                if _is_out_of_memory(error):
                    self._halve(min(self._most or len(images), len(images)), images, error)
                elif self.channels_last and "view size is not compatible" in str(error):
                    logger.info("the model cannot have channels last (%s): going on without", error)
                    self.channels_last = False
                    _lay_out(self.model.parameters(), torch.contiguous_format)
                else:
                    raise
            else:
                return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _halve(self, size: int, images: Tensor, error: RuntimeError) -> None:
        if size == 1:
            side = images.shape[-1]
            raise ConfigError("tile", side, f"memory does not suffice for one tile ({error}); set a smaller tile")
        self._most = size // 2
        self.pad_to = None if self.pad_to is None else self._most
        logger.warning("%d tiles at a time do not fit into memory: going on with %d", size, self._most)
        if images.device.type == "cuda":
            torch.cuda.empty_cache()

    def _predict(self, images: Tensor) -> Tensor:
        number = len(images)
        if self.pad_to is not None and number < self.pad_to:
            images = torch.cat([images, images.new_zeros(self.pad_to - number, *images.shape[1:])])
        layout = torch.channels_last if self.channels_last and images.dim() == 4 else torch.contiguous_format
        total: Tensor | None = None
        context: AbstractContextManager[Any] = (
            contextlib.nullcontext()
            if self.autocast is None
            else torch.autocast(images.device.type, dtype=self.autocast)
        )
        with torch.no_grad(), context:
            for turns, mirrored in self._views:
                view = images.flip(-1) if mirrored else images
                view = torch.rot90(view, turns, (-2, -1)) if turns else view
                logits = prediction_of(self.model(view.contiguous(memory_format=layout)))
                self._check(images, logits)
                values = _ACTIVATIONS[self.output](logits.float())
                values = torch.rot90(values, -turns, (-2, -1)) if turns else values
                values = values.flip(-1) if mirrored else values
                total = values if total is None else total.add_(values)
        assert total is not None
        total = total.div_(len(self._views)) if len(self._views) > 1 else total
        return total[:number]

    def _check(self, images: Tensor, logits: Any) -> None:
        expected = (images.shape[0], self.num_classes, *images.shape[-2:])
        if isinstance(logits, Tensor) and logits.shape == expected:
            return
        got = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        channels = f"one channel of logits for each of {self.num_classes} classes"
        channels = f"{self.num_classes} channel(s) of values" if self.output == "values" else channels
        raise DataError(
            f"the model gives {got} for an image of {tuple(images.shape)}: it must be {expected}, {channels} at the "
            "image's own size"
        )


def cpu_batch_size(tile: int) -> int:
    """Tiles of ``tile`` pixels that a CPU predicts at a time: two of 256."""
    return max(1, min(_CPU_PIXELS // max(tile, 1) ** 2, _MOST))


def find_batch_size(forward: Callable[[Tensor], Tensor], tile: Tensor, *, most: int = _MOST) -> int:
    """Find the fastest batch of tiles: twice as many again and again, until that gains less than 5 % or fails.

    Args:
        forward: predicts a batch.
        tile: an example (C, H, W), on the device.
        most: tiles that are tried at most.

    Raises:
        ConfigError: memory does not suffice for one tile.
    """
    best, rate, size = 0, 0.0, 1
    while size <= most:
        try:
            seconds = _time(forward, tile.expand(size, *tile.shape).contiguous())
        except RuntimeError as error:
            if not _is_out_of_memory(error):
                raise
            if not best:
                remedy = f"memory does not suffice for one tile ({error}); set a smaller tile"
                raise ConfigError("tile", tile.shape[-1], remedy) from error
            break
        if size / seconds < _WORTH_IT * rate:
            break
        best, rate, size = size, size / seconds, 2 * size
    return best


def _time(forward: Callable[[Tensor], Tensor], batch: Tensor) -> float:
    """Seconds of a pass, the median of three after one that warms up; copied back, so that it has ended."""
    forward(batch)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        forward(batch)[:1, :1, :1, :1].cpu()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


@contextlib.contextmanager
def ready(model: nn.Module, *, channels_last: bool) -> Iterator[None]:
    """Put every submodule in evaluation mode and weights in a memory layout, and afterwards as they were."""
    flags = {module: module.training for module in model.modules()}
    weights = [
        weight
        for weight in model.parameters()
        if channels_last and weight.dim() == 4 and not weight.is_contiguous(memory_format=torch.channels_last)
    ]
    model.eval()
    _lay_out(weights, torch.channels_last)
    try:
        yield
    finally:
        _lay_out(weights, torch.contiguous_format)
        for module, training in flags.items():
            module.training = training


def _lay_out(weights: Iterable[nn.Parameter], layout: torch.memory_format) -> None:
    for weight in weights:
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=layout)


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Tell whether a device, or the CPU's allocator, has no memory left; the latter has no exception of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)

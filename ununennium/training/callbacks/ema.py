"""An exponential moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from ununennium.errors import CheckpointError, ConfigError
from ununennium.training.callbacks.callback import Callback
from ununennium.training.distributed import divided_like, local
from ununennium.training.resume import clean_key

if TYPE_CHECKING:
    from ununennium.training.trainer import Trainer

_STATE_KEY = "EMA"


class EMA(Callback):
    """Keeps an exponential moving average of weights and buffers, and validates with it.

    After each optimizer step that ran, ``average += (1 - d) * (weights - average)`` with
    ``d = min(decay, (1 + n) / (10 + n))`` at the n-th update: the early, quickly changing weights do not linger
    (the warm-up of TensorFlow's ``ExponentialMovingAverage``). Averages are in float32 or complex64 at least, whatever
    the precision of the weights; integer buffers are copied. A tensor that has several names, such as a tied weight,
    counts once. Checkpoints hold both: raw weights under ``model``, averaged ones in this callback's state;
    ``averaged_weights`` reads them.

    Args:
        decay: weight of the past, in (0, 1); 0.99 averages over about 100 steps.

    Raises:
        ConfigError: ``decay`` is not in (0, 1).
    """

    def __init__(self, decay: float = 0.999) -> None:
        if not 0.0 < decay < 1.0:
            raise ConfigError("decay", decay, "give a number between 0 and 1, such as 0.99")
        self.decay = decay
        self.num_updates = 0
        self._average: dict[str, Tensor] = {}
        self._averaged: list[str] = []
        self._copied: list[str] = []
        self._swapped = False

    @property
    def state_key(self) -> str:
        return _STATE_KEY

    def state_dict(self) -> dict[str, Any]:
        if self._swapped:
            raise CheckpointError("averaged weights are in place for validation: a checkpoint now would mix them up")
        return {"num_updates": self.num_updates, "weights": dict(self._average)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.num_updates = state["num_updates"]
        self._average = dict(state["weights"])

    def on_fit_start(self, trainer: Trainer) -> None:
        lazy = [name for name, each in trainer.module.named_parameters() if is_lazy(each)]
        if lazy:
            remedy = "it has no shape yet, so that it cannot be averaged; call the model on one batch before training"
            raise ConfigError("EMA", lazy[0], remedy)
        live = _weights(trainer)
        if not self._average:
            self._average = live
        if self._average.keys() != live.keys():
            raise CheckpointError("the averaged weights in the checkpoint belong to another model")
        names = _first_names(live)
        own = {key: _widened(divided_like(live[key], self._average[key])) for key in names.values()}
        self._average = {key: own[names[_view(value)]] for key, value in live.items()}
        self._averaged = [key for key in own if _is_averaged(live[key])]
        self._copied = [key for key in own if not _is_averaged(live[key])]

    def on_step_end(self, trainer: Trainer) -> None:
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        live = _weights(trainer)
        averages = [_real(local(self._average[key])) for key in self._averaged]
        values = [_real(local(live[key])) for key in self._averaged]
        if averages:
            values = [value.to(average.dtype) for value, average in zip(values, averages, strict=True)]
            torch._foreach_lerp_(averages, values, 1.0 - decay)
        for key in self._copied:
            self._average[key].copy_(live[key])

    @contextlib.contextmanager
    def around_validation(self, trainer: Trainer) -> Iterator[None]:
        """Validate with the averaged weights; the raw ones are back afterwards, also if validation raises."""
        live = _weights(trainer)
        # All copies come first: tensors that share memory would else be copied after they were overwritten.
        raw = [(local(live[key]), local(live[key]).clone()) for key in _first_names(live).values()]
        self._swapped = True
        try:
            for key, value in live.items():
                _distinct(local(value)).copy_(_distinct(local(self._average[key]), like=local(value)))
            yield
        finally:
            for value, held in raw:
                _distinct(value).copy_(_distinct(held, like=value))
            self._swapped = False


def averaged_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor] | None:
    """The averaged weights in a checkpoint, keyed and typed like the model's ``state_dict``; None if it has none."""
    state = checkpoint.get("callbacks", {}).get(_STATE_KEY)
    if not state or not state["weights"]:
        return None
    raw = checkpoint.get("model", {})
    return {key: value.to(raw[key].dtype) if key in raw else value for key, value in state["weights"].items()}


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    names = trainer.module.state_dict()
    return {clean_key(key): value.detach() for key, value in names.items() if isinstance(value, Tensor)}


def _view(tensor: Tensor) -> tuple[Any, ...]:
    """The memory that ``tensor`` is a view of; equal for two names of one tensor."""
    part = local(tensor)
    return (part.data_ptr(), tuple(part.shape), part.stride(), part.dtype, str(part.device))


def _distinct(tensor: Tensor, *, like: Tensor | None = None) -> Tensor:
    """``tensor`` without the repeats of an expanded one, which cannot be written to; those of ``like`` if given."""
    strides = (tensor if like is None else like).stride()
    for dim, stride in enumerate(strides):
        if stride == 0 and tensor.shape[dim] > 1:
            tensor = tensor.narrow(dim, 0, 1)
    return tensor


def _first_names(live: dict[str, Tensor]) -> dict[tuple[Any, ...], str]:
    """View to the first of the names that it has."""
    names: dict[tuple[Any, ...], str] = {}
    for key, value in live.items():
        names.setdefault(_view(value), key)
    return names


def _is_averaged(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def _widened(tensor: Tensor) -> Tensor:
    """A copy of ``tensor``, in single precision at least if it is averaged."""
    if tensor.is_complex() and tensor.dtype.itemsize < 8:
        return tensor.to(torch.complex64)
    if tensor.is_floating_point() and tensor.dtype.itemsize < 4:
        return tensor.to(torch.float32)
    return tensor.clone()


def _real(tensor: Tensor) -> Tensor:
    """A view of ``tensor`` as real numbers."""
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor

"""An exponential moving average of the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

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
    (the warm-up of TensorFlow's ``ExponentialMovingAverage``). Integer buffers are copied. Checkpoints hold both: raw
    weights under ``model``, averaged ones in this callback's state; ``averaged_weights`` reads them.

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
        live = _weights(trainer)
        if not self._average:
            self._average = {key: value.clone() for key, value in live.items()}
        if self._average.keys() != live.keys():
            raise CheckpointError("the averaged weights in the checkpoint belong to another model")
        self._average = {key: divided_like(live[key], value) for key, value in self._average.items()}

    def on_step_end(self, trainer: Trainer) -> None:
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        live = _weights(trainer)
        floating = [key for key, value in live.items() if value.is_floating_point()]
        averages = [local(self._average[key]) for key in floating]
        torch._foreach_lerp_(averages, [local(live[key]) for key in floating], 1.0 - decay)
        for key in live.keys() - set(floating):
            self._average[key].copy_(live[key])

    @contextlib.contextmanager
    def around_validation(self, trainer: Trainer) -> Iterator[None]:
        """Validate with the averaged weights; the raw ones are back afterwards, also if validation raises."""
        self._swap(trainer)
        self._swapped = True
        try:
            yield
        finally:
            self._swap(trainer)
            self._swapped = False

    def _swap(self, trainer: Trainer) -> None:
        for key, value in _weights(trainer).items():
            held = value.clone()
            value.copy_(self._average[key])
            self._average[key].copy_(held)


def averaged_weights(checkpoint: dict[str, Any]) -> dict[str, Tensor] | None:
    """The averaged weights in a checkpoint, keyed like the bare model's ``state_dict``; None if it holds none."""
    state = checkpoint.get("callbacks", {}).get(_STATE_KEY)
    return dict(state["weights"]) if state and state["weights"] else None


def _weights(trainer: Trainer) -> dict[str, Tensor]:
    names = trainer.module.state_dict()
    return {clean_key(key): value.detach() for key, value in names.items() if isinstance(value, Tensor)}

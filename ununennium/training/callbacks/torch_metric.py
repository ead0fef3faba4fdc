"""A metric of torchmetrics, or of its form, over the validation batches of an epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ununennium.errors import ConfigError
from ununennium.training.batches import prediction_of
from ununennium.training.callbacks.callback import Callback

if TYPE_CHECKING:
    from ununennium.training.trainer import Trainer

_METHODS = ("update", "compute", "reset")


class TorchMetric(Callback):
    """Adds a metric of torchmetrics to the history, so that checkpoints and early stopping can watch it.

    It is reset before each validation, updated with each batch's prediction (logits, float32) and target, and computed
    once at the end; under several ranks torchmetrics itself sums over them. A metric with one value is ``name`` in the
    history, one with a value for each class ``name_0``, ``name_1`` and so on, a collection ``name_<key>``.

    Args:
        metric: an object with ``update(prediction, target)``, ``compute()`` and ``reset()``.
        name: of the metric in the history, such as ``val_jaccard``.

    Raises:
        ConfigError: ``metric`` lacks one of these methods.
    """

    def __init__(self, metric: Any, name: str) -> None:
        lacks = [method for method in _METHODS if not callable(getattr(metric, method, None))]
        if lacks:
            remedy = f"a {type(metric).__name__} has no {lacks[0]}(); give a metric of torchmetrics, or one of its form"
            raise ConfigError("metric", metric, remedy)
        self.metric = metric
        self.name = name

    @property
    def state_key(self) -> str:
        """Name of this callback's state in a checkpoint."""
        return f"{type(self).__name__}({self.name})"

    def on_fit_start(self, trainer: Trainer) -> None:
        if isinstance(self.metric, nn.Module):
            self.metric.to(trainer.device)

    def on_epoch_start(self, trainer: Trainer) -> None:
        self.metric.reset()

    def on_validation_batch(self, trainer: Trainer, output: Any, target: Any) -> None:
        self.metric.update(prediction_of(output), target)

    def on_validation_end(self, trainer: Trainer) -> None:
        trainer.metrics.update(_values(self.name, self.metric.compute()))
        self.metric.reset()


def _values(name: str, computed: Any) -> Iterator[tuple[str, float]]:
    """Name and value of each number in what a metric computed."""
    if isinstance(computed, Mapping):
        for key, value in computed.items():
            yield from _values(f"{name}_{key}", value)
    elif isinstance(computed, Tensor) and computed.ndim:
        for number, value in enumerate(computed.flatten().tolist()):
            yield f"{name}_{number}", float(value)
    else:
        yield name, float(computed)

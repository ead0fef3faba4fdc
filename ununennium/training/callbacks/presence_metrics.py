"""Validation metrics of a model that says which classes a patch shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ununennium.metrics import PresenceCounts, macro_mean
from ununennium.training import distributed
from ununennium.training.batches import prediction_of
from ununennium.training.callbacks.callback import Callback

if TYPE_CHECKING:
    from ununennium.training.trainer import Trainer


class PresenceMetrics(Callback):
    """Adds ``val_F1``, ``val_accuracy`` and one F1 per class to the history; a logit above 0 says that it is there.

    Counts are summed over all batches and ranks, so batch size and number of ranks do not matter.

    Args:
        class_names: of the model's outputs.
    """

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = list(class_names)
        self.total = PresenceCounts(len(self.class_names))

    def on_epoch_start(self, trainer: Trainer) -> None:
        self.total = PresenceCounts(len(self.class_names))

    def on_validation_batch(self, trainer: Trainer, output: Any, target: Tensor) -> None:
        self.total.update(prediction_of(output) >= 0, target)

    def on_validation_end(self, trainer: Trainer) -> None:
        self.total.counts = distributed.sum_tensor_over_ranks(self.total.counts.to(trainer.device).clone())
        values = self.total.per_class()["F1"]
        trainer.metrics["val_F1"] = macro_mean(values)
        trainer.metrics["val_accuracy"] = self.total.accuracy
        for name, value in zip(self.class_names, values.tolist(), strict=True):
            trainer.metrics[f"val_F1_{name}"] = value
        self.on_epoch_start(trainer)

"""Validation metrics of a regression, from summed moments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from ununennium.metrics import RegressionMoments
from ununennium.training import distributed
from ununennium.training.batches import prediction_of
from ununennium.training.callbacks.callback import Callback

if TYPE_CHECKING:
    from ununennium.training.trainer import Trainer


class RegressionMetrics(Callback):
    """Adds ``val_RMSE``, ``val_MAE``, ``val_bias`` and ``val_R2`` to the history.

    Moments are summed in float64 over all batches and ranks, so batch size and number of ranks do not matter.

    Args:
        mean: a value is ``mean + std * target``.
        std: the same; metrics are in the values' unit.
    """

    def __init__(self, mean: float = 0.0, std: float = 1.0) -> None:
        self.moments = RegressionMoments(mean, std)

    def on_epoch_start(self, trainer: Trainer) -> None:
        self.moments.reset()

    def on_validation_batch(self, trainer: Trainer, output: Any, target: Tensor) -> None:
        self.moments.update(prediction_of(output), target)

    def on_validation_end(self, trainer: Trainer) -> None:
        total = RegressionMoments(self.moments.mean, self.moments.std)
        total.sums = distributed.sum_tensor_over_ranks(self.moments.sums.to(trainer.device).clone())
        for name, value in total.to_metrics().items():
            trainer.metrics[f"val_{name}"] = value
        self.moments.reset()

"""Validation metrics of a segmentation or classification model, from one confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ununennium.errors import ConfigError
from ununennium.metrics import ConfusionMatrix
from ununennium.training import distributed
from ununennium.training.batches import prediction_of
from ununennium.training.callbacks.callback import Callback

if TYPE_CHECKING:
    from ununennium.training.trainer import Trainer


class SegmentationMetrics(Callback):
    """Adds ``val_IoU``, ``val_F1``, ``val_accuracy`` and one IoU and F1 per class to the history.

    One integer confusion matrix is summed over all batches and ranks, so batch size and number of ranks do not matter.

    Args:
        num_classes: classes, the channels of the model's output.
        ignore_index: target value of unlabelled pixels; None takes the loss's, so that there is one source.
        class_names: names for the per-class metrics; their numbers if not given.

    Raises:
        ConfigError: in ``fit``, an ``ignore_index`` that differs from the loss's.
    """

    def __init__(
        self, num_classes: int, ignore_index: int | None = None, class_names: Sequence[str] | None = None
    ) -> None:
        if class_names is not None and len(class_names) != num_classes:
            raise ConfigError("class_names", list(class_names), f"give {num_classes} names, one per class")
        self.num_classes = num_classes
        self.ignore_index = ignore_index
        self.class_names = list(class_names or map(str, range(num_classes)))
        self.confusion = ConfusionMatrix(num_classes, ignore_index)

    def on_fit_start(self, trainer: Trainer) -> None:
        from_loss = trainer.objective.ignore_index
        ignore_index = from_loss if self.ignore_index is None else self.ignore_index
        declared = trainer.objective.declared_ignore_index
        if declared is not None and ignore_index != declared:
            raise ConfigError(
                "ignore_index", ignore_index, f"the loss ignores {declared}; metrics must ignore the same"
            )
        self.confusion = ConfusionMatrix(self.num_classes, None if ignore_index is None else int(ignore_index))

    def on_epoch_start(self, trainer: Trainer) -> None:
        self.confusion.reset()

    def on_validation_batch(self, trainer: Trainer, output: Any, target: Tensor) -> None:
        self.confusion.update(prediction_of(output), target)

    def on_validation_end(self, trainer: Trainer) -> None:
        matrix = distributed.sum_tensor_over_ranks(self.confusion.matrix.to(trainer.device).clone())
        total = ConfusionMatrix(self.num_classes, self.confusion.ignore_index)
        total.matrix = matrix.cpu()
        for name, value in total.to_metrics(self.class_names).items():
            trainer.metrics[f"val_{name}"] = value
        self.confusion.reset()

"""A picture of what the model predicts while it trains, for whoever watches the run."""

from __future__ import annotations

import itertools
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ununennium.training.callbacks import Callback

if TYPE_CHECKING:
    from torch import Tensor

    from ununennium.data.index import ChipIndex
    from ununennium.training.trainer import Trainer

EVERY_S = 20.0

logger = logging.getLogger(__name__)


class SamplePrediction(Callback):
    """Draws one chip of the validation fold, its label, prediction and errors, by rank 0; the same chip every time.

    It takes what validation has predicted anyway: no random number, no forward pass, and some milliseconds. Where
    whole patches are what is predicted, nothing is drawn. A picture that cannot be made is warned of, once.

    Args:
        file: the PNG, replaced whole.
        index: of the data; ``trainer.val_loader`` must read its chips, as ``build_loaders`` makes it.
        every_s: seconds from one picture to the next at least.
    """

    def __init__(self, file: Path, index: ChipIndex, *, every_s: float = EVERY_S) -> None:
        self._file, self._index, self._every_s = file, index, every_s
        self._next = 0.0
        self._wanted = False
        self._item: int | None = None
        self._seen: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None
        self._views: list[npt.NDArray[np.uint8]] = []

    def on_epoch_start(self, trainer: Trainer) -> None:
        drawn = trainer.is_main_process and self._index.task.of_patch(self._index) is None
        self._wanted = drawn and time.monotonic() >= self._next
        self._seen = None

    def on_validation_batch(self, trainer: Trainer, output: Tensor, target: Tensor) -> None:
        if not self._wanted:
            return
        self._wanted = False  # the chip is in the first batch
        if self._item is None:
            self._item = max(range(len(target)), key=lambda item: self._telling(target[item].cpu().numpy()))
        self._seen = target[self._item].cpu().numpy(), output[self._item].float().cpu().numpy()

    def on_validation_end(self, trainer: Trainer) -> None:
        if self._seen is None:
            return
        try:
            self._draw(trainer, *self._seen)
            self._next = time.monotonic() + self._every_s
        except Exception as error:  # no picture is worth a training
            logger.warning("no sample prediction is drawn: %r", error)
            self._next = float("inf")

    def _draw(self, trainer: Trainer, target: npt.NDArray[Any], output: npt.NDArray[Any]) -> None:
        from ununennium.evaluation import chip_pictures as draw

        if not self._views:
            loader: Any = trainer.val_loader
            assert self._item is not None
            (key,) = itertools.islice(loader.sampler, self._item, self._item + 1)
            place, row, col = loader.dataset.place_of(key)
            self._views = list(draw.view_of(self._index, self._index.scenes[place], row, col, *target.shape).values())
        if self._index.task.name == "regression":
            panels = draw.value_panels(target, output[0])
        else:
            classes = len(self._index.classes)
            panels = draw.class_panels(target, output.argmax(0), classes, self._index.ignore_index)
        draw.save_png(draw.side_by_side([*self._views, *panels.values()]), self._file)

    def _telling(self, target: npt.NDArray[Any]) -> float:
        """How much there is to see in a chip: labelled pixels of any class but the commonest."""
        labelled = self._index.is_labelled(target)
        if self._index.task.name == "regression":
            return float(labelled.sum())
        commonest = int(np.sum(list(self._index.labelled.values()), axis=0).argmax())
        return float((labelled & (target != commonest)).sum() + labelled.mean())

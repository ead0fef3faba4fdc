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

    from ununennium.data.chips.index import ChipIndex
    from ununennium.training.trainer import Trainer

EVERY_S = 20.0
LOOKED_AT = 256  # chips, of which the most telling is drawn

logger = logging.getLogger(__name__)


class SamplePrediction(Callback):
    """Draws one chip of the validation fold, its label, prediction and errors, by rank 0; the same chip every time.

    It is the chip with the most to see, of the first 256 or so that rank 0 validates. It takes what validation has
    predicted anyway: no random number, no forward pass, and some milliseconds. Where whole patches are what is
    predicted, nothing is drawn. A picture that cannot be made is warned of, once.

    Args:
        file: the PNG, replaced whole.
        index: of the data; ``trainer.val_loader`` must read its chips, as ``build_loaders`` makes it.
        every_s: seconds from one picture to the next at least.
    """

    def __init__(self, file: Path, index: ChipIndex, *, every_s: float = EVERY_S) -> None:
        self._file, self._index, self._every_s = file, index, every_s
        self._next = 0.0
        self._wanted = False
        self._item: int | None = None  # its number in the order of validation
        self._passed = 0
        self._most_telling = -1.0
        self._chosen = False
        self._seen: tuple[npt.NDArray[Any], npt.NDArray[Any]] | None = None
        self._views: list[npt.NDArray[np.uint8]] = []

    def on_epoch_start(self, trainer: Trainer) -> None:
        drawn = trainer.is_main_process and not self._index.task.is_patchwise
        self._wanted = drawn and time.monotonic() >= self._next
        self._seen, self._passed = None, 0

    def on_validation_batch(self, trainer: Trainer, output: Tensor, target: Tensor) -> None:
        if not self._wanted:
            return
        first, self._passed = self._passed, self._passed + len(target)
        if not self._chosen and first < LOOKED_AT:
            self._look_at(target.cpu().numpy(), first)
        if self._item is not None and first <= self._item < self._passed:
            here = self._item - first
            self._seen = target[here].cpu().numpy(), output[here].float().cpu().numpy()

    def on_validation_end(self, trainer: Trainer) -> None:
        if self._seen is None:
            return
        self._chosen = True
        try:
            self._draw(trainer, *self._seen)
            self._next = time.monotonic() + self._every_s
        except Exception as error:  # no picture is worth a training
            logger.warning("no sample prediction is drawn: %r", error)
            self._next = float("inf")

    def _look_at(self, targets: npt.NDArray[Any], first: int) -> None:
        """Takes the chip of a batch that has more to see than any before; ``first`` is the number of its first chip."""
        for item, target in enumerate(targets, first):
            if (telling := self._telling(target)) > self._most_telling:
                self._item, self._most_telling = item, telling

    def _draw(self, trainer: Trainer, target: npt.NDArray[Any], output: npt.NDArray[Any]) -> None:
        from ununennium.evaluation import chip_pictures as draw

        if not self._views:
            loader: Any = trainer.val_loader
            assert self._item is not None
            (key,) = itertools.islice(loader.sampler, self._item, self._item + 1)
            scene_index, row, col = loader.dataset.place_of(key)
            self._views = list(
                draw.view_of(self._index, self._index.scenes[scene_index], row, col, *target.shape).values()
            )
        if not self._index.task.has_classes:
            panels = draw.value_panels(target, output[0])
        else:
            classes = len(self._index.classes)
            panels = draw.class_panels(target, output.argmax(0), classes, self._index.ignore_index)
        draw.save_png(draw.side_by_side([*self._views, *panels.values()]), self._file)

    def _telling(self, target: npt.NDArray[Any]) -> float:
        """How much there is to see in a chip: labelled pixels of any class but the commonest."""
        labelled = self._index.is_labelled(target)
        if not self._index.task.has_classes:
            return float(labelled.sum())
        commonest = int(np.sum(list(self._index.labelled.values()), axis=0).argmax())
        return float((labelled & (target != commonest)).sum() + labelled.mean())

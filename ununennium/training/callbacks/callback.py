"""The base class of callbacks: nine hooks, one context, and state that travels in the checkpoint."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from ununennium.checkpoints.store import Manifest
    from ununennium.training.trainer import Trainer

HOOKS = (
    "on_fit_start",
    "on_epoch_start",
    "on_step_end",
    "on_validation_batch",
    "on_validation_end",
    "on_epoch_end",
    "on_checkpoint",
    "on_exception",
    "on_fit_end",
)


class Callback:
    """Hooks into the training loop; override the ones you need, the others cost nothing.

    The loop in ``Trainer``'s docstring shows where each hook is called. Hooks run on every rank, in the order of
    ``priority`` and, within one priority, in the order of the list given to the Trainer. State that must survive a
    restart goes into ``state_dict``; it may hold tensors, numbers, strings, lists and dictionaries.
    """

    priority: ClassVar[int] = 0
    """Higher runs later. ``CheckpointCallback`` has 100, so that it saves what the others have become."""

    @property
    def state_key(self) -> str:
        """Name of this callback's state in a checkpoint: the class, and the arguments that tell two apart."""
        return type(self).__name__

    def state_dict(self) -> dict[str, Any]:
        """State that must survive a restart."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what ``state_dict`` returned."""

    def on_fit_start(self, trainer: Trainer) -> None:
        """Once, before the first epoch, after a checkpoint to resume from was loaded."""

    def on_epoch_start(self, trainer: Trainer) -> None:
        """Before the first batch of an epoch, or of what a resume left of it."""

    def on_step_end(self, trainer: Trainer) -> None:
        """After an optimizer step that ran (not after one that was skipped)."""

    def around_validation(self, trainer: Trainer) -> AbstractContextManager[Any]:
        """A context that encloses validation, such as one that puts averaged weights in place."""
        return contextlib.nullcontext()

    def on_validation_batch(self, trainer: Trainer, output: Any, target: Any) -> None:
        """After each validation batch; outside autocast, without gradients.

        ``output`` is what the model returned; ``ununennium.training.batches.prediction_of`` gives its tensor.
        """

    def on_validation_end(self, trainer: Trainer) -> None:
        """After the last validation batch; add to ``trainer.metrics`` here."""

    def on_epoch_end(self, trainer: Trainer) -> None:
        """After the epoch's metrics have entered the history and the schedulers have advanced."""

    def on_checkpoint(self, trainer: Trainer, manifest: Manifest) -> None:
        """After a checkpoint has been committed; of one uploaded in the background, at the next save or at the end."""

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        """Called when ``fit`` is about to raise ``error``."""

    def on_fit_end(self, trainer: Trainer) -> None:
        """Once, after the last epoch, also after an early stop; not after an exception."""


def overrides(callback: Callback, hook: str) -> bool:
    """Tell whether ``callback`` does anything at ``hook``."""
    if hook in vars(callback):  # a hook set on the instance
        return True
    return getattr(type(callback), hook) is not getattr(Callback, hook)

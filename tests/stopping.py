"""A callback that stops training at a chosen place, as a preemption would."""

from __future__ import annotations

from ununennium.training import StopReason, Trainer
from ununennium.training.callbacks import Callback


class StopAt(Callback):
    """Ask training to stop.

    Args:
        place: after which optimizer step, or at the end of which epoch: ``epoch 2``; None never.
    """

    def __init__(self, place: int | str | None) -> None:
        self.place = place

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.state.global_step == self.place:
            trainer.request_stop(StopReason.PREEMPTED)

    def on_epoch_end(self, trainer: Trainer) -> None:
        if self.place == f"epoch {trainer.state.epoch}":
            trainer.request_stop(StopReason.PREEMPTED)

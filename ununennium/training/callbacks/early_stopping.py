"""Stop when a metric no longer improves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from ununennium.errors import ConfigError
from ununennium.training.callbacks.callback import Callback
from ununennium.training.callbacks.monitor import Monitor
from ununennium.training.state import StopReason

if TYPE_CHECKING:
    from ununennium.training.trainer import Trainer


class EarlyStopping(Callback):
    """Halts training if the monitored metric stops improving.

    Args:
        monitor: key in the history, such as ``val_loss`` or ``val_IoU``.
        patience: epochs in a row without improvement after which training stops; NaN counts as none.
        min_delta: a change must be larger than this to count as improvement.
        mode: ``min`` if smaller is better, ``max`` if larger is.

    Attributes:
        best: the best value so far; None before the first finite one.
        best_epoch: the epoch of ``best``, counted from 1.
        checks_without_improvement: how many, in a row, up to now.

    Raises:
        ConfigError: patience below 1, an unknown mode, or (in ``fit``) a monitor that is not logged.
    """

    def __init__(
        self,
        monitor: str = "val_loss",
        patience: int = 10,
        min_delta: float = 0.0,
        *,
        mode: Literal["min", "max"] = "min",
    ) -> None:
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 1:
            raise ConfigError("patience", patience, "give a whole number of epochs >= 1")
        self.monitor = Monitor(monitor, mode, min_delta)
        self.patience = patience
        self.best: float | None = None
        self.best_epoch = 0
        self.checks_without_improvement = 0
        self._resumed = False

    @property
    def state_key(self) -> str:
        return f"EarlyStopping({self.monitor.monitor}, {self.monitor.mode})"

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "best_epoch": self.best_epoch,
            "checks_without_improvement": self.checks_without_improvement,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]
        self.best_epoch = state["best_epoch"]
        self.checks_without_improvement = state["checks_without_improvement"]
        self._resumed = True

    def on_fit_start(self, trainer: Trainer) -> None:
        self.monitor.require_validation(trainer.val_loader)
        if self.checks_without_improvement >= self.patience:
            if self._resumed:  # a run that had stopped takes no further step
                self._stop(trainer)
            else:  # a second fit() starts with its patience anew
                self.checks_without_improvement = 0
        self._resumed = False

    def on_epoch_end(self, trainer: Trainer) -> None:
        value = self.monitor.value(trainer.metrics)  # reduced over ranks: all decide alike
        if self.monitor.is_better(value, self.best):
            self.best, self.best_epoch = value, trainer.state.epoch
            self.checks_without_improvement = 0
            return
        self.checks_without_improvement += 1
        if self.checks_without_improvement >= self.patience:
            self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        best = "no finite value yet" if self.best is None else f"best {self.best:.6g} in epoch {self.best_epoch}"
        trainer.request_stop(
            StopReason.EARLY_STOPPED,
            f"{self.monitor.monitor} has not improved for {self.checks_without_improvement} epochs ({best})",
        )

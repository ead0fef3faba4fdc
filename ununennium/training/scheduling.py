"""When a learning-rate scheduler advances (correctness 23, 24, 27)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, Literal

from torch.optim import lr_scheduler

from ununennium.errors import ConfigError
from ununennium.training.callbacks.monitor import Monitor

Interval = Literal["auto", "step", "epoch"]

# These are defined over optimizer steps: their constructors take step counts.
_PER_STEP = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)


class Schedule:
    """A scheduler together with when it advances.

    Args:
        scheduler: a torch scheduler, or None.
        interval: ``step``, ``epoch``, or ``auto``: per optimizer step for OneCycleLR, CyclicLR and combinations that
            hold one of them, per epoch for all others. ReduceLROnPlateau always advances per epoch, on ``monitor``.
        monitor: metric for ReduceLROnPlateau; None takes ``val_loss``, or ``train_loss`` without validation.
        has_validation: whether ``val_*`` metrics exist.

    Raises:
        ConfigError: a plateau scheduler per step, or one that monitors ``val_*`` without validation.
    """

    def __init__(self, scheduler: Any, interval: Interval, monitor: str | None, *, has_validation: bool) -> None:
        self.scheduler = scheduler
        self.is_plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
        if interval not in ("auto", "step", "epoch"):
            raise ConfigError("scheduler_interval", interval, "choose 'auto', 'step' or 'epoch'")
        if self.is_plateau and interval == "step":
            raise ConfigError("scheduler_interval", "step", "ReduceLROnPlateau needs a metric, which exists per epoch")
        if monitor is None:
            monitor = "val_loss" if has_validation else "train_loss"
        elif self.is_plateau and monitor.startswith("val_") and not has_validation:
            raise ConfigError("scheduler_monitor", monitor, "needs a val_loader; give one, or monitor 'train_loss'")
        elif not self.is_plateau:
            warnings.warn(f"scheduler_monitor = {monitor!r} is not used: the scheduler needs no metric", stacklevel=3)
        self._monitor = monitor
        self.per_step = scheduler is not None and (
            interval == "step" or (interval == "auto" and not self.is_plateau and _counts_steps(scheduler))
        )

    def after_step(self) -> None:
        """Advance a per-step scheduler; call it once per optimizer step that ran."""
        if self.per_step:
            self.scheduler.step()

    def after_epoch(self, metrics: Mapping[str, float]) -> None:
        """Advance a per-epoch scheduler; call it once per epoch, after validation, with reduced ``metrics``."""
        if self.scheduler is None or self.per_step:
            return
        if not self.is_plateau:
            self.scheduler.step()
            return
        value = Monitor(self._monitor, mode=self.scheduler.mode).value(metrics)
        # NaN is no improvement: torch would compare with NaN, which is neither better nor counted the same in
        # both modes; the worst value says the same without poisoning `best`.
        worst = math.inf if self.scheduler.mode == "min" else -math.inf
        self.scheduler.step(value if math.isfinite(value) else worst)

    def state_dict(self) -> dict[str, Any] | None:
        """The scheduler's state."""
        return None if self.scheduler is None else dict(self.scheduler.state_dict())

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the scheduler's state."""
        self.scheduler.load_state_dict(state)


def _counts_steps(scheduler: Any) -> bool:
    inner = getattr(scheduler, "_schedulers", [])
    return isinstance(scheduler, _PER_STEP) or any(_counts_steps(one) for one in inner)

"""Steps of a learning-rate scheduler, and their number (correctness 23, 24, 27, 89)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

from torch.optim import lr_scheduler

from ununennium.errors import ConfigError
from ununennium.training.callbacks.monitor import Monitor

Interval = Literal["auto", "step", "epoch"]

# These are defined over optimizer steps: their constructors take step counts.
_PER_STEP = (lr_scheduler.OneCycleLR, lr_scheduler.CyclicLR)
_PLATEAU, _RESTORE = "plateau", "restore_lr"


class Schedule:
    """A scheduler together with when it advances.

    Args:
        scheduler: one of torch's or timm's, or None. timm's are told the number of epochs (``step``) and of optimizer
            steps (``step_update``) that are done, and decide by their ``t_in_epochs``.
        interval: ``step``, ``epoch``, or ``auto``: per optimizer step for OneCycleLR, CyclicLR and combinations that
            hold one of them, per epoch for all others. ReduceLROnPlateau always advances per epoch, on ``monitor``.
        monitor: metric for ReduceLROnPlateau; None takes ``val_loss``, or ``train_loss`` without validation.
        has_validation: whether ``val_*`` metrics exist.

    Raises:
        ConfigError: a plateau scheduler per step, one that monitors ``val_*`` without validation, or an interval that
            contradicts timm's scheduler.
    """

    def __init__(self, scheduler: Any, interval: Interval, monitor: str | None, *, has_validation: bool) -> None:
        self.scheduler = scheduler
        if scheduler is not None and not callable(getattr(scheduler, "step", None)):
            raise ConfigError("scheduler", type(scheduler).__name__, "has no step(); give one of torch's or timm's")
        self._is_timms = hasattr(scheduler, "step_update") and not isinstance(scheduler, lr_scheduler.LRScheduler)
        inner = getattr(scheduler, "lr_scheduler", None) if self._is_timms else scheduler
        self._plateau = inner if isinstance(inner, lr_scheduler.ReduceLROnPlateau) else None
        self.is_plateau = self._plateau is not None
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
        if self._is_timms:
            self.per_step = not getattr(scheduler, "t_in_epochs", True)
            if interval != "auto" and (interval == "step") != self.per_step:
                remedy = (
                    f"{type(scheduler).__name__} has t_in_epochs={not self.per_step}, which decides; leave it 'auto'"
                )
                raise ConfigError("scheduler_interval", interval, remedy)

    def check_length(self, steps_left: int | None, epochs_left: int) -> None:
        """Refuse a scheduler that ends before the run does.

        Args:
            steps_left: optimizer steps that the run will still take; None if that is not known.
            epochs_left: epochs that it will still complete.

        Raises:
            ConfigError: a part of the scheduler was made for fewer steps, or fails at the last one.
        """
        left = steps_left if self.per_step else epochs_left
        if self.scheduler is None or self._is_timms or self.is_plateau or not left:
            return
        unit = "steps" if self.per_step else "epochs"
        done = int(getattr(self.scheduler, "last_epoch", 0))
        for part, last in _parts(self.scheduler, done, done + left):
            total = getattr(part, "total_steps", math.inf)
            if last > total:
                raise ConfigError(
                    "scheduler",
                    f"{type(part).__name__}(total_steps={total})",
                    f"the run takes it to {last} {unit}: make it for {last}, or train for fewer epochs. A resumed run "
                    "has its checkpoint's total: to train past that, start a new run from the weights alone",
                )
            _try_factors(part, last, unit)

    def after_step(self, steps_done: int) -> None:
        """Advance a per-step scheduler; call it once per optimizer step that ran, with their number in all."""
        if self._is_timms:
            self.scheduler.step_update(num_updates=steps_done)
        elif self.per_step:
            self._step()

    def after_epoch(self, metrics: Mapping[str, float], epochs_done: int) -> None:
        """Advance a per-epoch scheduler; call it once per epoch, after validation, with reduced ``metrics``."""
        if self._plateau is not None:
            value = Monitor(self._monitor, mode=self._plateau.mode).value(metrics)
            # NaN is no improvement: torch would compare with NaN, which is neither better nor counted the same in
            # both modes; the worst value says the same without poisoning `best`.
            worst = math.inf if self._plateau.mode == "min" else -math.inf
            value = value if math.isfinite(value) else worst
            if self._is_timms:
                self.scheduler.step(epochs_done, value)
            else:
                self.scheduler.step(value)
        elif self._is_timms:
            self.scheduler.step(epochs_done)
        elif self.scheduler is not None and not self.per_step:
            self._step()

    def _step(self) -> None:
        try:
            self.scheduler.step()
        except ValueError as error:  # the run's length was not known when it began
            name = type(self.scheduler).__name__
            raise ConfigError("scheduler", name, f"cannot go on ({error}); make it for the whole run") from error

    def state_dict(self) -> dict[str, Any] | None:
        """The scheduler's state."""
        if self.scheduler is None:
            return None
        state = dict(self.scheduler.state_dict())
        if self._is_timms and self._plateau is not None:  # timm leaves out the counters of patience
            state |= {_PLATEAU: dict(self._plateau.state_dict()), _RESTORE: self.scheduler.restore_lr}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the scheduler's state."""
        self.scheduler.load_state_dict({key: value for key, value in state.items() if key not in (_PLATEAU, _RESTORE)})
        if self._plateau is not None and _PLATEAU in state:
            self._plateau.load_state_dict(state[_PLATEAU])
            self.scheduler.restore_lr = state[_RESTORE]


def _counts_steps(scheduler: Any) -> bool:
    inner = getattr(scheduler, "_schedulers", [])
    return isinstance(scheduler, _PER_STEP) or any(_counts_steps(one) for one in inner)


def _parts(scheduler: Any, now: int, last: int) -> Iterator[tuple[Any, int]]:
    """The schedulers that ``scheduler`` is made of, and the count that each has when ``scheduler`` goes to ``last``.

    Args:
        scheduler: one of torch's.
        now: its count.
        last: its count at the end of the run.
    """
    inner = getattr(scheduler, "_schedulers", [])
    if isinstance(scheduler, lr_scheduler.SequentialLR):
        starts = [0, *scheduler._milestones]
        ends = [*(start - 1 for start in starts[1:]), last]
        for part, start, end in zip(inner, starts, ends, strict=True):
            if start <= last:
                yield from _parts(part, max(now - start, 0), min(end, last) - start)
    elif inner:
        for part in inner:
            yield from _parts(part, part.last_epoch, part.last_epoch + last - now)
    else:
        yield scheduler, last


def _try_factors(scheduler: Any, last: int, unit: str) -> None:
    """Call the functions of a ``LambdaLR`` for the last step: one that reads a table may have none for it."""
    functions = getattr(scheduler, "lr_lambdas", None)
    for function in functions if isinstance(functions, list) else []:
        try:
            function(last)
        except Exception as error:
            remedy = (
                f"its lr_lambda fails for {last}, where the run takes it ({unit}): {error!r}; let it answer up to there"
            )
            raise ConfigError("scheduler", type(scheduler).__name__, remedy) from error

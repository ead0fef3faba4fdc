"""Metric that early stopping, checkpoints and schedulers watch; ``best_first`` of the manifests orders checkpoints."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from ununennium.errors import ConfigError
from ununennium.hints import did_you_mean
from ununennium.tasks import likes_to_grow


@dataclass(frozen=True)
class Monitor:
    """A metric to watch, and which way it improves.

    Args:
        monitor: key in the history, such as ``val_loss`` or ``val_IoU``.
        mode: ``min`` for a loss, ``max`` for accuracy or IoU.
        min_delta: a change must be larger than this to count as better.

    Raises:
        ConfigError: ``mode`` is neither, or ``min_delta`` is negative or not a number.
    """

    monitor: str
    mode: Literal["min", "max"] = "min"
    min_delta: float = 0.0

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise ConfigError("mode", self.mode, "choose 'min' (a loss) or 'max' (accuracy, IoU)")
        if not self.min_delta >= 0.0:
            raise ConfigError("min_delta", self.min_delta, "give a number >= 0")
        if self.mode == "min" and likes_to_grow(self.monitor):
            warnings.warn(
                f"monitor {self.monitor!r} with mode='min' counts a smaller value as better; pass mode='max' if "
                "larger is better",
                stacklevel=4,
            )

    def is_better(self, value: float, best: float | None) -> bool:
        """Tell whether ``value`` beats ``best``: strictly, by more than ``min_delta``.

        A value that is not finite never is; the first finite one always is.
        """
        if not math.isfinite(value):
            return False
        if best is None or not math.isfinite(best):
            return True
        if self.mode == "min":
            return value < best - self.min_delta
        return value > best + self.min_delta

    def value(self, metrics: Mapping[str, float]) -> float:
        """The monitored value.

        Raises:
            ConfigError: ``metrics`` has no such key; the message names those that exist.
        """
        if self.monitor not in metrics:
            hint = did_you_mean(self.monitor, metrics)
            there = f"{f'{hint} ' if hint else ''}these are: {', '.join(sorted(metrics))}"
            raise ConfigError("monitor", self.monitor, f"is not logged; {there}")
        return metrics[self.monitor]

    def require_validation(self, val_loader: object | None) -> None:
        """Refuse a ``val_*`` monitor where nothing validates.

        Args:
            val_loader: of the Trainer.

        Raises:
            ConfigError: the Trainer has no ``val_loader``.
        """
        if self.monitor.startswith("val_") and val_loader is None:
            raise ConfigError(
                "monitor", self.monitor, "needs a val_loader; give the Trainer one, or monitor 'train_loss'"
            )

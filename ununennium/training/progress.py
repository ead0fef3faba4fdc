"""Progress of training, in numbers and in words; needs no torch, so that launchers and watchers can read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ununennium.formatting import duration_text, number


@dataclass(frozen=True)
class TrainingProgress:
    """Progress of training.

    Attributes:
        told: when rank 0 said so, in seconds since 1970 by its clock.
        epoch: number of the epoch under way, from 1; the last one when all are done.
        epochs: maximum number of epochs of the run.
        batches_done: of the epoch under way.
        batches: of an epoch, on each rank; None for a loader without a length.
        share: of all batches of all epochs that are done, from 0 to 1.
        speed: batches per second since training was started or resumed, with validation; None before the first.
        figures: loss of the epoch under way, as its mean so far, and the monitored metric of the last epoch.
        is_validating: the batches of the epoch are done, and those of validation under way.
    """

    told: float
    epoch: int
    epochs: int
    batches_done: int
    batches: int | None
    share: float
    speed: float | None
    figures: Mapping[str, float] = field(default_factory=dict)
    is_validating: bool = False

    @staticmethod
    def values_of(beat: Mapping[str, Any]) -> dict[str, Any]:
        """Values of the attributes, from a heartbeat: what ``callbacks.progress.beat_of`` returns.

        Raises:
            KeyError, TypeError: it is no heartbeat.
        """
        batches, epochs = beat["batches"], beat["epochs"]
        done, whole = beat["epoch"] * (batches or 0) + beat["batches_done"], epochs * (batches or 0)
        passed_s, since = beat["time"] - beat["started"], done - beat["started_at"]
        is_over = beat["epoch"] >= epochs
        return {
            "told": float(beat["time"]),
            "epoch": min(beat["epoch"] + 1, epochs),
            "epochs": epochs,
            "batches_done": batches if is_over and batches is not None else beat["batches_done"],
            "batches": batches,
            "share": min(1.0, done / whole) if whole else float(is_over or batches == 0),
            "speed": since / passed_s if since > 0 and passed_s > 0 and batches is not None else None,
            "figures": beat.get("figures", {}),
            "is_validating": beat.get("validating", False),
        }

    @property
    def position(self) -> str:
        """``epoch 2 of 9, batch 4 of 16``."""
        of_batches = "" if self.batches is None else f" of {self.batches}"
        return f"epoch {self.epoch} of {self.epochs}, batch {self.batches_done}{of_batches}"

    @property
    def left_s(self) -> float | None:
        """Seconds until the last epoch ends, at this speed; None if that is not known."""
        if self.speed is None or self.batches is None:
            return None
        return (1 - self.share) * self.epochs * self.batches / self.speed


def progress_text(progress: TrainingProgress, width: int | None = None) -> str:
    """``epoch 2 of 9, batch 4 of 16; loss 0.4123  val_IoU 0.3100; 3.1 batches/s, at most 5 min 10 s left``.

    Args:
        progress: of a run.
        width: columns that there are for it; the speed is left out if it is too long. None for no limit.
    """
    figures = "  ".join(f"{name} {number(value)}" for name, value in progress.figures.items())
    position = progress.position + (", validating" if progress.is_validating else "")
    left_s = progress.left_s
    if progress.speed is None or left_s is None:
        return "; ".join(part for part in (position, figures) if part)
    left = f"at most {duration_text(left_s)} left"
    text = "; ".join(part for part in (position, figures, f"{progress.speed:.3g} batches/s, {left}") if part)
    if width is None or len(text) <= width:
        return text
    return "; ".join(part for part in (position, figures, left) if part)

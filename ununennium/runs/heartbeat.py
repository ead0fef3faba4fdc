"""Progress of a run that trains, from the heartbeat that its rank 0 rewrites every few seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ununennium.runs.directory import RunDirectory


@dataclass(frozen=True)
class RunProgress:
    """Progress of training.

    Attributes:
        told: when rank 0 said so, in seconds since 1970 by its clock.
        epoch: number of the epoch under way, from 1; the last one when all are done.
        epochs: maximum number of epochs of the run.
        batches_done: of the epoch under way.
        batches: of an epoch, on each rank.
        share: of all batches of all epochs that are done, from 0 to 1.
        speed: batches per second since training was started or resumed, with validation; None before the first.
    """

    told: float
    epoch: int
    epochs: int
    batches_done: int
    batches: int
    share: float
    speed: float | None

    @classmethod
    def of(cls, run: RunDirectory) -> RunProgress | None:
        """Progress of ``run``, as far as its work folder tells; None before the first heartbeat."""
        try:
            beat = json.loads(run.heartbeat_file.read_text(encoding="utf-8"))
            batches, epochs = beat["batches"], beat["epochs"]
            done, whole = beat["epoch"] * batches + beat["batches_done"], epochs * batches
            passed_s, since = beat["time"] - beat["started"], done - beat["started_at"]
            return cls(
                told=float(beat["time"]),
                epoch=min(beat["epoch"] + 1, epochs),
                epochs=epochs,
                batches_done=beat["batches_done"] if beat["epoch"] < epochs else batches,
                batches=batches,
                share=min(1.0, done / whole) if whole else 1.0,
                speed=since / passed_s if since > 0 and passed_s > 0 else None,
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @property
    def position(self) -> str:
        """``epoch 2 of 9, batch 4 of 16``."""
        return f"epoch {self.epoch} of {self.epochs}, batch {self.batches_done} of {self.batches}"

    @property
    def left_s(self) -> float | None:
        """Seconds until the last epoch ends, at this speed; None if that is not known."""
        return None if self.speed is None else (1 - self.share) * self.epochs * self.batches / self.speed

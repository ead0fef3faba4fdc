"""Progress of a run that trains, from the heartbeat that its rank 0 rewrites every few seconds."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ununennium.training.progress import TrainingProgress

if TYPE_CHECKING:
    from ununennium.runs.directory import RunDirectory


@dataclass(frozen=True)
class RunProgress(TrainingProgress):
    """Progress of training, as the work folder of its run tells."""

    @classmethod
    def of(cls, run: RunDirectory) -> RunProgress | None:
        """Progress of ``run``, as far as its work folder tells; None before the first heartbeat."""
        try:
            return cls(**cls.values_of(json.loads(run.heartbeat_file.read_text(encoding="utf-8"))))
        except (OSError, ValueError, KeyError, TypeError):
            return None

"""A run that trains, in words and for a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ununennium.moved import former_name
from ununennium.report.rows import duration_text, number
from ununennium.runs.heartbeat import RunProgress
from ununennium.tasks import progress_metrics


def progress_text(progress: RunProgress) -> str:
    """``epoch 2 of 9, batch 4 of 16; 3.1 batches/s, at most 5 min 10 s left``."""
    left_s = progress.left_s
    if progress.speed is None or left_s is None:
        return progress.position
    return f"{progress.position}; {progress.speed:.3g} batches/s, at most {duration_text(left_s)} left"


def metrics_text(row: Mapping[str, Any]) -> str:
    """The main metrics of an epoch, from its line of ``metrics.jsonl``."""
    return "  ".join(f"{name} {number(row[name])}" for name in progress_metrics(row))


def history_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Metric name to one value per epoch, from the lines of ``metrics.jsonl``; None where there is none."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(("train_loss", "val_")))
    return {name: [row.get(name) for row in rows] for name in names}


def __getattr__(name: str) -> Any:
    return former_name(__name__, name)

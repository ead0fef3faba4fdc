"""A run that trains, in words and for a curve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ununennium.moved import former_name
from ununennium.report.rows import number
from ununennium.tasks import progress_metrics
from ununennium.training.progress import progress_text as progress_text


def metrics_text(row: Mapping[str, Any]) -> str:
    """The main metrics of an epoch, from its line of ``metrics.jsonl``."""
    return "  ".join(f"{name} {number(row[name])}" for name in progress_metrics(row))


def history_of(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """Metric name to one value per epoch, from the lines of ``metrics.jsonl``; None where there is none."""
    names = dict.fromkeys(name for row in rows for name in row if name.startswith(("train_loss", "val_")))
    return {name: [row.get(name) for row in rows] for name in names}


def __getattr__(name: str) -> Any:
    return former_name(__name__, name)

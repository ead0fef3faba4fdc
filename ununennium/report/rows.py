"""Results of a run as rows for a table and as one page of Markdown; no numerics."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ununennium.evaluation.records import EvaluationRecord, GateRecord
from ununennium.files import finite
from ununennium.formatting import duration_text as duration_text
from ununennium.formatting import number as number
from ununennium.runs.records import RunSummary
from ununennium.tasks import headline

WORDS = {
    "completed": "all epochs done",
    "early_stopped": "early stopping",
    "preempted": "asked to stop",
    "timed_out": "time limit reached",
    "failed": "failed",
    None: "still running, or lost",
}
"""Why training stopped, in words."""
MAX_PICTURE_BYTES = 400_000


def metric_rows(evaluation: EvaluationRecord | Mapping[str, Any]) -> list[dict[str, str]]:
    """Holdout metrics, new model beside champion: IoU and F1 per class, or a row for each metric without classes.

    Args:
        evaluation: the contents of ``evaluation.json``.
    """
    record = EvaluationRecord.of(evaluation)
    new = finite(record.new_model.metrics)
    champion = None if record.champion is None else finite(record.champion.metrics)
    shown = headline(new)
    families = [name for name, value in shown.items() if isinstance(value, Mapping)]
    rows = []
    for label in _labels(shown):
        row = {"class": label, **{family: number(new[family].get(label)) for family in families}}
        if champion is not None:
            row |= {f"champion {family}": number(champion[family].get(label)) for family in families}
        rows.append(row)
    if not families:
        for name, value in shown.items():
            row = {"metric": name, "value": number(value)}
            rows.append(row if champion is None else {**row, "champion": number(champion.get(name))})
    return rows


def gate_rows(gate: GateRecord) -> list[dict[str, str]]:
    """Every check of the gate."""
    return [
        {
            "check": check.name,
            "value": number(check.value),
            "threshold": number(check.threshold),
            "champion or baseline": number(check.baseline),
            "passed": "yes" if check.passed else "no",
        }
        for check in gate.checks
    ]


def closing_rows(summary: RunSummary) -> list[tuple[str, str]]:
    """The closing table: what came out, and where everything is."""
    rows = [
        ("run", summary.run_id),
        ("stop reason", f"{summary.stop_reason} ({WORDS.get(summary.stop_reason, '')})"),
        ("epochs", f"{summary.epochs or 0}, best {summary.best_epoch or '-'}"),
    ]
    if summary.data_wait is not None:
        rows.append(("waiting for data", f"{summary.data_wait:.1%} of the training time"))
    holdout = summary.holdout or {}
    for label in _labels(holdout):
        values = [f"{name} {number(of.get(label))}" for name, of in holdout.items() if isinstance(of, Mapping)]
        rows.append((f"holdout {label}", "   ".join(values)))
    single = [f"{name} {number(value)}" for name, value in holdout.items() if not isinstance(value, Mapping)]
    if single:
        rows.append(("holdout", "   ".join(single)))
    if summary.verdict:
        rows.append(("verdict", summary.verdict_text))
    if summary.verdict or summary.reason:
        rows.append(("reason", str(summary.reason)))
    if summary.champion:
        rows.append(("champion", f"generation {summary.champion.generation}, {summary.champion.url}"))
    return [*rows, *summary.places.items()]


def markdown(summary: RunSummary, evaluation: EvaluationRecord, gate: GateRecord, pictures: list[Path]) -> str:
    """One page with the verdict, the tables and the pictures, which are embedded so that the page is whole anywhere."""
    parts = [
        f"# {summary.name}: {summary.verdict_text}",
        str(summary.reason),
        "## Holdout",
        _table(metric_rows(evaluation)),
        "## Gate",
        _table(gate_rows(gate)),
        "## Run",
        _table([{"": key, " ": f"`{value}`"} for key, value in closing_rows(summary)]),
    ]
    for picture in pictures:
        title = picture.stem.replace("_", " ").capitalize()
        parts += [
            f"## {title}",
            data_uri(picture.read_bytes(), title, f"{summary.places['files']}/pictures/{picture.name}"),
        ]
    return "\n\n".join(parts) + "\n"


def data_uri(content: bytes, title: str, location: str) -> str:
    """A PNG as an embedded Markdown image; of one that is too large for a database row, its place."""
    if len(content) > MAX_PICTURE_BYTES:
        return f"{title}: `{location}` ({len(content) // 1024} kB, too large to embed)"
    return f"![{title}](data:image/png;base64,{base64.b64encode(content).decode('ascii')})"


def _labels(metrics: Mapping[str, Any]) -> list[str]:
    """The classes of metrics that have a value for each, ``mean`` first."""
    found = next((list(value) for value in metrics.values() if isinstance(value, Mapping)), [])
    return [*(name for name in found if name == "mean"), *(name for name in found if name != "mean")]


def _table(rows: list[dict[str, str]]) -> str:
    if not rows:
        return "Nothing to show."
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(value.replace("|", "\\|") for value in row.values()) + " |" for row in rows]
    return "\n".join(lines)

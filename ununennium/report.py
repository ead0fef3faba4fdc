"""What a finished run has to say, as rows for a table and as one page of Markdown; no numerics."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_WORDS = {
    "completed": "all epochs done",
    "early_stopped": "early stopping",
    "preempted": "asked to stop",
    "timed_out": "time limit reached",
    "failed": "failed",
    None: "still running, or lost",
}
MAX_PICTURE_BYTES = 400_000


def metric_rows(evaluation: Mapping[str, Any]) -> list[dict[str, str]]:
    """Holdout IoU and F1 per class, new model beside champion.

    Args:
        evaluation: the contents of ``evaluation.json``.
    """
    new = evaluation["challenger"]["metrics"]
    champion = (evaluation.get("champion") or {}).get("metrics")
    rows = []
    for name in ["mean", *(name for name in new["IoU"] if name != "mean")]:
        row = {"class": name, "IoU": number(new["IoU"].get(name)), "F1": number(new["F1"].get(name))}
        if champion is not None:
            row["champion IoU"] = number(champion["IoU"].get(name))
            row["champion F1"] = number(champion["F1"].get(name))
        rows.append(row)
    return rows


def gate_rows(gate: Mapping[str, Any]) -> list[dict[str, str]]:
    """Every check of the gate."""
    return [
        {
            "check": str(check["name"]),
            "value": number(check.get("value")),
            "threshold": number(check.get("threshold")),
            "champion": number(check.get("baseline")),
            "passed": "yes" if check["passed"] else "no",
        }
        for check in gate["checks"]
    ]


def closing_rows(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The closing table: what came out, and where everything is."""
    rows = [
        ("run", str(summary["run_id"])),
        ("stop reason", f"{summary['stop_reason']} ({_WORDS.get(summary['stop_reason'], '')})"),
        ("epochs", f"{summary.get('epochs') or 0}, best {summary['best_epoch'] or '-'}"),
    ]
    if summary.get("data_wait") is not None:
        rows.append(("waiting for data", f"{summary['data_wait']:.1%} of the training time"))
    holdout = summary.get("holdout") or {}
    for name in holdout.get("IoU", {}):
        rows.append((f"holdout {name}", f"IoU {number(holdout['IoU'][name])}   F1 {number(holdout['F1'].get(name))}"))
    if summary.get("verdict"):
        rows += [("verdict", str(summary["verdict"]).replace("_", " ")), ("reason", str(summary["reason"]))]
    elif summary.get("reason"):
        rows.append(("reason", str(summary["reason"])))
    champion = summary.get("champion")
    if champion:
        rows.append(("champion", f"generation {champion['generation']}, {champion['url']}"))
    for name, place in (summary.get("places") or {}).items():
        rows.append((name, str(place)))
    return rows


def markdown(
    summary: Mapping[str, Any], evaluation: Mapping[str, Any], gate: Mapping[str, Any], pictures: list[Path]
) -> str:
    """One page with the verdict, the tables and the pictures, which are embedded so that the page is whole anywhere."""
    parts = [
        f"# {summary['name']}: {str(summary['verdict']).replace('_', ' ')}",
        str(summary["reason"]),
        "## Holdout",
        _table(metric_rows(evaluation)),
        "## Gate",
        _table(gate_rows(gate)),
        "## Run",
        _table([{"": key, " ": f"`{value}`"} for key, value in closing_rows(summary)]),
    ]
    for picture in pictures:
        title = picture.stem.replace("_", " ").capitalize()
        parts += [f"## {title}", data_uri(picture, title)]
    return "\n\n".join(parts) + "\n"


def data_uri(picture: Path, title: str) -> str:
    """A PNG as an embedded Markdown image; one that is too large for a database row is only named."""
    content = picture.read_bytes()
    if len(content) > MAX_PICTURE_BYTES:
        return f"{title}: `{picture.name}` beside the run's files ({len(content) // 1024} kB, too large to embed)"
    return f"![{title}](data:image/png;base64,{base64.b64encode(content).decode('ascii')})"


def number(value: Any) -> str:
    """A metric with four digits; a dash where there is none."""
    return "-" if value is None or value != value else f"{float(value):.4f}"


def _table(rows: list[dict[str, str]]) -> str:
    if not rows:
        return "Nothing to show."
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + " --- |" * len(rows[0])]
    lines += ["| " + " | ".join(value.replace("|", "\\|") for value in row.values()) + " |" for row in rows]
    return "\n".join(lines)

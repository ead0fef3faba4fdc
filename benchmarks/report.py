"""What a run leaves: one JSON file, and the generated part of docs/performance.md."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from benchmarks.harness import ROOT, Aim, Effort, Figure, Figures, Measured, Result, Run, Table
from benchmarks.rows import ROWS, Row

RESULTS = ROOT / "benchmarks" / "results"
DOCUMENT = ROOT / "docs" / "performance.md"
COMMANDS: dict[Effort, str] = {
    "quick": "`make bench ARGS=--quick`: too few rounds to quote",
    "usual": "`make bench`",
    "full": "`make bench ARGS=--full`",
}
HEADINGS = {name: row.work for name, row in ROWS.items()}


# ---------------------------------------------------------------------- the file


def check(result: Any, kind: Any = Result) -> Any:
    """``result``, if it has the form of ``kind``.

    Raises:
        pydantic.ValidationError: it has not; the message names the field.
    """
    from pydantic import TypeAdapter

    return TypeAdapter(kind).validate_python(result)


def save(run: Run, file: Path) -> None:
    """Write ``run`` whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    fresh = file.with_suffix(".tmp")
    fresh.write_text(json.dumps(run, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    fresh.replace(file)


def newest(folder: Path = RESULTS) -> Path | None:
    """The file of the newest complete comparison (their names begin with the time), or None."""
    return max(folder.glob("[0-9]*-all.json"), default=None)


def read(file: Path) -> Run:
    """The run in ``file``, checked.

    Raises:
        pydantic.ValidationError: it is of another form.
    """
    return cast(Run, check(json.loads(file.read_text(encoding="utf-8")), Run))


def remove_older(file: Path) -> None:
    """Of the complete comparisons, keep ``file`` alone: the repository has the older ones in its history."""
    for other in file.parent.glob("[0-9]*-all.json"):
        if other != file:
            other.unlink()


# ---------------------------------------------------------------------- the document


def put(text: str, part: str, document: Path = DOCUMENT) -> None:
    """Replace what stands between the markers of ``part`` in ``document``.

    Raises:
        ValueError: the markers are not there.
    """
    begin, end = f"<!-- {part}: begin -->", f"<!-- {part}: end -->"
    content = document.read_text(encoding="utf-8")
    before, found, rest = content.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"{document.name} lacks the line {begin if not found else end!r}")
    document.write_text(f"{before}{begin}\n{text.strip()}\n{end}{after}", encoding="utf-8")


def markdown(run: Run) -> str:
    """The run as Markdown: the aims first, then each row with all its contenders."""
    parts = [_provenance(run), *_overview(run["rows"])]
    for measured in run["rows"]:
        parts += ["", f"### {HEADINGS.get(measured['name'], measured['name'])}", *_row(measured, run)]
    return "\n".join(parts)


def _provenance(run: Run) -> str:
    machine = ", ".join(_machine(run["hardware"]))
    packages = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"{COMMANDS[run['effort']]}, {run['started']}, commit `{run['commit']}`, {machine}; {packages}."


def _machine(hardware: Mapping[str, Any]) -> Iterable[str]:
    units = {"cores": " cores", "memory_gb": " GB of memory"}
    return (f"{value}{units.get(name, '')}" for name, value in hardware.items())


def _overview(rows: Iterable[Measured]) -> list[str]:
    lines = ["", "| work | what | aim | found | met |", "| --- | --- | --- | --- | --- |"]
    for measured in rows:
        result = measured["result"]
        if result is None:
            aim = ROWS[measured["name"]].aim if measured["name"] in ROWS else ""
            lines.append(f"| {measured['name']} | not measured: {_cell(measured['reason'])} | {_cell(aim)} | | |")
            continue
        lines += [f"| {measured['name']} | {_cells(one)} |" for one in result["aims"]]
    return lines


def _cells(one: Aim) -> str:
    met = {True: "yes", False: "**no**", None: "not measured"}[one["met"]]
    return " | ".join(map(_cell, (one["what"], one["aim"], "" if one["found"] is None else _number(one["found"]), met)))


def _row(measured: Measured, run: Run) -> list[str]:
    lines = []
    if measured["commit"] != run["commit"] or measured["started"] < run["started"]:
        machine = ", ".join(_machine(measured.get("hardware", {})))
        place = f"{measured['started']}, commit `{measured['commit']}`, {machine}"
        lines += ["", f"Measured by itself: {COMMANDS[measured['effort']]}, {place}."]
    if measured["result"] is None:
        return [*lines, "", f"Not measured: {measured['reason']}"]
    return [*lines, *_shown(measured["result"])]


def standing_alone(result: Result, heading: str) -> str:
    """One result as Markdown, with its aims, outside the comparison of all rows."""
    lines = [f"{heading}.", "", "| what | aim | found | met |", "| --- | --- | --- | --- |"]
    return "\n".join([*lines, *(f"| {_cells(one)} |" for one in result["aims"]), *_shown(result)])


def _shown(result: Result) -> list[str]:
    lines: list[str] = []
    for each in result["tables"]:
        lines += ["", *_table(each)]
    if "limit" in result:
        lines += ["", f"Physical limit: {result['limit']}."]
    for note in result.get("notes", []):
        lines += ["", note]
    return lines


def _table(each: Table) -> list[str]:
    columns = list(dict.fromkeys(name for figures in each["contenders"].values() for name in figures))
    columns = [name for name in columns if name != "failed"] or ["figure"]
    lines = [f"| {_cell(each['title'])} | {' | '.join(map(_cell, columns))} |", "|" + " --- |" * (1 + len(columns))]
    for contender, figures in each["contenders"].items():
        lines.append(f"| {_cell(contender)} | {' | '.join(_contender(figures, columns))} |")
    return lines


def _contender(figures: Figures, columns: list[str]) -> list[str]:
    if "failed" in figures:
        return [f"left out: {_cell(str(figures['failed']))}", *[""] * (len(columns) - 1)]
    return [_cell(_number(figures.get(name))) for name in columns]


def _number(figure: Figure) -> str:
    if figure is None:
        return ""
    if isinstance(figure, dict):
        low, high = figure["quartiles"]
        middle = _number(figure["median"])
        return middle if figure["rounds"] == 1 else f"{middle} ({_number(low)} to {_number(high)})"
    if isinstance(figure, bool):
        return "yes" if figure else "no"
    if isinstance(figure, float):
        return f"{figure:,.0f}" if abs(figure) >= 1000 or figure == int(figure) else f"{figure:,g}"
    return f"{figure:,}" if isinstance(figure, int) else figure


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


# ---------------------------------------------------------------------- the list


def listing(rows: Iterable[Row]) -> str:
    """Every row with its contenders and its aim, for a terminal."""
    lines = []
    for row in rows:
        quick, usual, full = row.seconds
        lines += [
            f"{row.name:<10} {row.work}",
            f"{'':10} contenders: {row.contenders}",
            f"{'':10} aim: {row.aim}",
            f"{'':10} about {usual} s, with --full {full} s, with --quick {quick} s",
        ]
    return "\n".join(lines)

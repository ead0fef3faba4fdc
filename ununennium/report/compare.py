"""Comparison of two runs: configuration, data, code, metrics, time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from ununennium.report import scores, sections
from ununennium.report.facts import Facts, metrics_of
from ununennium.report.page import Cell, Page, Section, Table, Text
from ununennium.report.rows import number
from ununennium.version import __version__

_UNSAID = ("storage",)


class Difference(NamedTuple):
    """One thing in which two runs differ.

    Attributes:
        part: ``configuration``, ``data``, ``code``, ``metrics`` or ``cost``.
        what: path of the value, such as ``optimizer.kwargs.lr``.
        first: of the first run, in words.
        second: of the second.
        change: of a metric the second's value minus the first's, with the tone of better or worse; else empty.
    """

    part: str
    what: str
    first: str
    second: str
    change: Cell = Cell("")


PARTS = {
    "metrics": "Metrics on the holdout",
    "configuration": "Configuration",
    "data": "Data",
    "code": "Code and environment",
    "cost": "Time and cost",
}
"""The parts of a comparison, and their headings."""


def compare(first: Facts, second: Facts) -> list[Difference]:
    """Everything in which two runs differ, part by part; metrics and cost also where they are equal."""
    return [
        *_metrics(first, second),
        *_unequal("configuration", _flat(first.config), _flat(second.config)),
        *_unequal("data", _data(first), _data(second)),
        *_unequal("code", _code(first), _code(second)),
        *(
            Difference("cost", name, one, other)
            for name, one, other in _paired(dict(sections.cost_rows(first)), dict(sections.cost_rows(second)))
        ),
    ]


def same_holdout(first: Facts, second: Facts) -> bool | None:
    """Tell whether both were measured on the same pixels; None if one was not measured."""
    one, other = first.challenger, second.challenger
    if one is None or other is None:
        return None
    mine, theirs = (one.split_sha256, one.data_sha256), (other.split_sha256, other.data_sha256)
    return all(mine) and mine == theirs


def caution(first: Facts, second: Facts) -> str | None:
    """Caution before the metrics are compared; None if there is nothing."""
    same = same_holdout(first, second)
    if same is None:
        return "One of the runs has not been evaluated: there are no metrics to compare."
    if not same:
        return "The two were measured on different holdouts: their metrics are not comparable."
    return None


def comparison_page(first: Facts, second: Facts) -> Page:
    """The same as a page."""
    found = compare(first, second)
    parts = []
    names = [facts.record.run_id for facts in (first, second)]
    for part, title in PARTS.items():
        mine = [difference for difference in found if difference.part == part]
        with_change = any(difference.change.text for difference in mine)
        columns = [part, *names, *["difference"] * with_change]
        rows: list[list[Cell | str]] = [[d.what, d.first, d.second] for d in mine]
        if with_change:
            rows = [[*row, difference.change] for row, difference in zip(rows, mine, strict=True)]
        blocks: list[Any] = [Table(title, columns, rows, numbers=part == "metrics")] if rows else []
        if part == "metrics" and (warning := caution(first, second)):
            blocks.insert(0, Text(warning, "bad"))
        parts.append(Section(part, title, blocks or [Text("No difference.", "quiet")]))
    changed = sum(difference.part in ("configuration", "data", "code") for difference in found)
    return Page(
        title=f"{names[0]} beside {names[1]}",
        kicker="Comparison of two runs",
        heading=f"{first.record.name} beside {second.record.name}",
        tone="",
        summary=f"{names[0]} and {names[1]} differ in {changed} settings, data and versions.",
        tiles=[],
        sections=parts,
        footer=f"Written by ununennium {__version__} from the files of the runs.",
    )


def _metrics(first: Facts, second: Facts) -> list[Difference]:
    one, other = (_flat(metrics_of(facts.challenger)) for facts in (first, second))
    found = []
    for name, a, b in _paired(one, other):
        change = scores.difference(name, b, a) if same_holdout(first, second) else Cell("")
        found.append(Difference("metrics", name, number(a), number(b), change))
    return found


def _unequal(part: str, first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    return [
        Difference(part, name, _said(a), _said(b))
        for name, a, b in _paired(first, second)
        if a != b and name not in _UNSAID
    ]


def _paired(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Names of both, in the order of the first, with both values; None where one has none."""
    return [(name, first.get(name), second.get(name)) for name in dict.fromkeys([*first, *second])]


def _data(facts: Facts) -> dict[str, Any]:
    data = facts.plan.get("data") or {}
    folds = {
        f"labelled pixels, {fold}": f"{counts['labelled']:,}" for fold, counts in (data.get("folds") or {}).items()
    }
    scenes = ", ".join(str(scene["name"]) for scene in data.get("scenes", []))
    return {"scenes": scenes, **folds, "data": data.get("data_sha256"), "split": data.get("split_sha256")}


def _code(facts: Facts) -> dict[str, Any]:
    record = facts.record
    hardware = (facts.result.get("cost") or {}).get("hardware") or {}
    return {
        "commit": record.git_commit,
        **record.versions,
        "host": record.host,
        "device": facts.result.get("device"),
        "precision": facts.result.get("precision"),
        "processes": facts.result.get("world_size"),
        "processor": hardware.get("processor"),
    }


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as dotted paths; lists of sections by place."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, list) and any(isinstance(item, Mapping) for item in value):
            value = {str(position): item for position, item in enumerate(value)}
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{path}.")
        else:
            found[path] = value
    return found


def _said(value: Any) -> str:
    return "-" if value is None else str(value)

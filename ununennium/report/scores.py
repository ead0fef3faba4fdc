"""The part of a report that says how good the model is: its metrics beside the champion's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ununennium.report.charts import interval_mark
from ununennium.report.facts import Facts, metrics_of
from ununennium.report.page import Cell, Section, Table
from ununennium.report.rows import number
from ununennium.report.sections import section
from ununennium.tasks import LOWER_IS_BETTER, goodness


def main_family(facts: Facts) -> str | None:
    """The metric that the gate looks at, without a class; the first that was measured if it has none of that name."""
    metrics = metrics_of(facts.challenger)
    wanted = str(facts.config["gate"].get("metric", "")).partition(".")[0]
    return wanted if wanted in metrics else next(iter(metrics), None)


def main_figures(facts: Facts) -> tuple[str, float | None, float | None] | None:
    """Name of the metric that the gate looks at, the new model's, and the champion's."""
    family = main_family(facts)
    if family is None:
        return None
    wanted = str(facts.config["gate"].get("metric", ""))
    label = wanted.partition(".")[2] if wanted.partition(".")[0] == family else ""
    values = [_value(metrics_of(side).get(family), label or "mean") for side in (facts.challenger, facts.champion)]
    return (f"{family}.{label}" if label else family), values[0], values[1]


def metrics(facts: Facts) -> Section | None:
    """A table of every class, and one of the metrics that have a single value."""
    measured = metrics_of(facts.challenger)
    family = main_family(facts)
    if not measured or family is None:
        return None
    blocks = []
    if isinstance(measured[family], Mapping):
        blocks.append(_per_class(facts, family))
    single = {name: value for name, value in measured.items() if not isinstance(value, Mapping)}
    if single:
        blocks.append(_single(facts, single))
    return section("metrics", "Metrics on the holdout", blocks)


def _per_class(facts: Facts, family: str) -> Table:
    measured, champion = metrics_of(facts.challenger), metrics_of(facts.champion).get(family)
    others = [name for name, value in measured.items() if isinstance(value, Mapping) and name != family]
    labels = [*(label for label in measured[family] if label == "mean"), *_classes(measured[family])]
    intervals = {label: difference_interval(facts, _full_name(family, label)) for label in labels}
    with_intervals = any(intervals.values())
    columns = ["class", family, *_beside_champion(facts, champion is not None, with_intervals), *others]
    rows: list[list[Cell | str]] = []
    for label in labels:
        value, baseline, interval = measured[family].get(label), (champion or {}).get(label), intervals[label]
        ends: tuple[float | None, float | None] = (None, None)
        if interval is not None and baseline is not None:
            ends = baseline + interval[0], baseline + interval[1]
        mark = interval_mark(value, *ends, baseline, (0.0, 1.0))
        row: list[Cell | str] = ["mean over classes" if label == "mean" else label, Cell(number(value), mark=mark)]
        if champion is not None:
            row += [number(baseline), difference(family, value, baseline)]
        if with_intervals:
            row.append(change_text(interval))
        rows.append([*row, *(number(measured[name].get(label)) for name in others)])
    said = f"{family} of the new model" + (": dot; champion: bar" if champion is not None else "")
    said += "; line: the champion's with the interval of the difference" if with_intervals else ""
    return Table(f"{said}. The scale runs from 0 to 1.", columns, rows, numbers=True)


def _single(facts: Facts, single: Mapping[str, Any]) -> Table:
    champion = None if facts.champion is None else metrics_of(facts.champion)
    intervals = {name: difference_interval(facts, name) for name in single}
    with_intervals = any(intervals.values())
    columns = ["metric", "new model", *_beside_champion(facts, champion is not None, with_intervals)]
    rows: list[list[Cell | str]] = []
    for name, value in single.items():
        row: list[Cell | str] = [name, number(value)]
        if champion is not None:
            row += [number(champion.get(name)), difference(name, value, champion.get(name))]
        if with_intervals:
            row.append(change_text(intervals[name]))
        rows.append(row)
    return Table("Over all classes", columns, rows, numbers=True)


def _beside_champion(facts: Facts, there: bool, with_intervals: bool) -> list[str]:
    confidence = (facts.gate.bootstrap or {}).get("confidence")
    share = f"{confidence:.0%} " if isinstance(confidence, int | float) else ""
    return ["champion", "difference"] * there + [f"{share}interval of the difference"] * with_intervals


def difference(metric: str, value: Any, baseline: Any) -> Cell:
    """A change beside the champion, with its sign; good and bad as the metric has it."""
    if value is None or baseline is None:
        return Cell("-", "quiet")
    change = goodness(metric, float(value)) - goodness(metric, float(baseline))
    tone = "good" if change > 0 else "bad" if change < 0 else "quiet"
    return Cell(f"{float(value) - float(baseline):+.4f}", tone)


def difference_interval(facts: Facts, metric: str) -> tuple[float, float] | None:
    """The interval that the gate drew of a metric's difference to the champion; None where it drew none.

    The gate counts what is better as positive; this is the plain difference, of an error negative where it is better.
    """
    for check in facts.gate.checks:
        if check.name in (f"improvement of {metric}", f"class drop {metric}") and check.interval:
            low, high = check.interval
            if metric.partition(".")[0] in LOWER_IS_BETTER:
                low, high = -high, -low
            return low, high
    return None


def change_text(interval: Sequence[float] | None) -> str:
    """``-0.0123 to +0.0456``; a dash of nothing."""
    return "-" if interval is None else f"{interval[0]:+.4f} to {interval[1]:+.4f}"


def _full_name(family: str, label: str) -> str:
    return family if label == "mean" else f"{family}.{label}"


def _classes(values: Mapping[str, Any]) -> list[str]:
    return [label for label in values if label != "mean"]


def _value(metric: Any, label: str) -> float | None:
    value = metric.get(label) if isinstance(metric, Mapping) else metric
    return None if value is None else float(value)

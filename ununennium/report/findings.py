"""The parts of a report beyond the metrics: how far confidences can be trusted, where the model is weak, areas."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ununennium.evaluation.evaluation import ClassArea, Slice
from ununennium.report.charts import reliability_chart
from ununennium.report.facts import Facts
from ununennium.report.page import Cell, Charts, Folded, Section, Table, Text
from ununennium.report.rows import number
from ununennium.report.scores import main_family
from ununennium.report.sections import section

_MOST_SLICES = 15
_HECTARE_M2 = 1e4
_NORMAL_95 = 1.96
_AREAS_IN_WORDS = (
    "± is a 95 % interval of the sampling error, 1.96 standard errors with the finite population correction: labels "
    "are taken as a random sample of the mapped holdout, and it is 0 where each of its pixels has one. Intervals by "
    "blocks, in brackets for accuracies, take the holdout as a cluster sample of blocks (Stehman 1997), and speak of "
    "the area that blocks were held out of; they take 6 blocks or more."
)
_TITLES = {"scene": "By scene", "date": "By date", "block": "The blocks in which most is wrong"}


def reliability(facts: Facts) -> Section | None:
    """Accuracy over confidence, with and without the temperature that was fitted on the validation fold."""
    found = None if facts.challenger is None else facts.challenger.calibration
    if found is None:
        return None
    curves = [("as it is used", found.bins), ("without temperature", found.raw_bins)]
    if found.temperature == 1:
        curves = curves[:1]
    drawn = reliability_chart("Reliability", [(name, _dots(bins)) for name, bins in curves])
    said = (
        f"Expected calibration error {number(found.ece)} with temperature {found.temperature:.3g}, fitted on the "
        f"validation fold; {number(found.raw_ece)} without."
    )
    if not math.isnan(found.corrected_ece):
        said += f" Without the bias that noise adds: {number(found.corrected_ece)} with, "
        said += f"{number(found.raw_corrected_ece)} without."
    if found.ece_interval:
        low, high = found.ece_interval
        said += f" 95 % interval by blocks, with temperature: {number(low)} to {number(high)}."
    below = "Dots below the dashed diagonal are over-confident. A dot's area is its share of the pixels."
    charts = None if drawn is None else Charts([("Accuracy over confidence", drawn.svg, drawn.names)])
    return section("reliability", "Reliability", [Text(said), charts, Text(below, "quiet") if charts else None])


def _dots(bins: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, float]]:
    total = sum(each["count"] for each in bins)
    return [
        (each["confidence"], each["accuracy"], each["count"] / total)
        for each in bins
        if each["count"] and not math.isnan(each["confidence"]) and not math.isnan(each["accuracy"])
    ]


def slices(facts: Facts) -> Section | None:
    """Parts of the holdout, the worst of them in words, each beside the champion on the same part."""
    family = main_family(facts)
    if facts.challenger is None or not facts.challenger.slices or family is None:
        return None
    ours = facts.challenger.slices
    theirs = {(part.by, part.value): part for part in (facts.champion.slices if facts.champion else [])}
    blocks: list[Any] = [Text(f"{line[:1].upper()}{line[1:]}.") for line in facts.challenger.worst]
    for by in dict.fromkeys(part.by for part in ours):
        table = _slice_table(by, [part for part in ours if part.by == by], theirs, family)
        blocks.append(table if len(table.rows) <= _MOST_SLICES else Folded(f"All {len(table.rows)}: {by}", [table]))
    return section("slices", "Parts of the holdout", blocks)


def _slice_table(by: str, parts: Sequence[Slice], theirs: Mapping[tuple[str, str], Slice], family: str) -> Table:
    labels = [""]
    if isinstance(parts[0].metrics.get(family), Mapping):
        labels = list(parts[0].metrics[family])[:8]
    names = [f"{family} {label}".strip() for label in labels]
    champion = any((part.by, part.value) in theirs for part in parts)
    rows: list[list[Cell | str]] = []
    for part in parts:
        row: list[Cell | str] = [part.value, f"{part.num_pixels:,}", f"{part.num_places:,}"]
        row += [number(_of(part, family, label)) for label in labels]
        if champion:
            row.append(number(_of(theirs.get((part.by, part.value)), family, labels[0])))
        rows.append(row)
    columns = [by, "labelled", "places", *names, *[f"champion's {names[0]}"] * champion]
    return Table(_TITLES.get(by, f"By {by}"), columns, rows, numbers=True)


def _of(part: Slice | None, family: str, label: str) -> Any:
    value = None if part is None else part.metrics.get(family)
    return value.get(label) if isinstance(value, Mapping) else value


def areas(facts: Facts) -> Section | None:
    """Area of each class as mapped, and as estimated with the labels."""
    found = None if facts.challenger is None else facts.challenger.areas
    if found is None:
        return None
    columns = ["class", "mapped", "estimated ± 95 % sampling error", "share, 95 % interval by blocks"]
    columns += ["user's accuracy", "producer's accuracy"]
    rows: list[list[Cell | str]] = [_area_row(each, found.mapped_m2 is not None) for each in found.classes]
    unit = "shares of the mapped area"
    if found.mapped_m2 is not None:
        unit = f"hectares of {found.mapped_m2 / _HECTARE_M2:,.4g}"
    caption = f"Areas on the holdout, {unit}, corrected for the errors that the labels show (Olofsson et al. 2014)"
    accuracy = _estimated(found.accuracy, found.accuracy_se, found.accuracy_interval)
    said = f"Accuracy by area {accuracy}. " + _AREAS_IN_WORDS
    if not found.accuracy_interval:
        said += " This holdout has too few blocks for that: margins here are the sampling error alone."
    return section("areas", "Areas", [Table(caption, columns, rows, numbers=True), Text(said, "quiet")])


def _area_row(each: ClassArea, measured: bool) -> list[Cell | str]:
    if measured:
        margin = None if each.area_se_m2 is None else _NORMAL_95 * each.area_se_m2
        areas = [each.mapped_m2, each.area_m2, margin]
        mapped, estimated, error = ("-" if area is None else f"{area / _HECTARE_M2:,.3g}" for area in areas)
    else:
        shares = each.mapped_share, each.share, _NORMAL_95 * each.share_se
        mapped, estimated, error = (_percent(share) for share in shares)
    interval = each.share_interval
    between = "-" if not interval else f"{_percent(interval[0])} to {_percent(interval[1])}"
    users = _estimated(each.users_accuracy, each.users_accuracy_se, each.users_accuracy_interval)
    producers = _estimated(each.producers_accuracy, each.producers_accuracy_se, each.producers_accuracy_interval)
    return [each.name, mapped, f"{estimated} ± {error}", between, users, producers]


def _estimated(value: float, error: float, interval: tuple[float, float] | None) -> str:
    """A value with its 95 % interval by blocks, or with its sampling error where there is none."""
    if interval:
        return f"{number(value)} ({number(interval[0])} to {number(interval[1])})"
    return f"{number(value)} ± {number(_NORMAL_95 * error)}"


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{share:.2%}"

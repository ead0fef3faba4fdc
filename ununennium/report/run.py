"""The report of a run: one HTML file, from whatever files the run has left."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from ununennium.files import write_text
from ununennium.report import findings, scores, sections
from ununennium.report.facts import Facts
from ununennium.report.page import Page, Section, Text, render
from ununennium.report.rows import WORDS, duration_text, number
from ununennium.runs.directory import RunDirectory
from ununennium.version import __version__

_HEADINGS = {
    "promoted": ("Promoted", "good"),
    "not_promoted": ("Not promoted", "warn"),
    "failed": ("Failed", "bad"),
    "preempted": ("Interrupted", "warn"),
    "timed_out": ("Stopped by its time limit", "warn"),
}
_NOT_JUDGED = {"completed", "early_stopped"}


def write_report(run: RunDirectory) -> Path:
    """Write the report of ``run`` into its work folder, whole or not at all; a run that failed has one, too.

    Raises:
        ConfigError: the run's ``run.json`` cannot be read.
    """
    write_text(run.report_file, render(page_of(Facts.of(run))))
    return run.report_file


def page_of(facts: Facts) -> Page:
    """The page that says what ``facts`` do."""
    heading, tone = _heading(facts)
    found = [
        sections.failure(facts),
        scores.metrics(facts),
        sections.gate(facts),
        sections.curves(facts),
        sections.confusion(facts),
        findings.slices(facts),
        findings.reliability(facts),
        findings.areas(facts),
        sections.maps(facts),
        *sections.chips(facts),
        sections.cost(facts),
        *sections.origin(facts),
        _left_out(facts),
    ]
    record = facts.record
    started = record.started[:16].replace("T", " ")
    now = datetime.now(UTC).isoformat(sep=" ", timespec="minutes")[:16]
    return Page(
        title=f"{record.name}: {heading.lower()}",
        kicker=f"{record.name} · run {record.run_id} · started {started} UTC",
        heading=heading,
        tone=tone,
        summary=_summary(facts),
        tiles=_tiles(facts),
        sections=[one for one in found if one is not None],
        footer=f"Written {now} UTC by ununennium {__version__} from the files of the run.",
    )


def _heading(facts: Facts) -> tuple[str, str]:
    verdict, reason = facts.summary.verdict, facts.summary.stop_reason
    if verdict in _HEADINGS:
        return _HEADINGS[verdict]
    if reason in _HEADINGS:
        return _HEADINGS[reason]
    return ("Trained, and not judged yet", "") if reason in _NOT_JUDGED else ("Under way, or lost", "")


def _summary(facts: Facts) -> str:
    words = WORDS.get(facts.summary.stop_reason, "")
    reason = str(facts.summary.reason or facts.result.get("message") or "")
    return f"{reason[:1].upper()}{reason[1:]}" if reason else f"{words[:1].upper()}{words[1:]}."


def _first_model(facts: Facts) -> str:
    """The baseline that a first model was compared with."""
    values = [check.baseline for check in facts.gate.checks if check.kind == "baseline" and check.baseline is not None]
    if values:
        return f"first model; baseline {number(values[0])}"
    return "first model, no baseline" if facts.gate.checks else "no champion yet"


def _tiles(facts: Facts) -> list[tuple[str, str, str]]:
    tiles = []
    main = scores.main_figures(facts)
    if main is not None:
        name, value, baseline = main
        remark = _first_model(facts) if baseline is None else f"champion {number(baseline)}"
        tiles.append((f"{name}, holdout", number(value), remark))
        if value is not None and baseline is not None:
            tiles.append(("Difference", scores.difference(name, value, baseline).text, "to the champion"))
    result = facts.result
    if result:
        best = result.get("best_epoch")
        tiles.append(("Epochs", str(result.get("epochs", 0)), f"best {best}" if best else "no checkpoint"))
        tiles.append(("Training", duration_text(float(result.get("duration_s") or 0)), str(result.get("device", ""))))
    speed = sections.chips_per_second(facts)
    if speed is not None:
        tiles.append(("Throughput", f"{speed:,.{0 if speed >= 100 else 1}f} chips/s", "training steps"))
    champion = facts.summary.champion
    if facts.promotion and champion:
        tiles.append(
            ("Champion", f"generation {facts.promotion.get('generation')}", str(facts.promotion.get("version", "")))
        )
    return tiles


def _left_out(facts: Facts) -> Section | None:
    """Missing parts of the report, with their reasons: nothing is passed over silently."""
    texts = [Text(f"{name} cannot be read, and is left out.", "bad") for name in facts.unreadable]
    texts += [Text(line, "quiet") for line in _missing(facts)]
    return sections.section("left-out", "Left out", texts)


def _missing(facts: Facts) -> Iterator[str]:
    if not facts.plan:
        yield "Data: the run ended before its imagery was indexed."
    if not facts.epochs:
        yield "Training curves: no epoch came to its end."
    if not facts.challenger:
        yield "Metrics, gate, chips and maps: the run has not been evaluated on the holdout."
        return
    if not facts.champion:
        why = facts.evaluation.champion_error
        yield f"Champion: {f'it cannot be measured: {why}' if why else 'there was none to compare with'}."
    elif not facts.gate.bootstrap:
        yield "Intervals: the gate drew none (gate.confidence, or spatial blocks too few)."
    for name, word in (("calibration", "Reliability"), ("areas", "Areas"), ("slices", "Parts of the holdout")):
        if not getattr(facts.challenger, name):
            yield f"{word}: the evaluation has none; there is none for this task, or an earlier version made it."
    if not facts.chips.get("chips"):
        yield "Best and worst chips: none were drawn."

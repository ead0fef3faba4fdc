"""The parts of a run's report, each from the facts that it needs; a part whose facts are missing is left out."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ununennium.config.yaml_text import write_yaml
from ununennium.evaluation.evaluation import Evaluation
from ununennium.report.charts import Line, line_chart
from ununennium.report.facts import Facts
from ununennium.report.page import Cell, Charts, Folded, Gallery, Listing, Pairs, Picture, Section, Table, Text, picture
from ununennium.report.rows import duration_text, number
from ununennium.tasks import task_of

_MOST_ROWS = 200
_FIRST = ("epoch", "train_loss", "val_loss")


def section(key: str, title: str, blocks: Iterable[Any]) -> Section | None:
    """A section, or None of nothing."""
    kept = [block for block in blocks if block is not None]
    return Section(key, title, kept) if kept else None


def failure(facts: Facts) -> Section | None:
    """Errors that ended the run, if it failed, the earliest first."""
    if facts.summary.stop_reason != "failed" and facts.result.get("stop_reason") != "failed":
        return None
    blocks: list[Any] = []
    for error in facts.errors:
        what = f"{error.get('type', 'Error')} in the process of rank {error.get('rank', 0)}"
        blocks.append(Text(f"{what}: {error.get('message', '')}", "bad"))
        if error.get("traceback"):
            blocks.append(Folded("Traceback", [Listing(what, str(error["traceback"]))]))
    if not blocks:
        blocks = [Text(str(facts.summary.reason or "No process left a word of why."), "bad")]
    return section("failure", "What went wrong", blocks)


def gate(facts: Facts) -> Section | None:
    """Every check of the gate."""
    checks = facts.gate.checks
    if not checks:
        return None
    with_interval = any(check.interval for check in checks)
    columns = ["check", "verdict", "value", "threshold", "champion or baseline"]
    columns += ["how much better (interval)"] * with_interval + ["in words"]
    rows = []
    for check in checks:
        verdict = Cell("passed", "good") if check.passed else Cell("failed", "bad")
        row: list[Cell | str] = [check.name, verdict]
        row += [number(value) for value in (check.value, check.threshold, check.baseline)]
        if with_interval:
            row.append(interval_text(check.interval))
        rows.append([*row, check.reason])
    failed = sum(not check.passed for check in checks)
    words = f"{failed} of {len(checks)} checks failed" if failed else f"all {len(checks)} checks passed"
    said = [note for note in facts.gate.notes if note not in (facts.challenger.worst if facts.challenger else [])]
    notes = [Text(f"Note: {note}.", "quiet") for note in said]
    return section("gate", "Gate", [Table(f"What the model had to show: {words}", columns, rows), *notes])


def curves(facts: Facts) -> Section | None:
    """Losses, the validation metric, the learning rate, gradients and skipped steps over epochs."""
    rows = facts.epochs
    if not rows:
        return None
    best = facts.result.get("best_epoch")
    mark = None if best is None else (int(best), f"best, epoch {best}")
    charts = []
    for title, names, bounds, its_mark in _what_to_draw(rows, mark):
        drawn = line_chart(title, [_line(rows, name) for name in names], bounds=bounds, mark=its_mark)
        if drawn is not None:
            charts.append((title, drawn.svg, drawn.names))
    skipped = facts.result.get("skipped_steps", rows[-1].get("skipped_steps", 0)) or 0
    said = "No optimizer step was skipped." if not skipped else f"{skipped} optimizer steps were skipped."
    return section("curves", "Training", [Charts(charts) if charts else None, Text(said, "quiet"), _numbers(rows)])


def _what_to_draw(rows: Sequence[Mapping[str, Any]], mark: tuple[int, str] | None) -> Iterable[tuple[Any, ...]]:
    names = list(dict.fromkeys(name for row in rows for name in row))
    yield "Loss", [name for name in ("train_loss", "val_loss") if name in names], (None, None), mark
    for family in ("RMSE", "IoU", "F1"):
        its_names = [name for name in names if name == f"val_{family}" or name.startswith(f"val_{family}_")]
        if its_names:
            bounds = (0.0, None) if family == "RMSE" else (0.0, 1.0)
            yield f"Validation {family}", its_names[:8], bounds, mark
            break
    yield "Learning rate", ["lr"] if "lr" in names else [], (0.0, None), None
    if rows[-1].get("skipped_steps"):
        yield "Skipped steps, all in all", ["skipped_steps"], (0.0, None), None
    elif "grad_norm" in names:
        yield "Norm of the gradient", ["grad_norm"], (None, None), None


def _line(rows: Sequence[Mapping[str, Any]], name: str) -> Line:
    return Line(name, [(int(row["epoch"]), _finite(row.get(name))) for row in rows])


def _numbers(rows: Sequence[Mapping[str, Any]]) -> Folded:
    names = list(dict.fromkeys([*_FIRST, *(name for row in rows for name in row)]))
    names = [name for name in names if any(name in row for row in rows)]
    step = -(-len(rows) // _MOST_ROWS)
    shown = rows[:: step or 1]
    caption = "Every epoch" if step <= 1 else f"Every {step}th epoch of {len(rows)}"
    cells = [[_figure(name, row.get(name)) for name in names] for row in shown]
    return Folded("All numbers", [Table(caption, names, cells, numbers=True)])


def _figure(name: str, value: Any) -> str:
    if value is None:
        return "-"
    return str(int(value)) if name in ("epoch", "global_step", "skipped_steps") else f"{float(value):.5g}"


def confusion(facts: Facts) -> Section | None:
    """Confusion matrix of the new model, and of the champion when asked for."""
    if facts.challenger is None or not facts.challenger.confusion:
        return None
    unit = "patches" if task_of(facts.config["data"]).is_patchwise else "pixels"
    blocks: list[Any] = [_confusion_table("New model", facts.challenger, unit)]
    if facts.champion is not None and facts.champion.confusion:
        blocks.append(
            Folded("The champion's on the same holdout", [_confusion_table("Champion", facts.champion, unit)])
        )
    return section("confusion", "Confusion", blocks)


def _confusion_table(whose: str, evaluation: Evaluation, unit: str) -> Table:
    classes, matrix = evaluation.classes, evaluation.confusion
    rows: list[list[Cell | str]] = []
    for name, counts in zip(classes, matrix, strict=True):
        total = sum(counts)
        cells = [Cell(_share_text(count, total), share=count / total if total else 0.0) for count in counts]
        rows.append([name, *cells, f"{total:,}"])
    columns = ["label \\ prediction", *classes, f"labelled {unit}"]
    return Table(f"{whose}: what the {unit} of each label were taken for", columns, rows, numbers=True)


def _share_text(count: int, total: int) -> str:
    if not total:
        return "-"
    share = 100 * count / total
    return f"{share:.1f} %" if share >= 0.05 or not count else f"{share:.2g} %"


def maps(facts: Facts) -> Section | None:
    """Maps of the folds, and of the model's accuracy in the holdout."""
    if not facts.chips.get("maps"):
        return None
    groups = []
    for entry in facts.chips["maps"]:
        scene = str(entry["scene"])
        shown: list[Picture | None] = [
            picture(
                facts.pictures / entry["folds"], "Folds", f"Map of scene {scene}: train, validation, holdout, buffer"
            )
        ]
        note = f"{entry['width']:,} wide × {entry['height']:,} high, in pixels"
        if "score" in entry:
            alt = f"Map of scene {scene}: score of each chip of the holdout, lowest {number(entry['lowest'])}"
            shown.append(picture(facts.pictures / entry["score"], "Score in the holdout: yellow good, purple bad", alt))
            note += f"; {entry['num_chips']} chips scored from {number(entry['lowest'])} to {number(entry['highest'])}"
        if any(shown):
            groups.append((scene, note, [one for one in shown if one is not None]))
    colours = [(name, rgb) for name, rgb in facts.chips["fold_colours"].items()]
    num_scenes = len(facts.plan.get("data", {}).get("scenes", []))
    more = Text(f"{num_scenes} scenes in all; the first with a holdout are shown.", "quiet")
    blocks = [Gallery(groups, colours, wide=True) if groups else None, more if num_scenes > len(groups) else None]
    return section("maps", "Folds and score on the map", blocks)


def chips(facts: Facts) -> list[Section | None]:
    """The worst and the best chips of the holdout."""
    known = facts.chips
    if not known.get("chips"):
        return [None]
    legend = [(entry["name"], entry["colour"]) for entry in known["legend"]]
    less = "; less is better" if known["less_is_better"] else ""
    said = f"Chips of {known['chip_size']} pixels by their score: {known['score']}{less}. "
    said += f"{known['num_scored']:,} of the holdout have one."
    if known["num_plain"]:
        said += f" The {known['num_plain']:,} that show nothing but the commonest class are left out here."
    sections = []
    for kind, title in (("worst", "Worst chips"), ("best", "Best chips")):
        groups = [_chip(facts, entry) for entry in known["chips"] if entry["kind"] == kind]
        blocks = [Text(said, "quiet"), Gallery(groups, legend)] if groups else []
        sections.append(section(kind, title, blocks))
    return sections


def _chip(facts: Facts, entry: Mapping[str, Any]) -> tuple[str, str, list[Picture]]:
    position = f"{entry['scene']}, row {entry['row']:,}, column {entry['col']:,}"
    shown = []
    for title, file in entry["files"].items():
        alt = f"{title} of {entry['kind']} chip {entry['number']}: {position}"
        one = picture(facts.pictures / file, title, alt)
        if one is not None:
            shown.append(one)
    words = "; ".join(filter(None, [str(entry.get("words", "")), position]))
    return f"Score {number(entry['score'])}", words, shown


def cost(facts: Facts) -> Section | None:
    """Seconds, chips per second, memory, GPU hours."""
    rows = cost_rows(facts)
    return section("cost", "Time and cost", [Pairs(rows)] if rows else [])


def cost_rows(facts: Facts) -> list[tuple[str, str]]:
    """The same as rows."""
    result, spent = facts.result, facts.result.get("cost") or {}
    train_s = training_seconds(facts)
    rows: list[tuple[str, str]] = []
    if result.get("duration_s"):
        again = " (of the last start)" if facts.record.resumed else ""
        rows.append(("training process", duration_text(result["duration_s"]) + again))
    if train_s:
        rows.append(("training steps", f"{duration_text(train_s)}, {train_s / len(facts.epochs):.1f} s an epoch"))
    speed = chips_per_second(facts)
    if speed is not None:
        rows.append(("throughput", f"{speed:,.1f} chips/s"))
    if result.get("data_wait") is not None:
        rows.append(("waiting for data", f"{result['data_wait']:.1%} of the training steps' time"))
    if spent.get("peak_memory_bytes"):
        rows.append(("peak memory", f"{spent['peak_memory_bytes'] / 2**30:.2f} GiB (process of rank 0)"))
    if spent.get("peak_device_memory_bytes"):
        rows.append(("peak GPU memory", f"{spent['peak_device_memory_bytes'] / 2**30:.2f} GiB (rank 0)"))
    on_gpu = str(result.get("device", "")).startswith("cuda")
    if result:
        hours = train_s * int(result.get("world_size") or 1) / 3600 if on_gpu else 0.0
        rows.append(("GPU hours", f"{hours:.2f} of training steps" if on_gpu else "none: trained on the CPU"))
    if result.get("world_size"):
        rows.append(("processes", f"{result['world_size']}, {result.get('precision', '')}"))
    return rows


def training_seconds(facts: Facts) -> float:
    """Seconds in the training steps of all epochs, validation and start-up not counted."""
    return sum(float(row.get("train_s") or 0.0) for row in facts.epochs)


def chips_per_second(facts: Facts) -> float | None:
    """Chips trained on per second of the training steps; None where that was not counted."""
    chips, seconds = (facts.result.get("cost") or {}).get("chips_per_epoch"), training_seconds(facts)
    return None if not chips or not seconds else float(chips) * len(facts.epochs) / seconds


def origin(facts: Facts) -> list[Section | None]:
    """Data, configuration, code and environment that made the run."""
    record, data = facts.record, facts.plan.get("data") or {}
    hardware = (facts.result.get("cost") or {}).get("hardware") or {}
    environment = [(name, str(version)) for name, version in record.versions.items()]
    made = [
        ("commit", str(record.git_commit or "unknown: not in a repository")),
        ("host", record.host),
        *((name, str(value)) for name, value in hardware.items()),
        ("seed", str(facts.config.get("seed", ""))),
        *(("asked for by", f"{name} {value}") for name, value in record.started_by.items() if value),
    ]
    resumed = [(again.started[:16].replace("T", " "), f"went on on {again.host}") for again in record.resumed]
    configuration = write_yaml(dict(facts.config))
    return [
        section("data", "Data", _data_blocks(facts, data)),
        section(
            "origin",
            "Code and environment",
            [Pairs(made), Pairs(environment), Pairs(resumed) if resumed else None],
        ),
        section("configuration", "Configuration", [Folded("run.yaml", [Listing("The configuration", configuration)])]),
    ]


def _data_blocks(facts: Facts, data: Mapping[str, Any]) -> list[Any]:
    if not data:
        return []
    scenes = [
        [
            s["name"],
            f"{s['width']:,} wide × {s['height']:,} high",
            str(s["bands"]),
            str(s.get("dates", 1)),
            str(s.get("dtype", "")),
        ]
        for s in data["scenes"]
    ]
    totals = {fold: counts["labelled"] for fold, counts in data["folds"].items()}
    folds = [
        [name, *(_share_of(data["folds"][fold]["classes"].get(name, 0), totals[fold]) for fold in totals)]
        for name in facts.config["data"]["classes"]
    ]
    folds.append(["all", *(f"{total:,}" for total in totals.values())])
    blocks: list[Any] = [
        Table("Labelled pixels of each fold", ["class", *totals], folds, numbers=True),
        _folded_if_long(Table("Scenes", ["scene", "rows × columns", "bands", "dates", "type"], scenes, numbers=True)),
        *(Text(f"Note: {note}", "quiet") for note in data.get("notes", [])),
        Pairs([("data", f"sha256 {data.get('data_sha256', '')}"), ("split", f"sha256 {data.get('split_sha256', '')}")]),
    ]
    return blocks


def _folded_if_long(table: Table) -> Table | Folded:
    return table if len(table.rows) <= 12 else Folded(f"All {len(table.rows)} scenes", [table])


def _share_of(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})" if total else "0"


def interval_text(interval: Any) -> str:
    """``0.0123 to 0.0456``; a dash of nothing."""
    if not interval or any(_finite(bound) is None for bound in interval):
        return "-"
    return f"{interval[0]:.4f} to {interval[1]:.4f}"


def _finite(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None

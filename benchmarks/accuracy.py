"""How good the models are after equal work, and how long it takes until they are: three seeds, three ways to train.

Atlanta's buildings, of which the eastern third is held out, and Indian Pines in blocks of 16 pixels (the scene must lie
in the shared data folder; it is left out where it does not).
"""

from __future__ import annotations

import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.accuracy_ways import WAYS, Outcome, Problem
from benchmarks.harness import (
    ROOT,
    Effort,
    Figures,
    Result,
    Table,
    aim,
    missing_peers,
    one_line,
    say,
    significant,
    table,
)
from ununennium.config import RunConfig
from ununennium.data import build_index, compute_statistics

HAND, OURS, LIGHTNING = "by hand", "ununennium", "Lightning and smp"
PINES = ROOT.parent / "shared" / "data" / "indian_pines"
SEEDS = (0, 1, 2)
EPOCHS = {"Atlanta, IoU of buildings": 56, "Indian Pines, overall accuracy": 28}

Runs = dict[str, list[Outcome]]


def atlanta(epochs: int) -> dict[str, Any]:
    """What ``make demo`` runs, for so many epochs, none of which is left out."""
    file = ROOT / "examples" / "atlanta" / "run.yaml"
    settings: dict[str, Any] = yaml.safe_load(file.read_text(encoding="utf-8"))
    for scene in settings["data"]["scenes"]:
        scene |= {key: str(file.parent / scene[key]) for key in ("image", "label")}
    settings["trainer"]["epochs"] = epochs
    return {**settings, "early_stopping": None}


def pines(epochs: int) -> dict[str, Any]:
    """Sixteen classes from 200 bands, in chips of 32 px."""
    return {
        "name": "pines",
        "data": {
            "scenes": [{"name": "pines", "image": str(PINES / "indian_pines_200b.tif"),
                        "label": str(PINES / "indian_pines_gt.tif")}],
            "classes": ["unlabelled", *(f"class {number}" for number in range(1, 17))],
            "chip_size": 32, "chips_per_epoch": 128, "batch_size": 8,
            "split": {"block_size": 16, "buffer": 2, "validation": 0.15, "holdout": 0.35},
            "augment": {"flips": True, "quarter_turns": True},
        },
        "model": {"target": "ununennium.models:UNet", "kwargs": {"base_channels": 32, "depth": 3}},
        "loss": {"target": "ununennium.losses:CrossEntropyDiceLoss", "kwargs": {"dice_weight": 0.5}},
        "optimizer": {"target": "torch.optim:AdamW", "kwargs": {"lr": 0.002, "weight_decay": 0.0001}},
        "scheduler": {"target": "torch.optim.lr_scheduler:OneCycleLR", "kwargs": {"max_lr": 0.002}},
        "trainer": {"epochs": epochs, "device": "cpu", "ema_decay": 0.99},
        "early_stopping": None,
        "inference": {"tta": True},
    }  # fmt: skip


def problem(name: str, settings: dict[str, Any], metric: str) -> Problem:
    """``settings`` with their data looked at."""
    config = RunConfig.model_validate(settings)
    index = build_index(config.data)
    return Problem(name, config, metric, index, compute_statistics(index))


def measure(effort: Effort) -> Result:
    """Every seed and every way of both problems, in turns; if not in full, one seed of the first."""
    tables, aims, notes = [], [], []
    made = {"Atlanta, IoU of buildings": (atlanta, "IoU.building")}
    if PINES.is_dir():
        made["Indian Pines, overall accuracy"] = (pines, "accuracy")
    else:
        notes.append("Indian Pines is left out: the scene does not lie in the shared data folder.")
    for name, (settings, metric) in made.items():
        if effort != "full" and tables:
            notes.append(f"{name}: only in full.")
            continue
        one = problem(name, settings(2 if effort == "quick" else EPOCHS[name]), metric)
        runs, failed = train_all(one, SEEDS if effort == "full" else SEEDS[:1])
        tables.append(_table(one, runs, failed))
        aims += _aims(one, runs)
    return {"tables": tables, "aims": aims, "notes": notes}


def train_all(one: Problem, seeds: tuple[int, ...]) -> tuple[Runs, dict[str, str]]:
    """What every way that works gave, seed by seed, and why the others do not."""
    failed = missing_peers({LIGHTNING: "lightning"})
    runs: Runs = {name: [] for name in WAYS if name not in failed}
    for seed in seeds:
        for name in list(runs):
            with tempfile.TemporaryDirectory() as folder:
                os.environ["UNUNENNIUM_WORK"] = str(Path(folder, "work"))
                try:
                    outcome = WAYS[name](one, seed, Path(folder))
                except Exception as error:
                    failed[name] = one_line(error)
                    del runs[name]
                    say(f"  {name} failed: {failed[name]}")
                    continue
            runs[name].append(outcome)
            say(f"  {one.name}, seed {seed}: {name} {outcome.score:.3f} after {outcome.seconds:.0f} s")
    return runs, failed


def times_to_the_same(runs: Runs, name: str) -> list[float | None]:
    """Seed by seed, the time to what the loop by hand has at its end, over that loop's own; None if it never comes."""
    ratios: list[float | None] = []
    for reference, other in zip(runs.get(HAND, []), runs.get(name, []), strict=True):
        target = reference.looks[-1][1]
        base = next(seconds for seconds, value in reference.looks if value >= target)
        reached = next((seconds for seconds, value in other.looks if value >= target), None)
        ratios.append(None if reached is None else reached / base)
    return ratios


def _median_time(ratios: list[float | None]) -> float | None:
    """None where most never get there."""
    values = sorted(float("inf") if ratio is None else ratio for ratio in ratios)
    found = statistics.median(values) if values else float("inf")
    return None if found == float("inf") else significant(found)


def _table(one: Problem, runs: Runs, failed: dict[str, str]) -> Table:
    lines: dict[str, Figures] = {}
    for name, outcomes in runs.items():
        scores = [outcome.score for outcome in outcomes]
        lines[name] = {
            "median": significant(statistics.median(scores)),
            "each seed": ", ".join(f"{score:.3f}" for score in scores),
            "seconds of training": significant(statistics.median(outcome.seconds for outcome in outcomes)),
        }
        if HAND in runs:
            time = _median_time(times_to_the_same(runs, name))
            lines[name]["time to the same, of the loop by hand"] = "never" if time is None else time
    return table(f"{one.name}: {one.steps:,} steps of {one.config.data.batch_size} chips", lines, failed)


def _aims(one: Problem, runs: Runs) -> list[Any]:
    if OURS not in runs:
        return []
    ours = statistics.median(outcome.score for outcome in runs[OURS])
    found = []
    if one.metric == "IoU.building":
        found.append(aim(f"{one.name}, median", ">= 0.45", significant(ours), lambda value: value >= 0.45))
    others = [[outcome.score for outcome in outcomes] for name, outcomes in runs.items() if name != OURS]
    if others:
        best = max(statistics.median(scores) for scores in others)
        noise = max(max(scores) - min(scores) for scores in others)
        what = f"{one.name}, median less the best other's"
        wanted = f">= -{significant(noise, 2):g}, the others' largest spread"
        found.append(aim(what, wanted, significant(ours - best), lambda value: value >= -noise))
    if HAND in runs:
        time = _median_time(times_to_the_same(runs, OURS))
        is_met = time is not None and time <= 1.0
        what = f"{one.name}, time to the same"
        found.append({"what": what, "aim": "<= 1", "found": "never" if time is None else time, "met": is_met})
    return found

"""Accuracy of the configuration that ``init`` writes, on six data sets, against rivals with the same CPU seconds.

    python -m benchmarks.recipe                        # all sets, three seeds; about an hour and a half of one core
    python -m benchmarks.recipe --jobs 2 --seeds 0     # two trainings side by side, one seed
    python -m benchmarks.recipe --only Olinda

Each training runs in a process of its own with one thread; its result is a line of ``build/recipe.jsonl``, and a
measurement that was interrupted goes on from there. Delete the file to begin again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.harness import ROOT, say
from benchmarks.recipe_sets import SELECTION, SETS
from benchmarks.recipe_ways import OURS, WAYS, configured

RESULTS = ROOT / "build" / "recipe.jsonl"
_TIMEOUT_S = 1800
Cell = tuple[str, str, int]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is missing, and print the table; 1 if a training failed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.recipe", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", default=list(SETS), choices=list(SETS), metavar="SET", help="data sets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--cell", nargs=4, metavar=("SET", "WAY", "SEED", "CPU_S"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.cell:
        name, way, seed, budget = options.cell
        print(json.dumps(measure((name, way, int(seed)), float(budget) or None)))
        return 0
    there = [name for name in options.only if SETS[name].is_there]
    for name in set(options.only) - set(there):
        say(f"{name} is left out: {SETS[name].source} does not lie in the shared data folder")
    known = read(options.results)
    with ThreadPoolExecutor(options.jobs) as pool:
        rows = [pool.submit(_row, name, seed, known, options.results) for name in there for seed in options.seeds]
        failed = [row.result() for row in rows]
    say(table(read(options.results), there))
    return int(any(failed))


def measure(cell: Cell, budget_s: float | None) -> dict[str, Any]:
    """Train one way on one data set, in this process."""
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    name, way, seed = cell
    with tempfile.TemporaryDirectory() as folder:
        os.environ["UNUNENNIUM_WORK"] = str(Path(folder, "work"))
        found = WAYS[way](SETS[name], configured(SETS[name], Path(folder), seed), budget_s)
    return {"set": name, "way": way, "seed": seed, **asdict(found)}


def _row(name: str, seed: int, known: dict[Cell, dict[str, Any]], results: Path) -> bool:
    """All ways, ours first: its CPU seconds are the others' budget. Returns whether one failed."""
    budget = 0.0
    for way in WAYS:
        found = known.get((name, way, seed)) or _in_a_process((name, way, seed), budget, results)
        if found is None:
            return True
        budget = budget or found["cpu_s"]
    return False


def _in_a_process(cell: Cell, budget_s: float, results: Path) -> dict[str, Any] | None:
    name, way, seed = cell
    command = [sys.executable, "-m", "benchmarks.recipe", "--cell", name, way, str(seed), str(budget_s)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False
    )
    if done.returncode:
        say(f"  {name}, {way}, seed {seed} failed: {done.stderr.strip().splitlines()[-1:]}")
        return None
    line = done.stdout.strip().splitlines()[-1]
    found: dict[str, Any] = json.loads(line)
    results.parent.mkdir(parents=True, exist_ok=True)
    with results.open("a", encoding="utf-8") as file:
        file.write(line + "\n")
    say(f"  {name}, {way}, seed {seed}: {found['score']:.3f} after {found['cpu_s']:.0f} CPU-s, {found['steps']} steps")
    return found


def read(results: Path) -> dict[Cell, dict[str, Any]]:
    """Lines of an earlier measurement, by set, way and seed."""
    if not results.exists():
        return {}
    rows = map(json.loads, results.read_text(encoding="utf-8").splitlines())
    return {(row["set"], row["way"], row["seed"]): row for row in rows}


def table(found: dict[Cell, dict[str, Any]], names: Sequence[str]) -> str:
    """The results as a table in Markdown; the best median of a row is bold."""
    lines = ["| data set | metric | CPU-s | " + " | ".join(WAYS) + " |", "|---|---|---|" + "---|" * len(WAYS)]
    for name in names:
        rows = {
            way: [row for (each, its, _), row in sorted(found.items()) if (each, its) == (name, way)] for way in WAYS
        }
        if not all(rows.values()):
            continue
        medians = {way: statistics.median(row["score"] for row in of_way) for way, of_way in rows.items()}
        best = max(medians.values())
        cells = []
        for way, of_way in rows.items():
            median = f"**{medians[way]:.3f}**" if medians[way] == best else f"{medians[way]:.3f}"
            cells.append(median + " (" + ", ".join(f"{row['score']:.3f}" for row in of_way) + ")")
        seconds = statistics.median(row["cpu_s"] for row in rows[OURS])
        purpose = "chosen on" if name in SELECTION else "confirmed on"
        lines.append(f"| {name} ({purpose}) | {SETS[name].metric} | {seconds:.0f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

"""How often the gate's intervals hold the truth, and how wide they are, by the number of blocks of a holdout.

Usage: python -m benchmarks.bootstrap_coverage [--holdouts 1000] [--figure FILE.png] [--json FILE]

Holdouts are drawn from two worlds in which the truth is known. Hard blocks are hard for both models; the challenger is
better by a little. In the first world, what a block adds to that is normal; in the second one most blocks are alike and
a few are very bad, as where a class is rare. The metric is the IoU of a class, which is no mean over blocks. Beside the
product's expanded percentiles stand plain ones, of the same draws. Nothing is timed, and a seed gives the same figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.evaluation.bootstrap import drawn_sums, expanded_interval
from ununennium.evaluation.measures import measures_of, values_by_name

FloatArray = npt.NDArray[np.float64]

METRIC = "IoU.water"
MEASURES = measures_of("patches", ["land", "water"])
PATCHES = 400
BLOCKS = (6, 8, 12, 20, 40, 80)
WORLDS = ("normal", "few very bad blocks")
CONFIDENCE = 0.9


def holdout(rng: np.random.Generator, world: str, blocks: int) -> tuple[FloatArray, FloatArray]:
    """Confusion matrices, flat, of both models in each block: two of (blocks, 4)."""
    hard = rng.normal(0.8, 0.06, blocks)
    if world != "normal":
        hard -= rng.exponential(0.05, blocks) + 0.4 * (rng.random(blocks) < 0.08)
    water = rng.beta(2, 3, blocks) * PATCHES
    sums = []
    for gain in (0.03, 0.0):
        right = np.clip(hard + gain + rng.normal(0, 0.04, blocks), 0.02, 0.98)
        hit, correct = np.rint(right * water), np.rint(right * (PATCHES - water))
        land, seen = np.rint(PATCHES - water), np.rint(water)
        sums.append(np.stack([correct, land - correct, seen - hit, hit], 1))
    return sums[0], sums[1]


def gain(ours: FloatArray, theirs: FloatArray) -> FloatArray:
    """How much better the challenger is, of sums (..., 4)."""
    one, other = (values_by_name(MEASURES, [METRIC], sums)[METRIC] for sums in (ours, theirs))
    difference: FloatArray = one - other
    return difference


def simulate(world: str, blocks: int, holdouts: int, resamples: int) -> dict[str, Any]:
    """Coverage and mean width of both kinds of interval over so many holdouts."""
    rng = np.random.default_rng(blocks)
    everything = holdout(np.random.default_rng(0), world, 200_000)
    truth = float(gain(*(sums.sum(0) for sums in everything)))
    held, width = {"expanded": 0, "plain": 0}, {"expanded": 0.0, "plain": 0.0}
    for number in range(holdouts):
        both = np.concatenate(holdout(rng, world, blocks), 1)
        drawn = drawn_sums(both, resamples=resamples, seed=number)
        assert drawn is not None
        values = gain(drawn[:, :4], drawn[:, 4:])
        expanded = expanded_interval(values, blocks, CONFIDENCE)
        assert expanded is not None
        low, high = np.quantile(values, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        for kind, (bottom, top) in {"expanded": expanded, "plain": (float(low), float(high))}.items():
            held[kind] += bottom <= truth <= top
            width[kind] += top - bottom
    return {
        "world": world,
        "blocks": blocks,
        "truth": round(truth, 4),
        "coverage": {kind: round(count / holdouts, 4) for kind, count in held.items()},
        "mean width": {kind: round(total / holdouts, 4) for kind, total in width.items()},
    }


def draw(rows: list[dict[str, Any]], holdouts: int, file: Path) -> None:
    """Coverage over the number of blocks, one panel per world."""
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(WORLDS), figsize=(9, 3.6), sharey=True, layout="constrained")
    error = 1.96 * (CONFIDENCE * (1 - CONFIDENCE) / holdouts) ** 0.5
    for panel, world in zip(panels, WORLDS, strict=True):
        of_world = [row for row in rows if row["world"] == world]
        blocks = [row["blocks"] for row in of_world]
        panel.axhspan(CONFIDENCE - error, CONFIDENCE + error, color="0.9", label="stated, ± 1.96 standard errors")
        for kind, style in (("expanded", "o-"), ("plain", "s--")):
            panel.plot(blocks, [row["coverage"][kind] for row in of_world], style, label=f"{kind} percentiles")
        panel.set(title=f"world: {world}", xlabel="blocks of the holdout", xscale="log")
        panel.set_xticks(blocks, [str(number) for number in blocks])
        panel.minorticks_off()
        panel.grid(alpha=0.3)
    panels[0].set_ylabel(f"share of {CONFIDENCE:.0%} intervals\nthat hold the truth")
    panels[0].legend(loc="lower right", fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> int:
    """Exit status 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--holdouts", type=int, default=1000, help="holdouts drawn for each point (%(default)s)")
    parser.add_argument("--resamples", type=int, default=1000, help="draws of each interval (%(default)s)")
    parser.add_argument("--figure", type=Path, help="draw the coverage into this PNG")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    rows = []
    print(f"{'world':>20} {'blocks':>6} {'expanded':>9} {'plain':>7}   mean width, expanded / plain")
    for world in WORLDS:
        for blocks in BLOCKS:
            row = simulate(world, blocks, options.holdouts, options.resamples)
            coverage, width = row["coverage"], row["mean width"]
            print(
                f"{world:>20} {blocks:>6} {coverage['expanded']:>9.3f} {coverage['plain']:>7.3f}   "
                f"{width['expanded']:.3f} / {width['plain']:.3f}",
                flush=True,
            )
            rows.append(row)
    if options.figure:
        draw(rows, options.holdouts, options.figure)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

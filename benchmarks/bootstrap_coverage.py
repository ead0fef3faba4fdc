"""Coverage of the gate's intervals, and the share of models promoted that are no better.

Usage: python -m benchmarks.bootstrap_coverage [--holdouts 1000] [--figure FILE.png] [--json FILE] [--markdown FILE]

Holdouts are drawn from worlds in which the truth is known, the metric is the IoU of a class, which is no mean over
blocks, and everything goes through the functions of the gate: informative blocks, correlated blocks put together,
intervals. Each world is drawn twice: with a challenger that is better by a little, for the share of intervals that hold
the truth, and with one that is exactly as good, for the share that is promoted. Nothing is timed, and a seed gives the
same figures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ununennium.evaluation.block_sums import BlockScene, BlockSums
from ununennium.evaluation.bootstrap import difference_intervals
from ununennium.evaluation.correlation import merge_factor
from ununennium.evaluation.measures import measures_of, values_by_name

FloatArray = npt.NDArray[np.float64]

METRIC = "IoU.water"
MEASURES = measures_of("patches", ["land", "water"])
PATCHES = 400
GAIN = 0.03
CONFIDENCE = 0.9
_SCENES = (BlockScene("scene", "scene", (0, 0)),)
_MANY = 100_000


class Blocks(NamedTuple):
    """Draws of a simulated world for each of n blocks.

    Attributes:
        ours: share of patches that the challenger has right, (n,).
        theirs: the same of the champion.
        water: share of water, (n,).
        size: patches, (n,).
    """

    ours: FloatArray
    theirs: FloatArray
    water: FloatArray
    size: FloatArray


World = Callable[[np.random.Generator, int, float], Blocks]


def _usual(rng: np.random.Generator, number: int, gain: float) -> Blocks:
    """Hard blocks are hard for both; what each model adds to that is normal."""
    hard = rng.normal(0.8, 0.06, number)
    ours, theirs = (hard + by + rng.normal(0, 0.04, number) for by in (gain, 0.0))
    return Blocks(ours, theirs, rng.beta(2, 3, number), np.full(number, float(PATCHES)))


def _bad_blocks(rng: np.random.Generator, number: int, gain: float) -> Blocks:
    blocks = _usual(rng, number, gain)
    harder = rng.exponential(0.05, number) + 0.4 * (rng.random(number) < 0.08)
    return blocks._replace(ours=blocks.ours - harder, theirs=blocks.theirs - harder)


def _heavy_tails(rng: np.random.Generator, number: int, gain: float) -> Blocks:
    blocks = _usual(rng, number, gain)
    tails = [0.03 * rng.standard_t(2.5, number) for _ in range(2)]
    return blocks._replace(ours=blocks.ours + tails[0], theirs=blocks.theirs + tails[1])


def _unequal_blocks(rng: np.random.Generator, number: int, gain: float) -> Blocks:
    return _usual(rng, number, gain)._replace(size=np.maximum(np.rint(PATCHES * rng.lognormal(-0.5, 1.0, number)), 4))


def _challenger_fails(rng: np.random.Generator, number: int, gain: float) -> Blocks:
    """The challenger is better in most blocks, and much worse in 8 % of them, by as much on average."""
    blocks = _usual(rng, number, gain)
    fails = rng.random(number) < 0.08
    return blocks._replace(ours=blocks.ours + np.where(fails, -0.276, 0.024))


def _champion_fails(rng: np.random.Generator, number: int, gain: float) -> Blocks:
    blocks = _usual(rng, number, gain)
    fails = rng.random(number) < 0.08
    return blocks._replace(theirs=blocks.theirs + np.where(fails, -0.276, 0.024))


def _rare_class(rng: np.random.Generator, number: int, gain: float) -> Blocks:
    """Water lies in a third of the blocks."""
    blocks = _usual(rng, number, gain)
    return blocks._replace(water=np.where(rng.random(number) < 1 / 3, blocks.water, 0.0))


def _correlated(rng: np.random.Generator, number: int, gain: float) -> Blocks:
    """Blocks lie side by side, and what a model adds to them is alike in neighbours (0.5 from block to block)."""
    blocks = _usual(rng, number, gain)
    if number > 1000:  # the truth does not depend on the correlation
        return blocks
    rows, cols = _grid(number)
    distance = np.hypot(rows[:, None] - rows, cols[:, None] - cols)
    factor = np.linalg.cholesky(0.5**distance)
    hard = blocks.theirs + rng.normal(0, 0.02, number)
    ours, theirs = (hard + by + factor @ rng.normal(0, 0.04, number) for by in (gain, 0.0))
    return blocks._replace(ours=ours, theirs=theirs)


WORLDS: dict[str, World] = {
    "normal": _usual,
    "a few bad blocks, for both": _bad_blocks,
    "heavy tails (t, 2.5)": _heavy_tails,
    "unequal blocks": _unequal_blocks,
    "class in a third of blocks": _rare_class,
    "challenger fails in 8 %": _challenger_fails,
    "champion fails in 8 %": _champion_fails,
    "neighbours correlated (0.5)": _correlated,
}
BLOCKS = (6, 10, 30)


def counts(blocks: Blocks) -> tuple[FloatArray, FloatArray]:
    """Confusion matrices, flat, of both models in each block: two of (n, 4)."""
    seen = np.rint(blocks.water * blocks.size)
    land = blocks.size - seen
    sums = []
    for right in (blocks.ours, blocks.theirs):
        share = np.clip(right, 0.02, 0.98)
        hit, correct = np.rint(share * seen), np.rint(share * land)
        sums.append(np.stack([correct, land - correct, seen - hit, hit], 1))
    return sums[0], sums[1]


def gain_of(ours: FloatArray, theirs: FloatArray) -> float:
    """Gain of the challenger, of sums (4,)."""
    one, other = (float(values_by_name(MEASURES, [METRIC], sums)[METRIC]) for sums in (ours, theirs))
    return one - other


def judged(
    sums: tuple[FloatArray, FloatArray],
    rows: npt.NDArray[np.int64],
    cols: npt.NDArray[np.int64],
    resamples: int,
    seed: int,
) -> tuple[tuple[float, float] | None, bool]:
    """The gate's interval, and whether it lets the challenger pass."""
    where = np.zeros(len(rows), np.int64)
    ours, theirs = (BlockSums("patches", 64, _SCENES, where, rows, cols, each) for each in sums)
    factor = merge_factor(ours, theirs, MEASURES, METRIC)
    found = difference_intervals(
        ours.merged(factor), theirs.merged(factor), MEASURES, [METRIC],
        confidence=CONFIDENCE, resamples=resamples, seed=seed,
    )[METRIC]  # fmt: skip
    return found, found is not None and found[0] > 0 and gain_of(sums[0].sum(0), sums[1].sum(0)) > 0


def simulate(world: World, blocks: int, holdouts: int, resamples: int) -> dict[str, float]:
    """Shares of intervals that hold the truth, of holdouts without one, and of equal challengers that are promoted."""
    rng = np.random.default_rng(blocks)
    rows, cols = _grid(blocks) if world is _correlated else (3 * np.arange(blocks), 3 * np.arange(blocks))
    truth = gain_of(*(sums.sum(0) for sums in counts(world(np.random.default_rng(0), _MANY, GAIN))))
    held, there, promoted = 0, 0, 0
    for number in range(holdouts):
        interval, _ = judged(counts(world(rng, blocks, GAIN)), rows, cols, resamples, number)
        there += interval is not None
        held += interval is not None and interval[0] <= truth <= interval[1]
        promoted += judged(counts(world(rng, blocks, 0.0)), rows, cols, resamples, number)[1]
    return {
        "blocks": blocks,
        "coverage": round(held / there, 3) if there else float("nan"),
        "without interval": round(1 - there / holdouts, 3),
        "equal promoted": round(promoted / holdouts, 3),
    }


def rare(with_class: int, false_alarms: bool, blocks: int, holdouts: int, resamples: int) -> dict[str, Any]:
    """Equal models on a class that lies in so many of the blocks: how often one replaces the other."""
    rng, promoted = np.random.default_rng(with_class), 0
    rows = 3 * np.arange(blocks)
    for number in range(holdouts):
        drawn = _usual(rng, blocks, 0.0)
        there = np.arange(blocks) < with_class
        sums = counts(drawn._replace(water=np.where(there, 0.1, 0.0)))
        if not false_alarms:
            for each in sums:
                each[:, :2] = np.stack([each[:, :2].sum(1), 0 * each[:, 1]], 1)
        promoted += judged(sums, rows, rows, resamples, number)[1]
    return {
        "blocks with the class": with_class,
        "false alarms elsewhere": false_alarms,
        "equal promoted": round(promoted / holdouts, 3),
    }


def field(kernel: float, side: int, holdouts: int, resamples: int) -> dict[str, float]:
    """A holdout of 128 x 128 pixels in side x side blocks, whose errors are a smooth field of this kernel (pixels)."""
    rng = np.random.default_rng(side)
    rows, cols = (place.ravel() for place in np.indices((side, side)))
    held = there = promoted = 0
    for number in range(holdouts):
        smooth = _smooth(rng, kernel).reshape(side, 128 // side, side, 128 // side).mean((1, 3)).ravel()
        number_of_patches = float(PATCHES * 256 // side**2)
        half = np.full(side**2, 0.5)
        for gain in (GAIN, 0.0):
            pair = Blocks(0.8 + gain + 0.1 * smooth, np.full(side**2, 0.8), half, half * 0 + number_of_patches)
            interval, passes = judged(counts(pair), rows, cols, resamples, number)
            if gain:
                truth = gain_of(*(s.sum(0) for s in counts(pair._replace(ours=np.full(side**2, 0.8 + gain)))))
                there += interval is not None
                held += interval is not None and interval[0] <= truth <= interval[1]
            else:
                promoted += passes
    return {
        "kernel_px": kernel,
        "block_px": 128 // side,
        "blocks": side**2,
        "coverage": round(held / there, 3) if there else float("nan"),
        "without interval": round(1 - there / holdouts, 3),
        "equal promoted": round(promoted / holdouts, 3),
    }


def _smooth(rng: np.random.Generator, kernel: float) -> FloatArray:
    """A Gaussian field of 128 x 128 pixels, of unit variance, smoothed over ``kernel`` pixels."""
    waves = np.fft.fftfreq(256)[:, None] ** 2 + np.fft.rfftfreq(256) ** 2
    weights = np.exp(-2 * (np.pi * kernel) ** 2 * waves)
    made = np.fft.irfft2(np.fft.rfft2(rng.normal(size=(256, 256))) * weights)
    full = weights[:, 1:-1]
    variance = ((weights**2).sum() + (full**2).sum()) / 256**2
    smooth: FloatArray = made[:128, :128] / np.sqrt(variance)
    return smooth


def _grid(number: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and columns of so many blocks side by side."""
    height = max(side for side in range(1, int(number**0.5) + 1) if number % side == 0)
    rows, cols = np.indices((height, number // height))
    return rows.ravel(), cols.ravel()


def draw(rows: list[dict[str, Any]], holdouts: int, file: Path) -> None:
    """Coverage of each world over the number of blocks."""
    import matplotlib.pyplot as plt

    figure, panel = plt.subplots(figsize=(8, 4.4), layout="constrained")
    error = 1.96 * (CONFIDENCE * (1 - CONFIDENCE) / holdouts) ** 0.5
    panel.axhspan(CONFIDENCE - error, CONFIDENCE + error, color="0.9", label="stated, ± 1.96 standard errors")
    for number, world in enumerate(WORLDS):
        of_world = [row for row in rows if row["world"] == world]
        style = "o-" if number < 5 else "s--"
        panel.plot([row["blocks"] for row in of_world], [row["coverage"] for row in of_world], style, label=world)
    panel.set(
        xlabel="blocks of the holdout", xscale="log", ylabel=f"share of {CONFIDENCE:.0%} intervals that hold the truth"
    )
    panel.set_xticks(BLOCKS, [str(number) for number in BLOCKS])
    panel.minorticks_off()
    panel.grid(alpha=0.3)
    panel.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=8)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def tables(found: dict[str, list[dict[str, Any]]]) -> str:
    """The three tables of docs/evaluation.md."""

    def by_blocks(rows: list[dict[str, Any]], key: str) -> str:
        return " / ".join(f"{row[key]:.3f}" for row in rows)

    lines = [
        "| world | holds the truth, 6 / 10 / 30 blocks | without an interval | promoted though equal |",
        "| --- | --- | --- | --- |",
    ]
    for world in WORLDS:
        rows = [row for row in found["worlds"] if row["world"] == world]
        cells = [by_blocks(rows, key) for key in ("coverage", "without interval", "equal promoted")]
        lines.append(f"| {world} | {' | '.join(cells)} |")
    lines += [
        "",
        "| blocks with the class, of 20 | promoted though equal | the same with false alarms in all blocks |",
        "| --- | --- | --- |",
    ]
    for with_class in dict.fromkeys(row["blocks with the class"] for row in found["rare"]):
        shares = [f"{row['equal promoted']:.3f}" for row in found["rare"] if row["blocks with the class"] == with_class]
        lines.append(f"| {with_class} | {' | '.join(shares)} |")
    lines += [
        "",
        "| errors smooth over | blocks | holds the truth | without an interval | promoted though equal |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row['kernel_px']:g} px | {row['blocks']} of {row['block_px']} px | {row['coverage']:.3f} | "
        f"{row['without interval']:.3f} | {row['equal promoted']:.3f} |"
        for row in found["fields"]
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Exit status 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--holdouts", type=int, default=1000, help="holdouts drawn for each figure (%(default)s)")
    parser.add_argument("--resamples", type=int, default=500, help="draws of each interval at least (%(default)s)")
    parser.add_argument("--figure", type=Path, help="draw the coverage into this PNG")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--markdown", type=Path, help="also write the tables of docs/evaluation.md to this file")
    options = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {"worlds": [], "rare": [], "fields": []}

    def add(kind: str, row: dict[str, Any]) -> None:
        print("  ".join(f"{name} {value}" for name, value in row.items()), flush=True)
        found[kind].append(row)

    for name, world in WORLDS.items():
        for blocks in BLOCKS:
            add("worlds", {"world": name, **simulate(world, blocks, options.holdouts, options.resamples)})
    for with_class in (1, 2, 3, 6, 10):
        for false_alarms in (False, True):
            add("rare", rare(with_class, false_alarms, 20, options.holdouts, options.resamples))
    for kernel in (16.0, 4.0):
        for side in (4, 8, 16):
            add("fields", field(kernel, side, options.holdouts, options.resamples))
    if options.figure:
        draw(found["worlds"], options.holdouts, options.figure)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    if options.markdown:
        options.markdown.write_text(tables(found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

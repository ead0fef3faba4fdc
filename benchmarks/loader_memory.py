"""Memory of the loader's workers over many scenes and epochs: it must stay flat.

Usage: python -m benchmarks.loader_memory [--scenes 200] [--epochs 10] [--workers 2] [--cache-mb 32] [--json FILE]

Makes small GeoTIFFs, uint16 (4, 512, 512) in deflated blocks, with labels; trains on nothing, and after each epoch reads
from ``/proc`` what every worker has to itself (USS: what its end would give back) and in all (RSS, with shared pages).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio

SIDE = 512


class Memory(NamedTuple):
    """Of one process, in MB: what it has to itself, and all of it that is resident."""

    uss: float
    rss: float


def memory_of(pid: int) -> Memory:
    """What process ``pid`` takes now."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    kb = {words[0]: int(words[1]) for words in lines}
    return Memory((kb["Private_Clean:"] + kb["Private_Dirty:"]) / 1024, kb["Rss:"] / 1024)


def make_scenes(folder: Path, number: int) -> list[dict[str, str]]:
    """So many scenes with labels of two classes, as ``data.scenes`` wants them; each is somewhere else."""
    rng = np.random.default_rng(0)
    profile: dict[str, Any] = {"driver": "GTiff", "height": SIDE, "width": SIDE, "crs": "EPSG:32621"}
    profile |= {"compress": "deflate", "tiled": True, "blockxsize": 256, "blockysize": 256}
    scenes = []
    for place in range(number):
        row, col = divmod(place, 20)
        profile["transform"] = rasterio.Affine(30, 0, 3e5 + col * 30 * SIDE, 0, -30, 7e6 - row * 30 * SIDE)
        image, label = folder / f"{place}.tif", folder / f"{place}-label.tif"
        with rasterio.open(image, "w", count=4, dtype="uint16", predictor=2, **profile) as file:
            file.write(rng.integers(7000, 9000, (4, SIDE, SIDE), dtype=np.uint16))
        with rasterio.open(label, "w", count=1, dtype="uint8", **profile) as file:
            file.write(rng.integers(0, 2, (1, SIDE // 64, SIDE // 64), dtype=np.uint8).repeat(64, 1).repeat(64, 2))
        scenes.append({"name": f"scene {place}", "image": str(image), "label": str(label)})
    return scenes


def epochs(scenes: list[dict[str, str]], number: int, workers: int, cache_mb: int) -> Iterator[dict[int, Memory]]:
    """After each epoch: every worker's memory, by process id. An epoch has four chips per scene."""
    from ununennium.config import DataConfig
    from ununennium.data import build_index, build_loaders, compute_statistics
    from ununennium.training.loading import epoch_batches

    config = DataConfig.model_validate(
        {
            "scenes": scenes,
            "classes": ["land", "water"],
            "chip_size": 128,
            "chips_per_epoch": 4 * len(scenes),
            "cache_mb": cache_mb,
            "num_workers": workers,
            "split": {"validation": 0.0, "holdout": 0.0, "buffer": 0},
        }
    )
    index = build_index(config)
    loader = build_loaders(config, index, compute_statistics(index), seed=0).train
    for epoch in range(number):
        for _ in epoch_batches(loader, epoch, 0):
            pass
        yield {process.pid: memory_of(process.pid) for process in multiprocessing.active_children() if process.pid}


def growth(taken: list[dict[int, Memory]]) -> float:
    """MB that the worker that grew most has more to itself in the last epoch than in the second."""
    assert all(memories.keys() == taken[0].keys() for memories in taken), "workers came and went"
    return max(taken[-1][pid].uss - taken[1][pid].uss for pid in taken[0])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=200)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cache-mb", type=int, default=32)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    taken = []
    with tempfile.TemporaryDirectory(prefix="loader-memory-") as folder:
        scenes = make_scenes(Path(folder), options.scenes)
        print(f"{options.scenes} scenes, {4 * options.scenes} chips per epoch; MB of each worker: to itself (resident)")
        for memories in epochs(scenes, options.epochs, options.workers, options.cache_mb):
            taken.append(memories)
            each = "   ".join(f"{memory.uss:7.1f} ({memory.rss:.1f})" for memory in memories.values())
            print(f"  epoch {len(taken):>2}   {each}", flush=True)
    print(f"growth from epoch 2 to epoch {options.epochs}: {growth(taken):+.1f} MB")
    if options.json:
        rows = [[memory._asdict() for memory in memories.values()] for memories in taken]
        options.json.write_text(json.dumps({"epochs": rows, "growth_mb": growth(taken)}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

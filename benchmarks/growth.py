"""How time and memory grow with chips, scenes, epochs and promotions: 1, 10 and 100 times as many.

Each size is measured in a process of its own, which first does the smallest size once, uncounted. Memory is the highest
resident set during the work, less what was resident before it.
"""

from __future__ import annotations

import json
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.harness import (
    Effort,
    Figures,
    Result,
    aim,
    forget_peak,
    peak_mb,
    resident_mb,
    run_python,
    say,
    significant,
)
from benchmarks.harness import table as table_of
from benchmarks.loader_memory import make_scenes
from ununennium.checkpoints.artifact import write_artifact
from ununennium.checkpoints.contract import REQUIRED
from ununennium.checkpoints.registry import Registry
from ununennium.config import DataConfig
from ununennium.data import build_index, compute_statistics
from ununennium.data.chips.loaders import build_loaders
from ununennium.models import UNet
from ununennium.training import CheckpointCallback, Trainer, TrainerConfig
from ununennium.training.callbacks import MetricsFile

FACTORS = (1, 10, 100)
LONGER, MORE_MB = 1.5, 64.0
TIMEOUT_S = 900.0
Act = Callable[[], None]


def chips(number: int, folder: Path) -> Act:
    """One epoch of so many chips of 64 px from a GeoTIFF."""
    config = _data(folder, 1, chips_per_epoch=number)
    index = build_index(config)
    statistics = compute_statistics(index)

    def act() -> None:
        loader = build_loaders(config, index, statistics, seed=0).train
        assert sum(len(target) for _, target in loader) == number

    return act


def scenes(number: int, folder: Path) -> Act:
    """The index and the statistics of so many scenes of 4 x 512 x 512."""
    config = _data(folder, number)

    def act() -> None:
        assert compute_statistics(build_index(config)).num_pixels > 0

    return act


def epochs(number: int, folder: Path) -> Act:
    """So many epochs of eight steps of a tiny model, with a checkpoint and a row of metrics after each."""

    def act() -> None:
        torch.manual_seed(0)
        model = nn.Linear(4, 3)
        data: DataLoader[Any] = DataLoader(TensorDataset(torch.randn(32, 4), torch.randint(0, 3, (32,))), batch_size=4)
        optimizer = torch.optim.AdamW(model.parameters())
        kept = CheckpointCallback(str(folder / "checkpoints"))
        config = TrainerConfig(epochs=number, device="cpu", mixed_precision=False)
        callbacks = [kept, MetricsFile(folder / "metrics.jsonl")]
        history = Trainer(model, optimizer, nn.CrossEntropyLoss(), data, data, None, callbacks, config).fit()
        assert len(history["val_loss"]) == number

    return act


def promotions(number: int, folder: Path) -> Act:
    """So many promotions of a model, each after a look at who is champion."""
    registry = Registry(str(folder / "storage"), "model")
    model = {"target": "ununennium.models:UNet", "kwargs": {}, "in_channels": 1, "num_classes": 2}
    bands = {"bands": [1], "statistics": {"mean": [0.0], "std": [1.0]}}
    contract = {**dict.fromkeys(REQUIRED), **bands, "model": model, "classes": ["a", "b"]}
    write_artifact(folder / "artifact", UNet(1, 2, base_channels=2, depth=2).state_dict(), contract)
    version = registry.add_version(folder / "artifact")

    def act() -> None:
        for generation in range(number):
            champion = registry.current()
            assert (champion.generation if champion else 0) == generation
            registry.promote(
                version, expected_generation=generation, gate={"verdict": "promoted"}, actor="benchmark", run_id="run"
            )

    return act


def _data(folder: Path, number: int, **changes: Any) -> DataConfig:
    folder.mkdir(parents=True, exist_ok=True)
    settings = {"chip_size": 64, "batch_size": 16, "split": {"block_size": 64, "buffer": 8}, **changes}
    return DataConfig.model_validate({"scenes": make_scenes(folder, number), "classes": ["a", "b"], **settings})


class Work(NamedTuple):
    """What grows: how many there are of the smallest size, and what makes the work of a size."""

    units: int
    make: Callable[[int, Path], Act]


WORK = {
    "chips": Work(200, chips),
    "scenes": Work(4, scenes),
    "epochs": Work(10, epochs),
    "promotions": Work(10, promotions),
}


def run(name: str, factor: int) -> dict[str, float]:
    """Seconds and added memory of one size, in this process."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    work = WORK[name]
    with tempfile.TemporaryDirectory() as folder:
        work.make(work.units, Path(folder, "first"))()
        act = work.make(work.units * factor, Path(folder, "counted"))
        forget_peak()
        before, started = resident_mb(), time.perf_counter()
        act()
        return {"seconds": time.perf_counter() - started, "added_mb": max(0.0, peak_mb() - before)}


def measure(effort: Effort) -> Result:
    """Every kind of work, in three sizes if in full, else in two."""
    factors = FACTORS if effort == "full" else FACTORS[:2]
    tables, aims = [], []
    for name, work in WORK.items():
        lines: dict[str, Figures] = {}
        unit_ms: dict[int, float] = {}
        added: dict[int, float] = {}
        for factor in factors:
            found = json.loads(run_python("-m", "benchmarks.growth", name, str(factor), timeout_s=TIMEOUT_S))
            units = work.units * factor
            unit_ms[factor], added[factor] = found["seconds"] / units * 1e3, found["added_mb"]
            lines[f"{units:,} {name}"] = {
                "seconds": significant(found["seconds"]),
                "ms each": significant(unit_ms[factor]),
                "added memory, MB": significant(added[factor]),
            }
            say(f"  {units:,} {name}: {found['seconds']:.1f} s, {added[factor]:.1f} MB")
        tables.append(table_of(name, lines))
        last = factors[-1]
        ratio, more = unit_ms[last] / unit_ms[1], added[last] - added[1]
        aims += [
            aim(f"{name}: time of each, x{last} over x1", f"<= {LONGER}", significant(ratio), lambda v: v <= LONGER),
            aim(f"{name}: memory, x{last} less x1, MB", f"<= {MORE_MB:g}", significant(more), lambda v: v <= MORE_MB),
        ]
    return {"tables": tables, "aims": aims}


def main() -> int:
    """One size in this process: ``python -m benchmarks.growth NAME FACTOR``."""
    name, factor = sys.argv[1:]
    print(json.dumps(run(name, int(factor))))
    return 0


if __name__ == "__main__":
    sys.exit(main())

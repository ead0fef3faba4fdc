"""Mapping a scene, file to file: pixels per second beside the bare model's, and memory by the number of rows.

The scene has 4 bands of uint16 and is mapped to 10 classes by a U-Net with random weights, in windows of 256 px that
share 64. The bare model gets as many windows in batches of 4 from memory, and its output is thrown away; once more in
the layout and batches that ununennium takes on a CPU, which shows what all the rest costs. The others read the file,
predict, blend, and write a GeoTIFF of classes, each as its documentation shows: MONAI's ``sliding_window_inference``
(Gaussian weights) and TerraTorch's ``tiled_inference`` take and give a tensor of the whole scene. Contenders take turns
in one process. Memory is measured in processes of their own: the highest resident set while a scene is mapped, less the
highest before, when everything was imported and the model had run.
"""

from __future__ import annotations

import importlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
import rasterio
import torch
from rasterio.windows import Window
from torch import nn

from benchmarks.harness import (
    Effort,
    Figures,
    Result,
    aim,
    missing_peers,
    one_line,
    peak_mb,
    run_python,
    say,
    significant,
    spread,
    table,
    take_turns,
)
from benchmarks.scene_file import BANDS, make_scene
from ununennium.inference.scene import map_scene
from ununennium.models import UNet
from ununennium.prediction.forward import cpu_batch_size, ready
from ununennium.prediction.tiles import place_tiles

CLASSES = 10
TILE, SHARED, BATCH = 256, 64, 4
MEAN, STD = 9000.0, 2000.0
BARE, FAST = "bare model", "bare model, channels last, batches of 2"
OURS, MONAI, TERRATORCH = "ununennium", "MONAI", "TerraTorch"
PEERS = {MONAI: "monai", TERRATORCH: "terratorch"}
SENTINEL = 10980
CONTRACT: dict[str, Any] = {
    "classes": [f"class {number}" for number in range(CLASSES)],
    "bands": [1, 2, 3, 4],
    "statistics": {"mean": [MEAN] * BANDS, "std": [STD] * BANDS},
    "nodata": None,
    "resolution": [30.0, 30.0],
    "crs": "EPSG:32621",
    "chip_size": TILE,
}


class Plan(NamedTuple):
    """How much is measured: side of the scene that is timed, rounds, and rows of the scenes for memory."""

    side: int
    rounds: int
    rows: tuple[int, ...]


PLANS: dict[Effort, Plan] = {
    "quick": Plan(512, 1, (512, 1024)),
    "usual": Plan(2048, 1, (1024, 2048)),
    "full": Plan(4096, 3, (2048, 4096, 16384)),
}


def measure(effort: Effort) -> Result:
    """Speed of all contenders, then memory."""
    plan = PLANS[effort]
    absent = missing_peers(PEERS)
    scene, _ = make_scene(_folder(), "deflate", plan.side)
    model = make_model()
    contenders = {
        name: _timed(name, model, scene) for name in (BARE, FAST, OURS, MONAI, TERRATORCH) if name not in absent
    }
    seconds, failed = take_turns(contenders, plan.rounds, warm_up=int(effort != "full"), label=f"{plan.side} px")
    lines: dict[str, Figures] = {}
    ratio = None
    for name, values in seconds.items():
        lines[name] = {"megapixels per second": spread(plan.side**2 / 1e6 / value for value in values)}
        shares = spread(bare / value for bare, value in zip(seconds[BARE], values, strict=True))
        lines[name]["of the bare model's"] = shares
        ratio = shares["median"] if name == OURS else ratio
    for name in (MONAI, TERRATORCH):
        if name in lines:
            lines[name]["added peak memory, MB"] = added_mb(name, plan.side, plan.side)
    measured = {rows: added_mb(OURS, rows, plan.side) for rows in plan.rows}
    grown = {rows: mb for rows, mb in measured.items() if mb is not None}
    middle = grown.get(plan.side)
    if OURS in lines:
        lines[OURS]["added peak memory, MB"] = middle
    rows_of_memory: dict[str, Figures] = {f"{rows} rows": {"added peak memory, MB": mb} for rows, mb in grown.items()}
    growth = None
    if len(grown) > 1:
        first, last = min(grown), max(grown)
        growth = significant((grown[last] - grown[first]) / (last - first) * 1024)
    title = f"{plan.side} x {plan.side} x {BANDS} to {CLASSES} classes"
    notes = _extrapolated(plan.side, middle, seconds.get(OURS, []))
    return {
        "tables": [
            table(title, lines, {**absent, **failed}),
            table(f"memory of {OURS}, {plan.side} columns", rows_of_memory),
        ],
        "aims": [
            aim("pixels per second, of the bare model's", ">= 0.90", ratio, lambda value: value >= 0.90),
            aim("added peak memory, MB", "<= 200", middle, lambda value: value <= 200),
            aim("memory per row, kB", "about 0", growth, lambda value: value <= 1.0),
        ],
        "limit": "the bare model over the same windows, which read, blend and write nothing",
        "notes": notes,
    }


def _extrapolated(side: int, memory_mb: float | None, seconds: list[float]) -> list[str]:
    """What a Sentinel-2 tile would take: memory grows with the width, time with the pixels."""
    if not seconds or memory_mb is None:
        return []
    wide, many = SENTINEL / side, (SENTINEL / side) ** 2
    return [
        f"Extrapolated to {SENTINEL} x {SENTINEL} (a Sentinel-2 tile): at most {memory_mb * wide:.0f} MB, as bands of "
        f"the width of the scene are held, and {min(seconds) * many / 60:.0f} minutes on this machine's CPU."
    ]


# ---------------------------------------------------------------------- contenders


def make_model() -> nn.Module:
    """A small U-Net with random weights."""
    torch.manual_seed(0)
    return UNet(BANDS, CLASSES, base_channels=16, depth=3).eval()


def bare(model: nn.Module, windows: int) -> None:
    """The model alone, over so many windows."""
    _bare(model, windows, torch.randn(BATCH, BANDS, TILE, TILE))


def bare_as_we_run_it(model: nn.Module, windows: int) -> None:
    """The same in the layout and batches that ``predict_strips`` takes on a CPU."""
    batch = torch.randn(cpu_batch_size(TILE), BANDS, TILE, TILE)
    with ready(model, channels_last=True):
        _bare(model, windows, batch.contiguous(memory_format=torch.channels_last))


def _bare(model: nn.Module, windows: int, batch: torch.Tensor) -> None:
    with torch.no_grad():
        for first in range(0, windows, len(batch)):
            model(batch[: windows - first])


def by_us(model: nn.Module, scene: Path, output: Path) -> None:
    map_scene(model, CONTRACT, str(scene), output)


def by_monai(model: nn.Module, scene: Path, output: Path) -> None:
    from monai.inferers import sliding_window_inference

    with torch.no_grad():
        logits: Any = sliding_window_inference(
            _read(scene)[None], (TILE, TILE), BATCH, model, overlap=SHARED / TILE, mode="gaussian"
        )
    _write(scene, output, logits[0].argmax(0))


def by_terratorch(model: nn.Module, scene: Path, output: Path) -> None:
    from terratorch.tasks.tiled_inference import tiled_inference

    logits = tiled_inference(
        model, _read(scene)[None], CLASSES, crop=TILE, stride=TILE - SHARED, delta=0, batch_size=BATCH
    )
    _write(scene, output, logits[0].argmax(0))


_BARE = {BARE: bare, FAST: bare_as_we_run_it}
MAPPERS: dict[str, Callable[[nn.Module, Path, Path], None]] = {
    OURS: by_us,
    MONAI: by_monai,
    TERRATORCH: by_terratorch,
}


def _read(scene: Path) -> torch.Tensor:
    with rasterio.open(scene) as source:
        pixels = torch.from_numpy(source.read(out_dtype=np.float32))
    return pixels.sub_(MEAN).div_(STD)


def _write(scene: Path, output: Path, classes: torch.Tensor) -> None:
    with rasterio.open(scene) as source:
        profile = {**source.profile, "count": 1, "dtype": "uint8"}
    with rasterio.open(output, "w", **profile) as target:
        target.write(classes.to(torch.uint8).numpy(), 1)


def _timed(name: str, model: nn.Module, scene: Path) -> Callable[[], float]:
    with rasterio.open(scene) as source:
        windows = len(place_tiles(source.width, TILE, SHARED).starts) * len(
            place_tiles(source.height, TILE, SHARED).starts
        )

    def once() -> float:
        started = perf_counter()
        if name in _BARE:
            _BARE[name](model, windows)
        else:
            MAPPERS[name](model, scene, _folder() / "map.tif")
        return perf_counter() - started

    return once


# ---------------------------------------------------------------------- memory


def added_mb(name: str, rows: int, width: int) -> float | None:
    """The memory that mapping a scene of so many rows adds, in processes of their own; None if it failed."""
    found = []
    for _ in range(3 if rows <= width else 1):
        words = ["-m", "benchmarks.scene_inference", json.dumps({"name": name, "rows": rows, "width": width})]
        try:
            found.append(float(run_python(*words, timeout_s=1800).split()[-1]))
        except (RuntimeError, subprocess.TimeoutExpired) as error:
            say(f"  {name}, {rows} rows: {one_line(error)}")
            return None
    say(f"  {name}, {rows} rows: {statistics.median(found):.0f} MB")
    return statistics.median(found)


def as_process(name: str, rows: int, width: int) -> None:
    """Map a scene, and print the memory that this added."""
    model, scene = make_model(), tall_scene(rows, width)
    (bare_as_we_run_it if name == OURS else bare)(model, 24)
    if name in PEERS:  # their own size is no cost of the scene
        importlib.import_module({MONAI: "monai.inferers", TERRATORCH: "terratorch.tasks.tiled_inference"}[name])
    before = peak_mb()
    MAPPERS[name](model, scene, _folder() / f"tall-{name}.tif")
    print(round(peak_mb() - before, 1))


def tall_scene(rows: int, width: int) -> Path:
    """A scene of so many rows: the square one, again and again."""
    square, _ = make_scene(_folder(), "deflate", width)
    path = _folder() / f"tall-{rows}x{width}.tif"
    if not path.exists():
        with rasterio.open(square) as source:
            profile = {**source.profile, "height": rows}
            with rasterio.open(path.with_suffix(".new.tif"), "w", **profile) as target:
                for top in range(0, rows, 512):
                    strip = source.read(window=Window(0, top % width, width, min(512, rows - top)))
                    target.write(strip, window=Window(0, top, width, strip.shape[1]))
        path.with_suffix(".new.tif").replace(path)
    return path


def _folder() -> Path:
    return Path(tempfile.gettempdir()) / "scene-inference"


if __name__ == "__main__":
    as_process(**json.loads(sys.argv[1]))

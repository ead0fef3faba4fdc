"""Two ranks through the Trainer beside a hand-written DDP script: paired and interleaved, and all-reduces counted.

Usage: python -m benchmarks.ddp_speed [--rounds 15] [--ranks 2] [--pixels 128] [--json FILE]

Both contenders train the same small U-Net from the same weights over the same batches, with windows of two batches
under ``no_sync``, clipping and a running loss, in the same processes. The hand-written one divides the mean losses by
the number of micro-batches; the Trainer weights them by their valid pixels over both ranks. Here all pixels are valid,
so that the weights of both can be compared.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ununennium.models import UNet
from ununennium.training import Trainer, TrainerConfig, distributed

WINDOW = 2
PIXELS_PER_EPOCH = 16 * 128**2  # of each rank: smaller images are more batches
Batches = list[tuple[torch.Tensor, torch.Tensor]]


def make_batches(rank: int, side: int) -> Batches:
    """Batches of two images of ``side`` x ``side`` pixels."""
    generator = torch.Generator().manual_seed(rank)
    count = PIXELS_PER_EPOCH // side**2
    images = torch.randn(count, 2, 3, side, side, generator=generator)
    targets = torch.randint(0, 2, (count, 2, side, side), generator=generator)
    return list(zip(images, targets, strict=True))


def wrapped(model: nn.Module, reduced: list[int]) -> DistributedDataParallel:
    """``model`` in DDP, whose all-reduces of gradients are counted."""
    ddp = DistributedDataParallel(model)

    def counted(state, bucket):  # type: ignore[no-untyped-def]  # torch wants the types, or none, not their names
        reduced.append(bucket.index())
        flat = bucket.buffer().div_(distributed.world_size())
        future = dist.all_reduce(flat, async_op=True).get_future()
        return future.then(lambda done: done.value()[0])

    ddp.register_comm_hook(None, counted)
    return ddp


def by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches) -> None:
    """One epoch, as one would write it."""
    loss_fn, total, count = nn.CrossEntropyLoss(), 0.0, 0
    model.train()
    for number, (image, target) in enumerate(batches):
        ends_window = number % WINDOW == WINDOW - 1
        with contextlib.nullcontext() if ends_window else model.no_sync():
            loss = loss_fn(model(image), target)
            (loss / WINDOW).backward()
        total += loss.item() * target.numel()
        count += target.numel()
        if ends_window:
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    sums = torch.tensor([total, count])
    dist.all_reduce(sums)


def by_trainer(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches) -> None:
    """The same epoch through the Trainer."""
    config = TrainerConfig(1, "cpu", False, WINDOW)
    loader: Any = batches
    Trainer(model, optimizer, nn.CrossEntropyLoss(), loader, config=config).fit()


@distributed.process_group("cpu", timeout_s=300)
def measure(rounds: int, side: int, out: str) -> None:
    """What each rank does; rank 0 writes the figures."""
    torch.set_num_threads(1)
    batches = make_batches(distributed.rank(), side)
    windows = len(batches) // WINDOW
    contenders = {"hand": by_hand, "trainer": by_trainer}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    reduced: dict[str, list[int]] = {name: [] for name in contenders}
    furthest = 0.0
    for number in range(rounds + 1):
        final = {}
        for name in list(contenders) if number % 2 else list(reversed(contenders)):
            torch.manual_seed(0)
            model = UNet(3, 2, base_channels=16, depth=3)
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
            reduced[name] = []
            ddp = wrapped(model, reduced[name])
            dist.barrier()
            start = time.perf_counter()
            contenders[name](ddp, optimizer, batches)
            dist.barrier()
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
            final[name] = [parameter.detach() for parameter in model.parameters()]
        pairs = zip(final["hand"], final["trainer"], strict=True)
        furthest = max(furthest, *(float((a - b).abs().max()) for a, b in pairs))
    if distributed.rank() == 0:
        ratios = [hand / ours for hand, ours in zip(seconds["hand"], seconds["trainer"], strict=True)]
        figures = {
            "ranks": distributed.world_size(),
            "hand_steps_per_s": round(windows / statistics.median(seconds["hand"]), 2),
            "trainer_steps_per_s": round(windows / statistics.median(seconds["trainer"]), 2),
            "ratio": round(statistics.median(ratios), 4),
            "ratio_quartiles": [round(quartile, 4) for quartile in statistics.quantiles(ratios, n=4)],
            "windows": windows,
            "all_reduces": {name: len(buckets) for name, buckets in reduced.items()},
            "weights_differ_by": furthest,
        }
        Path(out).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--pixels", type=int, default=128, help="side of an image: 32, 64 or 128")
    parser.add_argument("--json", type=Path, default=Path("ddp_speed.json"), help="where the figures are written")
    arguments = parser.parse_args()
    if "RANK" in os.environ:
        measure(arguments.rounds, arguments.pixels, str(arguments.json))
        return 0
    options = ["--rounds", str(arguments.rounds), "--pixels", str(arguments.pixels), "--json", str(arguments.json)]
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={arguments.ranks}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, *torchrun, "-m", "benchmarks.ddp_speed", *options], env=environment, check=True, timeout=3600
    )
    figures = json.loads(arguments.json.read_text(encoding="utf-8"))
    print(f"{figures['ranks']} ranks, optimizer steps per second: by hand {figures['hand_steps_per_s']}, Trainer "
          f"{figures['trainer_steps_per_s']}, ratio {figures['ratio']} (quartiles {figures['ratio_quartiles']}); "
          f"all-reduces in {figures['windows']} windows: {figures['all_reduces']}; weights differ by at most "
          f"{figures['weights_differ_by']:.1e}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Two ranks: DistributedDataParallel by hand, through Lightning and through the Trainer, in the same two processes.

All train the same small U-Net from the same weights over the same batches, with windows of two batches under
``no_sync``, clipping and a running loss. The hand-written one and Lightning divide the mean losses by the number of
micro-batches; the Trainer weights them by their valid pixels over both ranks. Here all pixels are valid, so that the
weights can be compared. Figures are medians over stretches of an epoch, of ten windows where there are many: in every
tenth the Trainer's ranks agree on whether to stop. All-reduces of gradients are counted by a communication hook, but
not Lightning's.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.harness import (
    Effort,
    Figures,
    Result,
    Table,
    aim,
    missing_peers,
    run_python,
    say,
    significant,
    spread,
    table,
    take_turns,
)  # fmt: skip
from benchmarks.loops import CLIP, Batches, Loader, quiet_lightning
from ununennium.models import UNet
from ununennium.training import Trainer, TrainerConfig, distributed

RANKS = 2
WINDOW = 2
STRETCH = TrainerConfig().agree_every_steps
HAND, OURS, LIGHTNING = "hand-written DistributedDataParallel", "ununennium", "Lightning"
SIDES = {128: "60 ms", 32: "4 ms"}
"""Side of an image in pixels -> about how long a batch of two takes by hand."""


def make_batches(rank: int, side: int, pixels: int) -> Batches:
    """Batches of two images of ``side`` x ``side`` pixels; so many pixels of each rank in all, over two."""
    generator = torch.Generator().manual_seed(rank)
    count = pixels // side**2
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


Loop = Callable[[nn.Module, torch.optim.Optimizer, Loader, "list[int]"], None]


def by_hand(plain: nn.Module, optimizer: torch.optim.Optimizer, batches: Loader, reduced: list[int]) -> None:
    """As one would write it."""
    model = wrapped(plain, reduced)
    loss_fn, total, count = nn.CrossEntropyLoss(), 0.0, 0
    model.train()
    dist.barrier()
    for number, (image, target) in enumerate(batches):
        ends_window = number % WINDOW == WINDOW - 1
        with contextlib.nullcontext() if ends_window else model.no_sync():
            loss = loss_fn(model(image), target)
            (loss / WINDOW).backward()
        total += loss.item() * target.numel()
        count += target.numel()
        if ends_window:
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    sums = torch.tensor([total, count])
    dist.all_reduce(sums)


def by_trainer(plain: nn.Module, optimizer: torch.optim.Optimizer, batches: Loader, reduced: list[int]) -> None:
    config = TrainerConfig(1, "cpu", False, WINDOW, CLIP)
    loader: Any = batches
    trainer = Trainer(wrapped(plain, reduced), optimizer, nn.CrossEntropyLoss(), loader, config=config)
    dist.barrier()
    trainer.fit()


def by_lightning(plain: nn.Module, optimizer: torch.optim.Optimizer, batches: Loader, reduced: list[int]) -> None:
    import lightning
    from lightning.pytorch.strategies import DDPStrategy

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss_fn = plain, nn.CrossEntropyLoss()

        def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
            image, target = batch
            loss: torch.Tensor = self.loss_fn(self.model(image), target)
            self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(target), sync_dist=True)
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

    with quiet_lightning():
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", devices=distributed.world_size(), accumulate_grad_batches=WINDOW,
            gradient_clip_val=CLIP, strategy=DDPStrategy(process_group_backend="gloo"), use_distributed_sampler=False,
            logger=False, enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False,
        )  # fmt: skip
        trainer.fit(Module(), batches)


LOOPS: dict[str, Loop] = {HAND: by_hand, OURS: by_trainer, LIGHTNING: by_lightning}


@distributed.process_group("cpu", timeout_s=300)
def as_rank(side: int, rounds: int, pixels: int, out: str) -> None:
    """What each rank does; rank 0 writes what it measured."""
    torch.set_num_threads(1)
    batches = make_batches(distributed.rank(), side, pixels)
    reduced: dict[str, list[int]] = {}
    final: dict[str, list[torch.Tensor]] = {}
    furthest = dict.fromkeys(LOOPS, 0.0)

    def once(name: str) -> float:
        torch.manual_seed(0)
        model = UNet(3, 2, base_channels=16, depth=3)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        reduced[name] = []
        loader = Loader(batches)
        LOOPS[name](model, optimizer, loader, reduced[name])
        final[name] = [parameter.detach().clone() for parameter in model.parameters()]
        if HAND in final:
            pairs = zip(final[HAND], final[name], strict=True)
            furthest[name] = max(furthest[name], *(float((a - b).abs().max()) for a, b in pairs))
        windows = STRETCH if len(batches) > 2 * STRETCH * WINDOW else 1
        return loader.step_s(windows * WINDOW) / windows

    absent = missing_peers({LIGHTNING: "lightning"})
    contenders = {name: (lambda name=name: once(name)) for name in LOOPS if name not in absent}
    label = f"{side} px" if distributed.rank() == 0 else ""
    seconds, failed = take_turns(contenders, rounds, label=label)
    if distributed.rank() == 0:
        windows = len(batches) // WINDOW
        counts = {name: len(buckets) for name, buckets in reduced.items() if name != LIGHTNING}
        measured = {"seconds": seconds, "failed": failed, "windows": windows, "all_reduces": counts}
        Path(out).write_text(json.dumps({**measured, "furthest": furthest}), encoding="utf-8")


def measure(effort: Effort) -> Result:
    """Batches of about 60 ms and of about 4 ms, each under a torchrun of its own."""
    tables, found = [], {}
    for side, about in SIDES.items():
        with tempfile.TemporaryDirectory() as folder:
            out = f"{folder}/ranks.json"
            rounds = {"quick": 1, "usual": 5, "full": 15}[effort]
            settings = {"side": side, "rounds": rounds, "pixels": (4 if effort == "quick" else 16) * 128**2}
            torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}"]
            words = [*torchrun, "-m", "benchmarks.ddp_speed", json.dumps({**settings, "out": out})]
            say(f"  two ranks, batches of about {about}")
            run_python(*words, timeout_s=1200, environment={**os.environ, "OMP_NUM_THREADS": "1"})
            each, found[side] = _table(about, json.loads(Path(out).read_text(encoding="utf-8")))
            tables.append(each)
    what = {side: f"steps per second, of the hand-written ones, batches of {about}" for side, about in SIDES.items()}
    return {
        "tables": tables,
        "aims": [aim(what[side], ">= 0.98", found[side], lambda ratio: ratio >= 0.98) for side in SIDES],
        "limit": "the hand-written script: one all-reduce of the gradients per window. The Trainer's second one, of "
        "one number (the window's valid pixels over the ranks), takes about 0.3 ms here whatever the batch takes",
    }


def _table(about: str, measured: dict[str, Any]) -> tuple[Table, float | None]:
    seconds, windows = measured["seconds"], measured["windows"]
    lines: dict[str, Figures] = {}
    ratio = None
    for name, values in seconds.items():
        lines[name] = {"optimizer steps per second": spread(1 / value for value in values)}
        if HAND in seconds:
            shares = spread((hand / value for hand, value in zip(seconds[HAND], values, strict=True)), 4)
            lines[name]["of the hand-written ones"] = shares
            lines[name]["weights differ by at most"] = significant(measured["furthest"][name], 2)
            ratio = shares["median"] if name == OURS else ratio
        if name in measured["all_reduces"]:
            lines[name]["all-reduces of gradients"] = measured["all_reduces"][name]
    absent = missing_peers({LIGHTNING: "lightning"})
    title = f"{RANKS} ranks, {windows} windows of {WINDOW} batches of about {about}"
    return table(title, lines, {**absent, **measured["failed"]}), ratio


if __name__ == "__main__":
    as_rank(**json.loads(sys.argv[1]))

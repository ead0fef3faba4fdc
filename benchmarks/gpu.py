"""Training on a GPU: every precision, memory layout and compilation, through the Trainer and by hand, in turns.

A ResNet-34 U-Net of 13 bands x 256 x 256 pixels on synthetic batches that lie on the card: what is measured is the card
and the loop, no disk. It needs torch and this project, no network. Figures go into docs/performance.md with --update.

examples:
  make bench-gpu                              everything, under 8 minutes, into docs/performance.md
  python -m benchmarks.gpu --batch 16         on a smaller card
  python -m benchmarks.gpu --device cpu       the same program on a tiny model: does it work? No figure of a GPU
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import harness, report
from benchmarks.gpu_model import WIDTH, ResNetUNet
from benchmarks.harness import Figures, Result, aim, say, significant, spread, table
from ununennium.training import Callback, Trainer, TrainerConfig

OURS, HAND = "ununennium", "by hand"
PRECISIONS = ("fp32", "tf32", "fp16", "bf16")
BANDS, CLASSES = 13, 10
DEADLINE_S = 420.0
CURVES = report.DOCUMENT.parent / "images" / "gpu-losses.png"

Batches = list[tuple[Tensor, Tensor]]


class Size(NamedTuple):
    """How much is measured."""

    batch: int
    pixels: int
    steps: int
    rounds: int
    curve_steps: int
    width: int = WIDTH


class Way(NamedTuple):
    """One configuration of the card."""

    precision: str
    channels_last: bool
    compiled: bool

    def __str__(self) -> str:
        extras = ["channels_last"] * self.channels_last + ["compile"] * self.compiled
        return ", ".join((self.precision, *extras))

    @property
    def dtype(self) -> torch.dtype:
        """Of autocast."""
        return {"fp16": torch.float16, "bf16": torch.bfloat16}.get(self.precision, torch.float32)

    @property
    def setting(self) -> Any:
        """``TrainerConfig.mixed_precision``."""
        return self.precision if self.dtype != torch.float32 else "no"


@contextlib.contextmanager
def matrices(precision: str) -> Iterator[None]:
    """Float32 matrices and convolutions in TF32 for ``tf32``; in all of float32 otherwise."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def wait(device: torch.device) -> None:
    """Until the card has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def batches_on(device: torch.device, size: Size, channels_last: bool) -> Batches:
    """Four batches, repeated, whose classes follow from the bands: a model can learn them."""
    generator = torch.Generator().manual_seed(0)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    made = []
    for _ in range(4):
        image = torch.randn(size.batch, BANDS, size.pixels, size.pixels, generator=generator)
        made.append((image.to(device, memory_format=layout), image[:, :CLASSES].argmax(1).to(device)))
    return list(itertools.islice(itertools.cycle(made), size.steps))


# ---------------------------------------------------------------------- the card's own rate


def matrix_rate(precision: str, device: torch.device, side: int, seconds: float = 0.5) -> float:
    """Floating-point operations per second of a square matrix product, the best of several."""
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}.get(precision, torch.float32)
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best, deadline = math.inf, time.perf_counter() + seconds
    with matrices(precision):
        while time.perf_counter() < deadline:
            wait(device)
            started = time.perf_counter()
            for _ in range(4):
                left @ right
            wait(device)
            best = min(best, (time.perf_counter() - started) / 4)
    return 2.0 * side**3 / best


def flops_per_image(size: Size) -> float:
    """Of forward and backward, counted on the shapes alone."""
    with torch.device("meta"):
        model = ResNetUNet(BANDS, CLASSES, size.width).eval()
        image = torch.empty(1, BANDS, size.pixels, size.pixels)
    with FlopCounterMode(display=False) as counter:
        model(image).sum().backward()
    return float(counter.get_total_flops())


# ---------------------------------------------------------------------- the two loops


class ByHand:
    """What one would write: autocast, scaler, accumulation, clip; the loss is read once, at the end."""

    def __init__(self, way: Way, device: torch.device, accumulation: int, width: int) -> None:
        self.model, self.optimizer = fresh(way, device, width)
        self.trained: Any = torch.compile(self.model) if way.compiled else self.model
        self.scaler = torch.amp.GradScaler(device.type, enabled=way.precision == "fp16")
        self.way, self.device, self.accumulation = way, device, accumulation
        self.losses: list[float] = []

    def epoch(self, batches: Batches) -> None:
        """Train on ``batches`` once."""
        loss_fn = nn.CrossEntropyLoss()
        losses = []
        for number, (image, target) in enumerate(batches, start=1):
            with torch.autocast(self.device.type, self.way.dtype, enabled=self.way.dtype != torch.float32):
                output = self.trained(image)
            loss = loss_fn(output.float(), target)
            self.scaler.scale(loss / self.accumulation).backward()
            losses.append(loss.detach())
            if number % self.accumulation == 0:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.scaler.step(self.optimizer)
                self.scaler.update()
                self.optimizer.zero_grad(set_to_none=True)
        self.losses += torch.stack(losses).tolist()


class ByTrainer:
    """The Trainer with three idle callbacks; every call of ``epoch`` is one epoch more of the same run."""

    def __init__(self, way: Way, device: torch.device, accumulation: int, width: int, batches: Batches) -> None:
        model, optimizer = fresh(way, device, width)
        config = TrainerConfig(
            device=str(device), mixed_precision=way.setting, channels_last=way.channels_last, compile=way.compiled,
            accumulation_steps=accumulation,
        )  # fmt: skip
        idle = [Callback(), Callback(), Callback()]
        loader: Any = batches
        self.trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), loader, callbacks=idle, config=config)

    def epoch(self, batches: Batches) -> None:
        """Train on the batches once."""
        assert self.trainer.train_loader is not None
        self.trainer.fit(self.trainer.state.epoch + 1)


def fresh(way: Way, device: torch.device, width: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same weights every time."""
    torch.manual_seed(0)
    model: nn.Module = ResNetUNet(BANDS, CLASSES, width).to(device)
    if way.channels_last:
        model = model.to(memory_format=torch.channels_last)
    return model, torch.optim.AdamW(model.parameters(), lr=1e-3, fused=device.type == "cuda")


# ---------------------------------------------------------------------- measuring


def compare(way: Way, device: torch.device, size: Size, accumulation: int) -> dict[str, dict[str, Any]]:
    """Seconds an epoch and peak memory in MB, of both loops in turns; the first epoch compiles and is not counted."""
    batches = batches_on(device, size, way.channels_last)
    found: dict[str, dict[str, Any]] = {}
    with matrices(way.precision):
        loops: dict[str, Any] = {
            HAND: ByHand(way, device, accumulation, size.width),
            OURS: ByTrainer(way, device, accumulation, size.width, batches),
        }
        for number in range(size.rounds + 1):
            for name in list(loops) if number % 2 else list(reversed(loops)):
                wait(device)
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                    held = torch.cuda.memory_allocated(device)
                started = time.perf_counter()
                loops[name].epoch(batches)
                wait(device)
                seconds = time.perf_counter() - started
                if number == 0:
                    continue
                entry = found.setdefault(name, {"seconds": [], "added_mb": 0.0})
                entry["seconds"].append(seconds)
                if device.type == "cuda":  # beside what both loops' models and optimizers hold all the time
                    added = (torch.cuda.max_memory_allocated(device) - held) / 2**20
                    entry["added_mb"] = max(entry["added_mb"], added)
    return found


def curves(device: torch.device, size: Size) -> dict[str, list[float]]:
    """The loss of every step in fp32 and in fp16, from the same weights over the same batches."""
    lines = {}
    for precision in ("fp32", "fp16"):
        with matrices(precision):
            loop = ByHand(Way(precision, False, False), device, 1, size.width)
            loop.epoch(batches_on(device, size._replace(steps=size.curve_steps), False))
        lines[precision] = loop.losses
    return lines


def draw(lines: dict[str, list[float]], card: str, file: Path) -> None:
    """Both curves in one picture."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 3.5), layout="constrained")
    for (name, losses), style in zip(lines.items(), ("-", "--"), strict=True):
        axes.plot(range(1, len(losses) + 1), losses, style, label=name)
    axes.set(title=card, xlabel="step", ylabel="cross-entropy")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def measure(device: torch.device, size: Size, ways: list[Way], *, side: int) -> Result:
    """All ``ways``, as long as there is time; then accumulation with fp16; then the two loss curves."""
    deadline = time.monotonic() + DEADLINE_S
    rates = {precision: matrix_rate(precision, device, side) for precision in PRECISIONS}
    flops = flops_per_image(size)
    lines: dict[str, Figures] = {}
    failed: dict[str, str] = {}
    speed: dict[Way, float] = {}
    ratios: dict[str, float] = {}
    memory: dict[str, float] = {}
    accumulated = [(Way("fp16", False, False), 4)]
    for way, accumulation in [*accumulated, *((way, 1) for way in ways)]:
        label = f"{way}, accumulation {accumulation}" if accumulation > 1 else str(way)
        if time.monotonic() > deadline:
            failed[label] = f"{DEADLINE_S:.0f} s were over"
            continue
        try:
            found = compare(way, device, size, accumulation)
        except Exception as error:
            failed[label] = harness.one_line(error)
            say(f"  {label} failed: {failed[label]}")
            continue
        images = size.batch * size.steps
        rate = [images / seconds for seconds in _seconds(found, OURS)]
        of_hand = [ours / hand for ours, hand in zip(_seconds(found, OURS), _seconds(found, HAND), strict=True)]
        ratios[label] = significant(statistics.median(of_hand), 4)
        memory[label] = _added(found, OURS) / _added(found, HAND) if _added(found, HAND) else math.nan
        if accumulation == 1:
            speed[way] = statistics.median(rate)
        lines[label] = {
            "images/s": spread(rate),
            "of the matrix rate": significant(statistics.median(rate) * flops / rates[way.precision]),
            "of the time by hand": spread(of_hand, 4),
            "memory of a step, MB": round(_added(found, OURS)),
            "of the memory by hand": significant(memory[label], 4) if _added(found, HAND) else None,
        }
        say(f"  {label}: {statistics.median(rate):,.1f} images/s, {ratios[label]} of the time by hand")
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return {
        "tables": [
            table("the card's own rate", {name: {"TFLOP/s": significant(rate / 1e12)} for name, rate in rates.items()}),
            table(f"batch {size.batch}, {BANDS} x {size.pixels} x {size.pixels}", lines, failed),
        ],
        "aims": _aims(ratios, memory, speed),
        "limit": f"the card's own rate of matrix products; an image needs {flops / 1e9:,.1f} GFLOP, both ways",
    }


def _seconds(found: dict[str, dict[str, Any]], name: str) -> list[float]:
    return list(found[name]["seconds"])


def _added(found: dict[str, dict[str, Any]], name: str) -> float:
    return float(found[name]["added_mb"])


def _aims(ratios: dict[str, float], memory: dict[str, float], speed: dict[Way, float]) -> list[Any]:
    """What the issue asks: the loop costs nothing; mixed precision doubles the speed."""
    gains = [
        speed[way] / speed[plain]
        for way in speed
        if way.precision == "fp16" and (plain := way._replace(precision="fp32")) in speed
    ]
    label = next((name for name in ratios if "accumulation" in name), "")
    share = memory.get(label, math.nan)
    slowest = max(ratios.values(), default=None)
    return [
        aim("accumulation 4, fp16: of the time by hand", "<= 1.01", ratios.get(label), lambda found: found <= 1.01),
        aim("accumulation 4, fp16: of the memory by hand", "<= 1",
            None if math.isnan(share) else significant(share, 4), lambda found: found <= 1.0),
        aim("slowest of all: of the time by hand", "<= 1.01", slowest, lambda found: found <= 1.01),
        aim("fp16 over fp32, least gain", ">= 2", significant(min(gains)) if gains else None, lambda found: found >= 2),
        aim("fp16 over fp32, largest gain", ">= 2", significant(max(gains)) if gains else None,
            lambda found: found >= 2),
    ]  # fmt: skip


def main(words: list[str] | None = None) -> int:
    """Exit status 0, also where there is no card: it says so."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda", help="where to compute; 'cpu' tries the program (%(default)s)")
    parser.add_argument("--batch", type=int, default=32, help="images of a batch (%(default)s)")
    parser.add_argument("--update", action="store_true", help="write figures and curves into docs/performance.md")
    parser.add_argument("--out", type=Path, help="also write the figures to this JSON file")
    options = parser.parse_args(words)
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        say("not run: no CUDA device")
        return 0
    on_card = device.type == "cuda"
    if options.update and not on_card:
        parser.error("--update writes the figures of a GPU: leave --device out")
    size = Size(options.batch, 256, 16, 5, 200) if on_card else Size(2, 32, 4, 1, 4, width=8)
    compiled = (False, True) if on_card else (False,)
    ways = [Way(*each) for each in itertools.product(PRECISIONS, (False, True), compiled)]
    ways.sort(key=lambda way: way.compiled)  # what takes long comes last
    card = torch.cuda.get_device_name(device) if on_card else "no GPU: a trial on the CPU"
    say(f"{card}; at most {DEADLINE_S:.0f} s of {len(ways)} ways, then the loss curves")
    result = measure(device, size, ways, side=8192 if on_card else 256)
    lines = curves(device, size)
    worst = max(abs(half - full) for full, half in zip(lines["fp32"], lines["fp16"], strict=True))
    result["notes"] = [
        f"Loss curves of fp32 and fp16 over {len(lines['fp32'])} steps differ by at most {worst:.3g}, and end at "
        f"{lines['fp32'][-1]:.3f} and {lines['fp16'][-1]:.3f}."
    ]
    text = report.standing_alone(result, f"`make bench-gpu`, {harness.now()}, commit `{harness.commit()}`, {card}")
    say("\n" + text)
    if options.out:
        options.out.write_text(json.dumps({"card": card, "result": result, "curves": lines}) + "\n", encoding="utf-8")
    if options.update:
        draw(lines, card, CURVES)
        report.put(f"{text}\n\n![Loss of fp32 and fp16 over each other](images/{CURVES.name})", "gpu")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the Trainer adds to a step: paired and interleaved with the loop that one would write by hand.

Usage: python -m benchmarks.step_cost [--rounds 15] [--json FILE]

Both contenders train the same model from the same weights over the same batches, with clipping, a running loss and (for
the Trainer) three idle callbacks. Rounds alternate between them, so that a change of the machine's speed meets both;
the figure is the median of the rounds' differences. Weights are compared bit for bit in every round.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ununennium.models import UNet
from ununennium.training import Callback, Trainer, TrainerConfig

Batches = list[tuple[torch.Tensor, torch.Tensor]]


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))


def unet() -> nn.Module:
    return UNet(3, 2, base_channels=8, depth=3)


def mlp_batches(steps: int) -> Batches:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(16, 8, 16, generator=generator)
    targets = torch.randint(0, 4, (16, 8), generator=generator)
    return [(images[i % 16], targets[i % 16]) for i in range(steps)]


def unet_batches(steps: int) -> Batches:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 2, 3, 64, 64, generator=generator)
    targets = torch.randint(0, 2, (4, 2, 64, 64), generator=generator)
    return [(images[i % 4], targets[i % 4]) for i in range(steps)]


def by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches) -> float:
    """Seconds of one epoch, written by hand: clip and running loss included."""
    loss_fn = nn.CrossEntropyLoss()
    total, count = 0.0, 0
    start = time.perf_counter()
    for image, target in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_fn(model(image), target)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += loss.item() * len(target)
        count += len(target)
    return time.perf_counter() - start


class Idle(Callback):
    """Overrides nothing, as most callbacks do for most hooks."""


def by_trainer(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Batches) -> float:
    """Seconds of the same epoch through the Trainer."""
    config = TrainerConfig(epochs=1, device="cpu", mixed_precision=False)
    callbacks: list[Callback] = [Idle(), Idle(), Idle()]
    loader: Any = batches
    trainer = Trainer(model, optimizer, nn.CrossEntropyLoss(), loader, callbacks=callbacks, config=config)
    start = time.perf_counter()
    trainer.fit()
    return time.perf_counter() - start


def compare(make: Callable[[], nn.Module], batches: Batches, rounds: int) -> dict[str, Any]:
    """Microseconds per step of both, and of their difference, as medians over ``rounds``."""
    seconds: dict[str, list[float]] = {"hand": [], "trainer": []}
    contenders = {"hand": by_hand, "trainer": by_trainer}
    identical = True
    for number in range(rounds + 1):
        final = {}
        order = list(contenders) if number % 2 else list(reversed(contenders))
        for name in order:
            torch.manual_seed(0)
            model = make()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
            gc.collect()
            gc.disable()
            elapsed = contenders[name](model, optimizer, batches)
            gc.enable()
            final[name] = model.state_dict()
            if number:  # the first round warms up
                seconds[name].append(elapsed / len(batches) * 1e6)
        identical &= all(torch.equal(value, final["trainer"][key]) for key, value in final["hand"].items())
    differences = [b - a for a, b in zip(seconds["hand"], seconds["trainer"], strict=True)]
    ratios = [b / a for a, b in zip(seconds["hand"], seconds["trainer"], strict=True)]
    return {
        "hand_us": round(statistics.median(seconds["hand"]), 1),
        "trainer_us": round(statistics.median(seconds["trainer"]), 1),
        "added_us": round(statistics.median(differences), 1),
        "added_us_quartiles": [round(q, 1) for q in statistics.quantiles(differences, n=4)],
        "ratio": round(statistics.median(ratios), 4),
        "weights_bit_identical": identical,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, Any] = {
        "tiny MLP, 2,000 steps": compare(mlp, mlp_batches(2000), arguments.rounds),
        "small U-Net, 60 steps": compare(unet, unet_batches(60), arguments.rounds),
    }
    machine = {"python": platform.python_version(), "torch": str(torch.__version__), "machine": platform.machine()}
    for name, figures in results.items():
        print(f"{name}: by hand {figures['hand_us']} us, Trainer {figures['trainer_us']} us, added "
              f"{figures['added_us']} us (quartiles {figures['added_us_quartiles']}), ratio {figures['ratio']}, "
              f"weights bit-identical: {figures['weights_bit_identical']}")  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine, "results": results}, indent=2) + "\n")
    return 0 if all(figures["weights_bit_identical"] for figures in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

"""Cost of a step: what a trainer adds to the loop that one would write by hand.

All train the same model from the same weights over the same batches in memory, on one core, with clipping, a running
loss and three idle callbacks. A step is what lies between one batch and the next, the median of a round's. The weights
of all are compared with those of the hand-written loop, bit for bit.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import nn

from benchmarks import loops
from benchmarks.harness import (
    Effort,
    Figures,
    Result,
    Table,
    against,
    aim,
    missing_peers,
    significant,
    spread,
    table,
    take_turns,
)  # fmt: skip
from benchmarks.loops import Batches, Loader
from ununennium.models import UNet

HAND, OURS = "hand-written loop", "ununennium"
LOOPS: dict[str, Callable[[nn.Module, torch.optim.Optimizer, Loader], None]] = {
    HAND: loops.by_hand,
    OURS: loops.by_trainer,
    "Ignite": loops.by_ignite,
    "Accelerate": loops.by_accelerate,
    "Lightning, barebones": loops.by_barebones,
    "Lightning": loops.by_lightning,
}
PEERS = {"Ignite": "ignite", "Accelerate": "accelerate", "Lightning, barebones": "lightning", "Lightning": "lightning"}


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


def measure(effort: Effort) -> Result:
    """The two models; microseconds a step."""
    torch.set_num_threads(1)
    small, added, _ = compare("tiny MLP", mlp, mlp_batches(500), {"quick": 1, "usual": 10, "full": 40}[effort])
    large, _, ratio = compare("small U-Net", unet, unet_batches(30), {"quick": 1, "usual": 12, "full": 60}[effort])
    return {
        "tables": [small, large],
        "aims": [
            aim("tiny MLP, added to the hand-written loop", "<= 25 µs a step", added, lambda found: found <= 25),
            aim("small U-Net, of the hand-written loop's time", "<= 1.01", ratio, lambda found: found <= 1.01),
        ],
        "limit": "the hand-written loop itself: forward, backward, clip, step and one reading of the loss",
    }


def compare(
    title: str, make: Callable[[], nn.Module], batches: Batches, rounds: int
) -> tuple[Table, float | None, float | None]:
    """The table of one model; medians of what ours adds, in microseconds, and of its ratio to the loop by hand."""
    weights: dict[str, list[torch.Tensor]] = {}
    identical = dict.fromkeys(LOOPS, True)

    def once(name: str) -> float:
        torch.manual_seed(0)
        model = make()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        loader = Loader(batches)
        LOOPS[name](model, optimizer, loader)
        weights[name] = [value.detach() for value in model.state_dict().values()]
        if HAND in weights:
            identical[name] &= all(map(torch.equal, weights[name], weights[HAND]))
        return loader.step_s() * 1e6

    absent = missing_peers(PEERS)
    contenders = {name: (lambda name=name: once(name)) for name in LOOPS if name not in absent}
    taken, failed = take_turns(contenders, rounds, label=title)
    ratios = against(taken, HAND)
    differences = {
        name: [value - base for value, base in zip(values, taken[HAND], strict=True)] for name, values in taken.items()
    }
    lines: dict[str, Figures] = {}
    for name, values in taken.items():
        lines[name] = {"µs a step": spread(values)}
        if name != HAND:
            lines[name] |= {
                "added, µs": spread(differences[name]),
                "of the time by hand": spread(ratios[name], 4),
                "weights as by hand": "to the bit" if identical[name] else "differ",
            }
    ours = None, None
    if OURS in taken:
        ours = significant(statistics.median(differences[OURS])), significant(statistics.median(ratios[OURS]), 4)
    return table(f"{title}, {len(batches):,} steps", lines, {**absent, **failed}), *ours

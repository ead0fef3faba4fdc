"""Small real problems, and the plain loop that everything is compared with."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from ununennium.training import Trainer, TrainerConfig


def make_model(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))


def make_segmenter(seed: int = 1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))


def make_dataset(length: int = 24, seed: int = 0) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(
        torch.randn(length, 4, generator=generator), torch.randint(0, 3, (length,), generator=generator)
    )


def make_tiles(valid_shares: list[float], seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Batches of one 8 x 8 tile each, of which about the given shares are labelled; 255 elsewhere."""
    generator = torch.Generator().manual_seed(seed)
    tiles = []
    for share in valid_shares:
        target = torch.randint(0, 3, (1, 8, 8), generator=generator)
        target[torch.rand(1, 8, 8, generator=generator) >= share] = 255
        tiles.append((torch.randn(1, 2, 8, 8, generator=generator), target))
    return tiles


class PixelSum(nn.Module):
    """Cross-entropy as (sum over valid pixels, their number)."""

    ignore_index = 255

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        total = nn.functional.cross_entropy(output, target, ignore_index=255, reduction="sum")
        return total, (target != 255).sum()


def plain_loop(
    model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Any], epochs: int, clip: float | None = 1.0
) -> None:
    """The reference: what one would write by hand for a classification loss without accumulation."""
    for _ in range(epochs):
        for image, target in batches:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(image), target)
            loss.backward()
            if clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()


def weights(model: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in model.state_dict().values()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    """Bit-equal."""
    return len(first) == len(second) and all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def run_on_ranks(num_ranks: int, program: Path, *arguments: object) -> None:
    spec = importlib.util.spec_from_file_location("ranks", Path(__file__).with_name("ranks.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["ranks"] = module  # where a new process looks for what it is to run
    spec.loader.exec_module(module)
    if str(Path(__file__).parent) not in sys.path:
        sys.path.append(str(Path(__file__).parent))
    module.run_on_ranks(num_ranks, program, *arguments)


class Kit:
    """What the tests of the loop share, as one fixture."""

    model = staticmethod(make_model)
    segmenter = staticmethod(make_segmenter)
    dataset = staticmethod(make_dataset)
    tiles = staticmethod(make_tiles)
    pixel_sum = PixelSum
    plain_loop = staticmethod(plain_loop)
    weights = staticmethod(weights)
    same = staticmethod(same)
    on_ranks = staticmethod(run_on_ranks)

    @staticmethod
    def loader(length: int = 24, batch_size: int = 4, **arguments: Any) -> DataLoader[Any]:
        return DataLoader(make_dataset(length), batch_size=batch_size, **arguments)

    @staticmethod
    def trainer(
        model: nn.Module,
        loader: Any,
        loss_fn: Callable[..., Any] | None = None,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        val_loader: Any = None,
        scheduler: Any = None,
        callbacks: Any = None,
        **config: Any,
    ) -> Trainer:
        """A Trainer on the CPU in fp32 unless told otherwise."""
        settings = {"device": "cpu", "mixed_precision": False, "epochs": 1, **config}
        optimizer = optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
        loss_fn = loss_fn or nn.CrossEntropyLoss()
        return Trainer(model, optimizer, loss_fn, loader, val_loader, scheduler, callbacks, TrainerConfig(**settings))


@pytest.fixture(scope="session")
def kit() -> type[Kit]:
    return Kit

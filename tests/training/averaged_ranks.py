"""What torchrun runs for test_averaged_ranks.py. Usage: averaged_ranks.py CHECKPOINTS OUT; rank 0 writes OUT."""

from __future__ import annotations

import sys

import torch
from torch import nn

from ununennium.training import Trainer, TrainerConfig, distributed
from ununennium.training.callbacks import EMA, CheckpointCallback


def make_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def samples(seed: int, number: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of four whose mean moves on, so that ranks see other statistics."""
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.randn(4, 4, generator=generator) + place, torch.randint(0, 3, (4,), generator=generator))
        for place in range(number)
    ]


@distributed.process_group("cpu", timeout_s=60)
def main(checkpoints: str, out: str) -> None:
    rank, model = distributed.rank(), make_model()
    trainer = Trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1),
        nn.CrossEntropyLoss(),
        samples(0, 8)[rank::2],
        samples(9, 6)[rank::2],
        callbacks=[EMA(0.9), CheckpointCallback(checkpoints)],
        config=TrainerConfig(epochs=2, device="cpu", mixed_precision=False),
    )
    history = trainer.fit()
    if rank == 0:
        torch.save(history["val_loss"], out)


if __name__ == "__main__":
    main(*sys.argv[1:])

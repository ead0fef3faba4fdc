"""What torchrun runs for test_sharding.py: plain DataLoaders under several ranks. Usage: sharded_ranks.py OUT."""

from __future__ import annotations

import datetime
import json
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ununennium.errors import ConfigError
from ununennium.training import Trainer, TrainerConfig


class Seen(Dataset):
    """Remembers what was asked for."""

    def __init__(self, length: int) -> None:
        self.length, self.seen = length, []

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        self.seen.append(int(index))
        return torch.full((4,), float(index)), torch.tensor(index % 3)


def make(train, validation=None, **settings) -> Trainer:
    torch.manual_seed(1)
    model = nn.Linear(4, 3)
    config = TrainerConfig(epochs=1, device="cpu", mixed_precision=False, seed=5, **settings)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    return Trainer(model, optimizer, nn.CrossEntropyLoss(), train, validation, config=config)


def refused(train) -> str:
    try:
        make(train).fit()
    except ConfigError as error:
        return str(error)
    return ""


def main(out: str) -> None:
    dist.init_process_group("gloo", timeout=datetime.timedelta(seconds=60))
    try:
        rank, world = dist.get_rank(), dist.get_world_size()
        train = Seen(5 * world + 1)
        with warnings.catch_warnings(record=True) as heard:
            warnings.simplefilter("always")
            trainer = make(DataLoader(train, batch_size=2, shuffle=True))
            trainer.fit(1)
            first = list(train.seen)
            trainer.fit(2)
        validated, losses = [], []
        for length in range(1, 2 * world + 2):
            validation = Seen(length)
            made = make(DataLoader(Seen(2 * world), batch_size=2), DataLoader(validation, batch_size=2))
            losses.append(made.fit()["val_loss"][0])
            validated.append(validation.seen)
        found = {
            "warnings": [str(one.message) for one in heard if "sampler" in str(one.message)],
            "epochs": [first, train.seen[len(first) :]],
            "validated": validated,
            "losses": losses,
            "uneven": refused([(torch.zeros(1, 4), torch.zeros(1, dtype=torch.int64))] * (1 + rank)),
            "endless": refused(iter([])),
        }
        Path(f"{out}.{rank}").write_text(json.dumps(found))
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])

"""What torchrun runs for test_sharding.py. Usage: sharded_ranks.py OUT; writes OUT.<rank>."""

from __future__ import annotations

import sys
import warnings

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ununennium.errors import ConfigError
from ununennium.training import Trainer, TrainerConfig, distributed

SHARES = [0.05, 1.0, 0.4, 0.9, 0.0, 0.7, 0.3, 0.8, 0.2, 0.6, 0.5, 1.0]  # valid share of each tile
RUNS = [(1, False), (1, True), (4, False), (4, True)]  # micro-batches a step, and whether the loader shuffles


class Tiles(Dataset):
    """Tiles (image (2, 8, 8), target (8, 8)) that are valid to very different degrees."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.made = []
        for number in range(count):
            target = torch.randint(0, 3, (8, 8), generator=generator)
            target[torch.rand(8, 8, generator=generator) >= SHARES[number]] = 255
            self.made.append((torch.randn(2, 8, 8, generator=generator), target))

    def __len__(self) -> int:
        return len(self.made)

    def __getitem__(self, number: int):
        return self.made[number]


class Numbers(Dataset):
    """Images that are all their own number, so that it can be told which were seen."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int):
        return torch.full((2, 2, 2), float(number)), torch.full((2, 2), number % 3)


def brighter(image, target, valid, *, training: bool, epoch: int, batch: int):
    return image * (1 + 0.5 * epoch), target


def make_model() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))


def train(loader, accumulation_steps: int, *, model: nn.Module | None = None):
    model = model or make_model()
    trainer = Trainer(
        model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), nn.CrossEntropyLoss(ignore_index=255), loader,
        batch_transform=brighter,
        config=TrainerConfig(2, "cpu", False, accumulation_steps, seed=5),
    )  # fmt: skip
    history = trainer.fit()
    return {"weights": {key: value.clone() for key, value in trainer.module.state_dict().items()}, "history": history}


def validated(count: int) -> list[int]:
    """The numbers of the samples that this rank validated, of a plain loader over ``count`` of them."""
    numbers: list[int] = []

    def look(image, target, valid, *, training: bool, epoch: int, batch: int):
        if not training:
            numbers.extend(int(number) for number in image[:, 0, 0, 0])
        return image, target

    model = nn.Conv2d(2, 3, 1)
    trainer = Trainer(
        model, torch.optim.SGD(model.parameters(), lr=0.0), nn.CrossEntropyLoss(), DataLoader(Numbers(6), 2),
        DataLoader(Numbers(count), 2, shuffle=True),
        batch_transform=look, config=TrainerConfig(1, "cpu", False),
    )  # fmt: skip
    trainer.fit()
    return numbers


def refusal(loader) -> str:
    try:
        train(loader, 2)
    except ConfigError as error:
        return str(error)
    return "trained"


@distributed.process_group("cpu", timeout_s=120)
def main(out: str) -> None:
    rank, world_size = dist.get_rank(), dist.get_world_size()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        plain = [train(DataLoader(Tiles(12), 1, shuffle=shuffle), steps) for steps, shuffle in RUNS]
    wrapped_model = nn.parallel.DistributedDataParallel(make_model())
    all_reduces = []

    def counted(state, bucket):
        all_reduces.append(bucket.index())
        flat = bucket.buffer().div_(world_size)
        return dist.all_reduce(flat, async_op=True).get_future().then(lambda done: done.value()[0])

    wrapped_model.register_comm_hook(None, counted)
    wrapped = train(DataLoader(Tiles(12), 1, shuffle=True), 4, model=wrapped_model)
    batches = [(torch.zeros(1, 2, 8, 8), torch.zeros(1, 8, 8, dtype=torch.int64))]
    found = {
        "plain": plain,
        "wrapped": wrapped,
        "all_reduces": len(all_reduces),
        "warnings": [str(each.message) for each in warned if "DistributedSampler" in str(each.message)],
        "validated": {count: validated(count) for count in range(1, 2 * world_size + 2)},
        "unequal": refusal(batches * (4 + rank)),  # rank 0: 2 steps, rank 1: 3
        "equal_steps": refusal(batches * (3 + (rank == 0))),  # 4 and 3 batches: 2 steps each
        "no_length": refusal(iter(batches)),
    }
    torch.save(found, f"{out}.{rank}")


if __name__ == "__main__":
    main(sys.argv[1])

"""What each rank of test_two_ranks.py runs. Usage: two_ranks.py OUT; writes OUT.<rank>."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import nn

from ununennium.training import Trainer, TrainerConfig, distributed
from ununennium.training.callbacks import SegmentationMetrics

SHARES = [0.05, 1.0, 0.4, 0.9, 0.0, 0.7, 0.3, 0.8]  # valid share of each tile


def tiles() -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for share in SHARES:
        target = torch.randint(0, 3, (1, 8, 8), generator=generator)
        target[torch.rand(1, 8, 8, generator=generator) >= share] = 255
        made.append((torch.randn(1, 2, 8, 8, generator=generator), target))
    return made


def train(batches, val_batches):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 3, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    config = TrainerConfig(epochs=3, device="cpu", mixed_precision=False, accumulation_steps=2)
    trainer = Trainer(
        model, optimizer, nn.CrossEntropyLoss(ignore_index=255), batches, val_batches,
        callbacks=[SegmentationMetrics(3, 255)], config=config,
    )  # fmt: skip
    return trainer, trainer.fit()


@distributed.process_group("cpu", timeout_s=60)
def main(out: str) -> None:
    rank, every = dist.get_rank(), tiles()
    reduces = []
    real = torch.nn.parallel.DistributedDataParallel.register_comm_hook

    def counted(state, bucket):
        reduces.append(bucket.index())
        flat = bucket.buffer().div_(dist.get_world_size())
        future = dist.all_reduce(flat, async_op=True).get_future()
        return future.then(lambda done: done.value()[0])

    made = torch.nn.parallel.DistributedDataParallel.__init__

    def with_hook(self, *args, **kwargs):
        made(self, *args, **kwargs)
        real(self, None, counted)

    torch.nn.parallel.DistributedDataParallel.__init__ = with_hook
    # Validation shards are disjoint and uneven: rank 1 has none but one tile of eight.
    shard = every[:7] if rank == 0 else every[7:]
    trainer, history = train(every[rank::2], shard)
    weights = {key: value.clone() for key, value in trainer.module.state_dict().items()}
    torch.save(
        {"weights": weights, "history": history, "reduces": len(reduces), "seeds": [seed_of(3), seed_of(4)]},
        f"{out}.{rank}",
    )


def seed_of(seed):
    """Seed of this rank's generator after a run of no epoch that was given ``seed``."""
    model = nn.Conv2d(2, 3, 1)
    config = TrainerConfig(seed=seed, device="cpu", mixed_precision=False)
    Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), nn.CrossEntropyLoss(), tiles(), config=config).fit(0)
    return torch.initial_seed()


if __name__ == "__main__":
    main(sys.argv[1])

"""What each rank of test_companion_modules.py runs. Usage: companion_ranks.py OUT FULLY_SHARD; writes OUT.<rank>."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from torch import nn

from ununennium.training import StopReason, Trainer, TrainerConfig, distributed
from ununennium.training.callbacks import Callback


class Uncertainty(nn.Module):
    def __init__(self, start: float) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.full((), start))
        self.unused = nn.Parameter(torch.ones(2))  # no rank has a gradient for it: weight decay must not move it
        self.rare = nn.Parameter(torch.ones(()))
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, output, target):
        loss = nn.functional.cross_entropy(output, target)
        self.mean = 0.9 * self.mean + 0.1 * loss.detach()
        loss = loss * torch.exp(-self.log_variance) + self.log_variance
        return loss * self.rare if bool((target == 2).all()) else loss  # in a batch that one rank alone has


class StopAt(Callback):
    def on_step_end(self, trainer):
        if trainer.state.global_step == 3:
            trainer.request_stop(StopReason.PREEMPTED)


def batches():
    generator = torch.Generator().manual_seed(0)
    made = [(torch.randn(4, 4, generator=generator), torch.randint(0, 3, (4,), generator=generator)) for _ in range(8)]
    made[5] = (made[5][0], torch.full((4,), 2))
    return made


def train(data, *, start=0.3, sharded=False, callbacks=(), checkpoint=None):
    torch.manual_seed(1)
    model, loss = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), Uncertainty(start)
    groups = [{"params": list(model.parameters())}, {"params": list(loss.parameters())}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01)
    config = TrainerConfig(
        epochs=2, device="cpu", mixed_precision=False, gradient_clip=0.5, fully_shard=sharded, agree_every_steps=1
    )
    trainer = Trainer(model, optimizer, loss, data, callbacks=list(callbacks), config=config)
    if checkpoint is not None:
        trainer.load_state_dict(distributed.broadcast(checkpoint))
    trainer.fit()
    return trainer, loss


def values(trainer, loss):
    parts = {**trainer.module.state_dict(), **dict(loss.named_parameters())}
    return {key: distributed.whole(value.detach()).clone() for key, value in parts.items()}


def union(data):
    """The same global batches for one process."""
    return [tuple(torch.cat(part) for part in zip(*data[i : i + 2], strict=True)) for i in range(0, 8, 2)]


class Rare(nn.Module):
    """The loss of both ranks' batches in one process: the mean of both halves' losses."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, output, target):
        return (self.inner(output[:4], target[:4]) + self.inner(output[4:], target[4:])) / 2


def alone(data):
    torch.manual_seed(1)
    model, loss = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), Uncertainty(0.3)
    both = Rare(loss)
    groups = [{"params": list(model.parameters())}, {"params": list(loss.parameters())}]
    optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.01)
    for _ in range(2):
        for image, target in data:
            optimizer.zero_grad()
            both(model(image), target).backward()
            nn.utils.clip_grad_norm_([*model.parameters(), *loss.parameters()], 0.5)
            optimizer.step()
    parts = {**model.state_dict(), **dict(loss.named_parameters())}
    return {key: value.detach().clone() for key, value in parts.items()}


@distributed.process_group("cpu", timeout_s=60)
def main(out: str, sharded: str) -> None:
    rank, every = dist.get_rank(), batches()
    mine, is_sharded = every[rank::2], bool(int(sharded))
    start = 0.3 + rank  # rank 0's is taken
    trainer, loss = train(mine, start=start, sharded=is_sharded)
    result = {"one": alone(union(every)), "two": values(trainer, loss), "mean": loss.mean, "history": trainer.history}
    stopped, _ = train(mine, start=start, sharded=is_sharded, callbacks=[StopAt()])
    resumed, loss = train(mine, start=9.0, sharded=is_sharded, checkpoint=stopped.state_dict())
    result |= {"resumed": values(resumed, loss), "resumed_mean": loss.mean, "resumed_history": resumed.history}
    torch.save(result, f"{out}.{rank}")


if __name__ == "__main__":
    main(*sys.argv[1:])

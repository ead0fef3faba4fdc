"""What torchrun runs for test_fully_sharded.py. Usage: fully_sharded_ranks.py FOLDER; writes FOLDER/out.<rank>."""

from __future__ import annotations

import sys

import torch
from torch import nn

from ununennium.errors import ConfigError
from ununennium.training import Trainer, TrainerConfig, distributed
from ununennium.training.callbacks import EMA, CheckpointCallback


def make_model() -> nn.Module:
    torch.manual_seed(1)
    stem = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
    return nn.Sequential(stem, nn.Conv2d(8, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 3, 1))


def batches(seed: int, count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images (2, 2, 8, 8), targets (2, 8, 8) that are valid to very different degrees."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for number in range(count):
        target = torch.randint(0, 3, (2, 8, 8), generator=generator)
        target[torch.rand(2, 8, 8, generator=generator) > (1 + number) / count] = 255
        made.append((torch.randn(2, 2, 8, 8, generator=generator), target))
    return made


def make_trainer(checkpoints: str, *, epochs: int = 3, **settings: object) -> Trainer:
    rank = distributed.rank()
    model = make_model()
    validation = batches(7, 5)
    return Trainer(
        model,
        torch.optim.AdamW(model.parameters(), lr=0.01),
        nn.CrossEntropyLoss(ignore_index=255),
        batches(3, 12)[rank :: distributed.world_size()],
        validation if rank == 0 else [],  # uneven: only rank 0 has anything to validate
        callbacks=[EMA(0.9), CheckpointCallback(checkpoints, save_top_k=-1)],
        config=TrainerConfig(epochs, "cpu", False, 2, 1.0, seed=4, **settings),
    )


def outcome(trainer: Trainer) -> dict[str, object]:
    return {
        "weights": {key: distributed.whole(value).clone() for key, value in trainer.module.state_dict().items()},
        "history": trainer.history,
        "held": sum(distributed.local(parameter).numel() for parameter in trainer.module.parameters()),
    }


def refusal(**settings: object) -> str:
    model = make_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    wrap = settings.pop("wrap", False)
    if wrap:
        model = nn.parallel.DistributedDataParallel(model)
    if settings.pop("stepped", False):
        optimizer.state[next(model.parameters())] = {"momentum": 1}
    try:
        Trainer(model, optimizer, nn.MSELoss(), [], config=TrainerConfig(1, "cpu", fully_shard=True, **settings))
    except ConfigError as error:
        return str(error)
    return ""


@distributed.process_group("cpu", timeout_s=120)
def main(folder: str) -> None:
    whole = make_trainer(f"{folder}/whole")
    whole.fit()
    divided = make_trainer(f"{folder}/divided", fully_shard=True)
    divided.fit()
    interrupted = make_trainer(f"{folder}/interrupted", epochs=1, fully_shard=True)
    interrupted.fit()
    resumed = make_trainer(f"{folder}/resumed", fully_shard=True)
    resumed.fit(resume_from=f"{folder}/interrupted")
    crossed = make_trainer(f"{folder}/crossed")  # from parts to whole
    crossed.fit(resume_from=f"{folder}/interrupted")
    refused = {
        "wrapped": refusal(mixed_precision=False, wrap=True),
        "stepped": refusal(mixed_precision=False, stepped=True),
        "fp16": refusal(mixed_precision="fp16"),
        "channels_last": refusal(mixed_precision=False, channels_last=True),
    }
    found = {name: outcome(trainer) for name, trainer in (("whole", whole), ("divided", divided), ("resumed", resumed))}
    torch.save({**found, "refused": refused}, f"{folder}/out.{distributed.rank()}")


if __name__ == "__main__":
    main(*sys.argv[1:])

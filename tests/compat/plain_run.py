"""A small program around the public Trainer, which is stopped by one version and resumed by another.

Usage: plain_run.py whole | stop | resume CHECKPOINTS OUT
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ununennium.training import Callback, CheckpointCallback, EarlyStopping, StopReason, Trainer, TrainerConfig
from ununennium.training.callbacks import EMA

STOP_AT_STEP = 12
"""Of 5 steps in each of 4 epochs."""


class Stop(Callback):
    """Asks to stop within an epoch."""

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.state.global_step == STOP_AT_STEP:
            trainer.request_stop(StopReason.PREEMPTED)


def build(checkpoints: str, *callbacks: Callback) -> tuple[Trainer, EMA]:
    """A Trainer with a little of everything whose state a checkpoint holds, and its average."""
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(38, 4, generator=generator), torch.randint(0, 3, (38,), generator=generator))
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    average = EMA(0.9)
    trainer = Trainer(
        model=model,
        optimizer=optimizer,
        loss_fn=nn.CrossEntropyLoss(),
        train_loader=DataLoader(data, batch_size=4, shuffle=True),
        val_loader=DataLoader(data, batch_size=5),
        scheduler=torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=20),
        callbacks=[CheckpointCallback(checkpoints, save_top_k=1), EarlyStopping(patience=50), average, *callbacks],
        config=TrainerConfig(epochs=4, device="cpu", mixed_precision=False, accumulation_steps=2),
    )
    return trainer, average


def run(what: str, checkpoints: str) -> dict[str, Any]:
    """Train as ``what`` says; gives the state at the end."""
    torch.manual_seed(99 if what == "resume" else 1)  # what is resumed does not depend on it
    trainer, average = build(checkpoints, *([Stop()] if what == "stop" else []))
    history = trainer.fit(resume_from=checkpoints if what == "resume" else None)
    state = trainer.state_dict()
    return {
        "history": history,
        "model": state["model"],
        "optimizer": state["optimizer"],
        "scheduler": state["scheduler"],
        "average": average.state_dict(),
    }


if __name__ == "__main__":
    torch.save(run(sys.argv[1], sys.argv[2]), sys.argv[3])

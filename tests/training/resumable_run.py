"""A small training process that test_resume.py starts, stops and resumes.

Usage: resumable_run.py (OUT NUM_WORKERS CHECKPOINTS whole | stop | resume STEP) ...
"""

from __future__ import annotations

import sys

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from ununennium.training import StopReason, Trainer, TrainerConfig
from ununennium.training.callbacks import EMA, Callback, CheckpointCallback, EarlyStopping


class Rates(Callback):
    """The learning rate of every step, in the checkpoint."""

    def __init__(self, stop_at: int | None) -> None:
        self.rates: list[float] = []
        self.stop_at = stop_at

    def state_dict(self):
        return {"rates": list(self.rates)}

    def load_state_dict(self, state):
        self.rates = list(state["rates"])

    def on_step_end(self, trainer):
        self.rates.append(trainer.optimizer.param_groups[0]["lr"])
        if trainer.state.global_step == self.stop_at:
            trainer.request_stop(StopReason.PREEMPTED)


def main(out: str, workers: str, checkpoints: str, what: str, stop_at: str) -> None:
    if what == "resume":
        torch.manual_seed(99)  # the resumed process must not depend on this
    else:
        torch.manual_seed(1)
    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(torch.randn(38, 4, generator=generator), torch.randint(0, 3, (38,), generator=generator))
    model = nn.Sequential(nn.Linear(4, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=20)
    rates = Rates(int(stop_at) if what == "stop" else None)
    ema = EMA(0.9)
    trainer = Trainer(
        model,
        optimizer,
        nn.CrossEntropyLoss(),
        DataLoader(data, batch_size=4, shuffle=True, num_workers=int(workers)),  # 10 batches, 5 steps of 2
        DataLoader(data, batch_size=5),
        scheduler,
        [CheckpointCallback(checkpoints), EarlyStopping(patience=50), rates, ema],
        TrainerConfig(epochs=4, device="cpu", mixed_precision=False, accumulation_steps=2, deterministic=True),
    )
    trainer.fit(resume_from=checkpoints if what == "resume" else None)
    state = trainer.state_dict()
    kept = {part: state[part] for part in ("model", "optimizer", "scheduler", "history")}
    torch.save({**kept, "rates": rates.rates, "ema": ema.state_dict()}, out)


if __name__ == "__main__":
    for start in range(1, len(sys.argv), 5):
        main(*sys.argv[start : start + 5])

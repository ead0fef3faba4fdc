"""A plain training program for ``benchmarks.soak``: torch's own loader, shuffled by a generator of its own.

    python -m benchmarks.soak_plain FOLDER EPOCHS PERSISTENT

Resumes from the newest checkpoint in FOLDER, if there is one. PERSISTENT is 1 for two persistent workers, else there
are none. Exit status 75 if a signal asked it to stop.
"""

from __future__ import annotations

import sys
import time
import warnings

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ununennium.checkpoints.store import CheckpointStore
from ununennium.training import CheckpointCallback, StopReason, Trainer, TrainerConfig, distributed
from ununennium.training.callbacks import EMA
from ununennium.workers.callbacks import StopOnSignal


class Slow(Dataset[tuple[Tensor, Tensor]]):
    """Random numbers that take a moment, so that a kill falls within an epoch."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        self._images = torch.randn(96, 8, generator=generator)
        self._labels = torch.randint(0, 3, (96,), generator=generator)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        time.sleep(0.005)
        return self._images[index], self._labels[index]


class Uncertainty(nn.Module):
    """A loss that learns, too."""

    def __init__(self) -> None:
        super().__init__()
        self.log_variance = nn.Parameter(torch.zeros(()))

    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        """Mean of the batch."""
        loss = nn.functional.cross_entropy(output, target)
        return loss * torch.exp(-self.log_variance) + self.log_variance


@distributed.process_group("cpu", timeout_s=120)
def main(folder: str, epochs: str, persistent: str) -> int:
    """Train, or go on."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model, loss = nn.Sequential(nn.Linear(8, 16), nn.Dropout(0.2), nn.ReLU(), nn.Linear(16, 3)), Uncertainty()
    optimizer = torch.optim.AdamW([*model.parameters(), *loss.parameters()], lr=0.01)
    workers = {"num_workers": 2, "persistent_workers": True} if persistent == "1" else {}
    generator = torch.Generator().manual_seed(7)
    loader: DataLoader[tuple[Tensor, Tensor]] = DataLoader(
        Slow(), batch_size=4, shuffle=True, generator=generator, **workers
    )
    callbacks = [EMA(0.9), CheckpointCallback(folder, monitor="train_loss", every_n_steps=2), StopOnSignal()]
    config = TrainerConfig(epochs=int(epochs), device="cpu", mixed_precision=False, seed=0, agree_every_steps=2)
    trainer = Trainer(model, optimizer, loss, loader, callbacks=callbacks, config=config)
    newest = CheckpointStore(folder).latest() if distributed.rank() == 0 else None
    trainer.fit(resume_from=distributed.broadcast(None if newest is None else folder))
    return 75 if trainer.state.stop_reason is StopReason.PREEMPTED else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

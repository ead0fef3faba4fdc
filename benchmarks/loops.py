"""One epoch by hand, through the Trainer, and through the peers: the same work, each as its documentation has it.

Each takes a model, its optimizer and a ``Loader`` of batches ``(image, target)``, whose clock tells what a step took.
Cross-entropy, gradients clipped to a norm of 1, the epoch's mean loss, three idle callbacks where there are callbacks.
"""

from __future__ import annotations

import contextlib
import io
import logging
import statistics
import time
import warnings
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from ununennium.training import Callback, Trainer, TrainerConfig

Batches = list[tuple[Tensor, Tensor]]
CLIP = 1.0


class Loader:
    """Batches that note when they are taken.

    A step is what lies between one batch and the next. The median of an epoch's leaves out what the machine did for a
    moment, what comes before the first step and after the last, and what a loop does more rarely than every other time.
    """

    def __init__(self, batches: Batches) -> None:
        self._batches = batches
        self._taken: list[float] = []

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        self._taken = []
        for batch in self._batches:
            self._taken.append(time.perf_counter())
            yield batch

    def step_s(self, batches: int = 1) -> float:
        """Seconds of ``batches`` steps: the median of such stretches of the last epoch, one after the other."""
        return statistics.median(after - before for before, after in pairwise(self._taken[::batches]))


def by_hand(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Loader) -> None:
    loss_fn = nn.CrossEntropyLoss()
    total, count = 0.0, 0
    for image, target in batches:
        optimizer.zero_grad(set_to_none=True)
        loss = loss_fn(model(image), target)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        total += loss.item() * len(target)
        count += len(target)


class Idle(Callback):
    """Overrides nothing, as most callbacks do for most hooks."""


def by_trainer(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Loader) -> None:
    config = TrainerConfig(epochs=1, device="cpu", mixed_precision=False, gradient_clip=CLIP)
    callbacks: list[Callback] = [Idle(), Idle(), Idle()]
    loader: Any = batches
    Trainer(model, optimizer, nn.CrossEntropyLoss(), loader, callbacks=callbacks, config=config).fit()


def by_accelerate(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Loader) -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=1)
    model, optimizer = accelerator.prepare(model, optimizer)
    loss_fn = nn.CrossEntropyLoss()
    total, count = 0.0, 0
    model.train()
    for image, target in batches:
        with accelerator.accumulate(model):
            loss = loss_fn(model(image), target)
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(model.parameters(), CLIP)
            optimizer.step()
            optimizer.zero_grad()
        total += loss.item() * len(target)
        count += len(target)


def by_ignite(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Loader) -> None:
    from ignite.engine import Engine, Events
    from ignite.metrics import Average

    loss_fn = nn.CrossEntropyLoss()

    def step(engine: Engine, batch: tuple[Tensor, Tensor]) -> float:
        model.train()
        optimizer.zero_grad()
        image, target = batch
        loss = loss_fn(model(image), target)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        return loss.item()

    engine = Engine(step)
    Average().attach(engine, "loss")
    for _ in range(3):
        engine.add_event_handler(Events.COMPLETED, lambda: None)
    engine.run(batches, max_epochs=1)


def by_lightning(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Loader, **settings: Any) -> None:
    """Through Lightning's Trainer with ``settings``, but nothing on disk."""
    _lightning(
        model, optimizer, batches, logger=False, enable_checkpointing=False, enable_model_summary=False, **settings
    )


def by_barebones(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Loader) -> None:
    """Through Lightning's Trainer with everything off that it can put off."""
    _lightning(model, optimizer, batches, barebones=True)


def _lightning(model: nn.Module, optimizer: torch.optim.Optimizer, batches: Loader, **settings: Any) -> None:
    import lightning

    barebones = settings.get("barebones", False)

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.loss_fn = model, nn.CrossEntropyLoss()
            self.total, self.count = 0.0, 0

        def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
            image, target = batch
            loss: Tensor = self.loss_fn(self.model(image), target)
            if barebones:  # which logs nothing
                self.total += loss.item() * len(target)
                self.count += len(target)
            else:
                self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(target))
            return loss

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return optimizer

    class Nothing(lightning.Callback):
        """Overrides nothing."""

    callbacks = [Nothing(), Nothing(), Nothing()]
    with quiet_lightning():
        trainer = lightning.Trainer(
            max_epochs=1, accelerator="cpu", gradient_clip_val=CLIP, callbacks=callbacks, **settings
        )
        trainer.fit(Module(), batches)


@contextlib.contextmanager
def quiet_lightning() -> Iterator[None]:
    """Without the advice it gives on every start; its progress bar writes into memory."""
    loggers = [logging.getLogger(name) for name in ("lightning", "lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    with (
        warnings.catch_warnings(),
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for logger, level in zip(loggers, before, strict=True):
                logger.setLevel(level)

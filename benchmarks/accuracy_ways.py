"""Three ways to train a segmentation model on one scene: by hand, with Lightning and smp, and as this project does.

Each takes as many chips of the same size in as many steps, and is judged by the same code on the same pixels, which
none has trained on. What is timed is training, this project's validation and checkpoints included; judging is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.loops import quiet_lightning
from ununennium import pipeline
from ununennium.config import RunConfig
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.statistics import BandStatistics
from ununennium.data.splits.splits import TRAIN
from ununennium.evaluation.evaluate import evaluate
from ununennium.pipeline.sessions import open_run
from ununennium.runs.directory import RunDirectory
from ununennium.training.callbacks import EMA, Callback
from ununennium.training.precision import resolve_precision
from ununennium.training.trainer import Trainer
from ununennium.workers.build import build_model
from ununennium.workers.evaluate import load_best
from ununennium.workers.train import build_trainer

LOOKS = 14
Batch = tuple[Tensor, Tensor]


class Problem(NamedTuple):
    """A scene with labels, split as ``config`` says.

    Attributes:
        name: for tables.
        config: of the run; the other ways take from it the chips, the steps, the model and the learning rate.
        metric: what is compared on the holdout.
        index: of the data.
        statistics: of its training fold.
    """

    name: str
    config: RunConfig
    metric: str
    index: ChipIndex
    statistics: BandStatistics

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps."""
        assert self.config.data.chips_per_epoch is not None
        return self.config.data.chips_per_epoch // self.config.data.batch_size

    @property
    def steps(self) -> int:
        """Optimizer steps of a run."""
        return self.config.trainer.epochs * self.steps_per_epoch

    @property
    def learning_rate(self) -> float:
        """The highest of a one-cycle policy."""
        return float(self.config.optimizer.kwargs["lr"])

    def score(self, model: nn.Module, *, tta: bool = False) -> float:
        """The metric on the holdout."""
        was_training = model.training
        model.eval()
        found = evaluate(model, self.index, self.statistics, self.config.data, tta=tta).metric(self.metric)
        model.train(was_training)
        return float(found)


class Outcome(NamedTuple):
    """What a training gave.

    Attributes:
        score: of the model that one would use.
        seconds: of training.
        looks: (seconds of training, metric) on the way, without test-time augmentation.
    """

    score: float
    seconds: float
    looks: list[tuple[float, float]]


class Watch:
    """A clock that stands still while it looks at the model."""

    def __init__(self, problem: Problem) -> None:
        self._problem, self._every = problem, max(1, problem.config.trainer.epochs // LOOKS)
        self.looks: list[tuple[float, float]] = []
        self._begun = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Of training so far."""
        return time.perf_counter() - self._begun

    def epoch_ended(self, number: int, model: nn.Module) -> None:
        """Look, if it is time to: ``number`` counts from 1."""
        if number % self._every == 0:
            seconds = self.seconds
            self.looks.append((seconds, self._problem.score(model)))
            self._begun = time.perf_counter() - seconds


# ---------------------------------------------------------------------- by hand


class RandomCrops(IterableDataset[Batch]):
    """Batches of crops at random places of the training pixels, mirrored and turned at random, from memory."""

    def __init__(self, problem: Problem, seed: int) -> None:
        data, (scene,) = problem.config.data, problem.index.scenes
        mean, std = (
            np.array(each, np.float32)[:, None, None] for each in (problem.statistics.mean, problem.statistics.std)
        )
        (files,) = data.scenes
        with rasterio.open(files.image) as image, rasterio.open(files.label) as label:
            self._image = (image.read().astype(np.float32) - mean) / std
            self._target = problem.index.targets(scene).read(0, 0, label.height, label.width).astype(np.int64)
        height, width = self._target.shape
        self._target[problem.index.split.folds(scene, 0, 0, height, width) != TRAIN] = data.ignore_index
        self._size, self._batch, self._length = data.chip_size, data.batch_size, problem.steps_per_epoch
        self._ignored = data.ignore_index
        self._rng = np.random.default_rng(seed)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self._length):
            images, targets = zip(*(self._crop() for _ in range(self._batch)), strict=True)
            yield torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets))

    def _crop(self) -> tuple[Any, Any]:
        size, (height, width) = self._size, self._target.shape
        while True:
            row, col = self._rng.integers(height - size + 1), self._rng.integers(width - size + 1)
            target = self._target[row : row + size, col : col + size]
            if (target != self._ignored).any():
                break
        image = self._image[:, row : row + size, col : col + size]
        turns, mirrored = int(self._rng.integers(4)), bool(self._rng.integers(2))
        image, target = np.rot90(image, turns, (-2, -1)), np.rot90(target, turns)
        if mirrored:
            image, target = image[..., ::-1], target[..., ::-1]
        return image.copy(), target.copy()


def by_hand(problem: Problem, seed: int, folder: Path) -> Outcome:
    """The same network, cross-entropy, AdamW, one cycle, clip, bf16 where the machine has it."""
    torch.manual_seed(seed)
    model = build_model(problem.config, problem.index)
    batches = RandomCrops(problem, seed)
    loss_fn = nn.CrossEntropyLoss(ignore_index=problem.config.data.ignore_index)
    optimizer = torch.optim.AdamW(model.parameters(), lr=problem.learning_rate)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, problem.learning_rate, total_steps=problem.steps)
    precision = resolve_precision(True, torch.device("cpu"))
    watch = Watch(problem)
    model.train()
    for epoch in range(1, problem.config.trainer.epochs + 1):
        for image, target in batches:
            optimizer.zero_grad(set_to_none=True)
            with precision.autocast():
                output = model(image)
            loss_fn(output.float(), target).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        watch.epoch_ended(epoch, model)
    return Outcome(problem.score(model), watch.seconds, watch.looks)


# ---------------------------------------------------------------------- Lightning and smp


def by_lightning(problem: Problem, seed: int, folder: Path) -> Outcome:
    """smp's U-Net on a ResNet-18 from random weights, through Lightning's Trainer as it comes."""
    import lightning
    import segmentation_models_pytorch as smp

    data = problem.config.data

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.model = smp.Unet(
                "resnet18", encoder_weights=None, in_channels=problem.index.in_channels, classes=len(data.classes)
            )
            self.entropy = nn.CrossEntropyLoss(ignore_index=data.ignore_index)
            self.dice = smp.losses.DiceLoss(smp.losses.MULTICLASS_MODE, ignore_index=data.ignore_index)

        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            image, target = batch
            output = self.model(image).float()
            loss: Tensor = 0.5 * self.entropy(output, target) + 0.5 * self.dice(output, target)
            self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(target))
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=problem.learning_rate)
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, problem.learning_rate, total_steps=problem.steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    class Looks(lightning.Callback):
        def on_train_start(self, trainer: Any, module: Any) -> None:
            self.watch = Watch(problem)

        def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
            self.watch.epoch_ended(trainer.current_epoch + 1, module.model)

    lightning.seed_everything(seed, verbose=False)
    module, looks = Module(), Looks()
    half = resolve_precision(True, torch.device("cpu")).name == "bf16"
    with quiet_lightning():
        trainer = lightning.Trainer(
            max_epochs=problem.config.trainer.epochs, accelerator="cpu", gradient_clip_val=1.0, callbacks=[looks],
            precision="bf16-mixed" if half else "32-true", logger=False, enable_checkpointing=True,
            default_root_dir=str(folder),
        )  # fmt: skip
        trainer.fit(module, DataLoader(RandomCrops(problem, seed), batch_size=None))
    return Outcome(problem.score(module.model), looks.watch.seconds, looks.watch.looks)


# ---------------------------------------------------------------------- ununennium


class Looks(Callback):
    """Looks at the averaged weights, which are what the run would promote."""

    def __init__(self, problem: Problem) -> None:
        self._problem = problem

    def on_fit_start(self, trainer: Trainer) -> None:
        self.watch = Watch(self._problem)

    def on_epoch_end(self, trainer: Trainer) -> None:
        (average,) = (callback for callback in trainer.callbacks if isinstance(callback, EMA))
        with average.around_validation(trainer):
            self.watch.epoch_ended(trainer.state.epoch, trainer.module)


def by_run(problem: Problem, seed: int, folder: Path) -> Outcome:
    """A run as ``ununennium train`` makes it: the best checkpoint by its own validation fold, as it would be judged."""
    config = problem.config.model_copy(update={"seed": seed, "storage": str(folder / "storage")})
    with open_run(config, on_line=lambda _: None) as run:
        pipeline.prepare(run, on_line=lambda _: None)
        looks = Looks(problem)
        trainer, _ = build_trainer(run, [looks])
        trainer.fit()
        seconds = looks.watch.seconds
        return Outcome(_final(problem, run, config), seconds, looks.watch.looks)


def _final(problem: Problem, run: RunDirectory, config: RunConfig) -> float:
    model, _ = load_best(run, config, problem.index)
    return problem.score(model, tta=config.inference.tta)


WAYS: dict[str, Callable[[Problem, int, Path], Outcome]] = {
    "by hand": by_hand,
    "Lightning and smp": by_lightning,
    "ununennium": by_run,
}

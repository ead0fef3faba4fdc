"""Ways to train on a folder of imagery: as ``init`` configures it, and two rivals with the same CPU seconds.

The rivals are the strongest plain ones: a loop by hand with half of its chips centred on rarer classes, class weights
by the square root of the inverse share, one cycle to 3e-3 and logarithms of positive values; and Lightning with smp's
U-Net on a ResNet-18 from random weights, the same chips, cross-entropy and Dice. Each gets the chip and batch sizes
of the recipe, and so many steps as fit the CPU seconds that the run by the recipe took. All are measured by the same
code on the same pixels of the holdout, and so are the two baselines that a first model has to beat.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from benchmarks.loops import quiet_lightning
from benchmarks.recipe_sets import DataSet
from ununennium import pipeline
from ununennium.cli import run as command
from ununennium.config import RunConfig
from ununennium.data import build_index
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.statistics import BandStatistics, compute_statistics, normalise
from ununennium.data.splits.splits import TRAIN
from ununennium.evaluation.baselines import best_constant, fit_linear_classifier
from ununennium.evaluation.evaluate import evaluate
from ununennium.evaluation.evaluation import Evaluation
from ununennium.models import UNet
from ununennium.pipeline.sessions import open_run
from ununennium.training.precision import resolve_precision
from ununennium.workers.evaluate import load_best
from ununennium.workers.train import build_trainer

Batch = tuple[Tensor, Tensor]
_TRIED_STEPS = 6
_LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Outcome:
    """Result of a training.

    Attributes:
        score: metric of the holdout.
        cpu_s: CPU seconds of training.
        steps: optimizer steps.
    """

    score: float
    cpu_s: float
    steps: int


def configured(data_set: DataSet, folder: Path, seed: int) -> RunConfig:
    """The configuration that ``init`` writes for the data set, made in ``folder``."""
    images = folder / "scenes"
    images.mkdir()
    data_set.make(images)
    if command(["init", str(images), "-o", str(folder / "run.yaml"), "--name", "recipe"]):
        raise RuntimeError(f"init does not take {images}")
    changes = [*data_set.settings, f"seed={seed}", f"storage={folder / 'storage'}", "trainer.device=cpu"]
    return RunConfig.load(folder / "run.yaml", changes)


def by_recipe(data_set: DataSet, config: RunConfig, budget_s: float | None) -> Outcome:
    """The run as configured; its own budget."""
    with open_run(config, on_line=lambda _: None) as run:
        pipeline.prepare(run, on_line=lambda _: None)
        trainer, _ = build_trainer(run)
        begun = time.process_time()
        trainer.fit()
        spent = time.process_time() - begun
        index, statistics = ChipIndex.load(run.index_file), BandStatistics.load(run.statistics_file)
        model, _ = load_best(run, config, index)
        found = evaluate(model.eval(), index, statistics, config.data, tta=config.inference.tta)
        return Outcome(float(found.metric(data_set.metric)), spent, trainer.state.global_step)


class BalancedCrops(IterableDataset[Batch]):
    """Endless batches of crops from memory; half of them around a pixel of one of the rarer classes, drawn evenly."""

    def __init__(self, config: RunConfig, index: ChipIndex, statistics: BandStatistics, seed: int) -> None:
        data, (scene,) = config.data, index.scenes
        image, valid = index.reader(scene).read(0, 0, scene.height, scene.width)
        folds = index.split.folds(scene, 0, 0, scene.height, scene.width)
        target = index.targets(scene).read(0, 0, scene.height, scene.width).astype(np.int64)
        target[(folds != TRAIN) | ~valid] = data.ignore_index
        self.image, self.target = normalise(image, valid, statistics), target
        self.counts = np.bincount(target[target != data.ignore_index], minlength=len(data.classes))
        common = int(self.counts.argmax())
        rarer = [number for number in range(len(self.counts)) if number != common and self.counts[number]]
        self._places = [np.argwhere(target == number) for number in rarer]
        self._all = np.argwhere(target != data.ignore_index)
        self._size, self._batch, self._rng = data.chip_size, data.batch_size, np.random.default_rng(seed)

    def __iter__(self) -> Iterator[Batch]:
        while True:
            images, targets = zip(*(self._crop(number) for number in range(self._batch)), strict=True)
            yield torch.from_numpy(np.stack(images)), torch.from_numpy(np.stack(targets))

    def _crop(self, number: int) -> Any:
        rng, size = self._rng, self._size
        places = self._all if number % 2 else self._places[rng.integers(len(self._places))]
        middle = places[rng.integers(len(places))] + rng.integers(-size // 4, size // 4 + 1, 2)
        row, col = (
            int(np.clip(at - size // 2, 0, side - size)) for at, side in zip(middle, self.target.shape, strict=True)
        )
        window = ..., slice(row, row + size), slice(col, col + size)
        turns, mirrored = int(rng.integers(4)), bool(rng.integers(2))
        parts = (np.rot90(each[window], turns, (-2, -1)) for each in (self.image, self.target))
        return [np.ascontiguousarray(part[..., ::-1] if mirrored else part) for part in parts]

    def weights(self) -> Tensor:
        """Square roots of the inverse shares, of mean 1; 1 for a class without pixels."""
        roots = np.where(self.counts > 0, (self.counts.sum() / np.maximum(self.counts, 1)) ** 0.5, np.nan)
        return torch.from_numpy(np.nan_to_num(roots / np.nanmean(roots), nan=1.0)).float()


def _prepared(config: RunConfig, transform: str) -> tuple[ChipIndex, BandStatistics]:
    """Index and statistics; ``log`` where values are positive, else linear."""
    data = config.data.model_copy(update={"transform": "linear"})
    index = build_index(data)
    found = compute_statistics(index)
    if transform == "log" and min(found.percentiles["p2"]) > 0:
        index.transform = "log"
        found = compute_statistics(index)
    return index, found


def by_hand(data_set: DataSet, config: RunConfig, budget_s: float | None) -> Outcome:
    """A plain loop; the whole of it is below."""
    assert budget_s is not None
    index, statistics = _prepared(config, "log")
    crops = BalancedCrops(config, index, statistics, config.seed)
    loss_fn = nn.CrossEntropyLoss(weight=crops.weights(), ignore_index=config.data.ignore_index)
    precision = resolve_precision(True, torch.device("cpu"))

    def trained(steps: int) -> tuple[nn.Module, float]:
        torch.manual_seed(config.seed)
        width = int(config.model.kwargs.get("base_channels", 16))
        model = UNet(index.in_channels, len(config.data.classes), base_channels=width).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=_LEARNING_RATE)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps)
        batches = iter(crops)
        begun = time.process_time()
        for _ in range(steps):
            image, target = next(batches)
            optimizer.zero_grad(set_to_none=True)
            with precision.autocast():
                output = model(image)
            loss_fn(output.float(), target).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            scheduler.step()
        return model, time.process_time() - begun

    trained(2)  # warms up
    _, tried_s = trained(_TRIED_STEPS)
    steps = max(2, round(budget_s * _TRIED_STEPS / tried_s))
    model, spent = trained(steps)
    found = evaluate(model.eval(), index, statistics, config.data)
    return Outcome(float(found.metric(data_set.metric)), spent, steps)


def by_lightning(data_set: DataSet, config: RunConfig, budget_s: float | None) -> Outcome:
    """smp's U-Net through Lightning's Trainer, with balanced chips, cross-entropy and Dice, and one cycle."""
    import lightning
    import segmentation_models_pytorch as smp

    assert budget_s is not None
    index, statistics = _prepared(config, "linear")
    crops = BalancedCrops(config, index, statistics, config.seed)
    classes, ignored = len(config.data.classes), config.data.ignore_index

    class Module(lightning.LightningModule):
        def __init__(self, steps: int) -> None:
            super().__init__()
            self.steps = steps
            self.model = smp.Unet("resnet18", encoder_weights=None, in_channels=index.in_channels, classes=classes)
            self.entropy = nn.CrossEntropyLoss(ignore_index=ignored)
            self.dice = smp.losses.DiceLoss(smp.losses.MULTICLASS_MODE, ignore_index=ignored)

        def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
            image, target = batch
            output = self.model(image).float()
            loss: Tensor = 0.5 * self.entropy(output, target) + 0.5 * self.dice(output, target)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.AdamW(self.parameters(), lr=1e-3)
            scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-3, total_steps=self.steps)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def trained(steps: int) -> tuple[Module, float]:
        lightning.seed_everything(config.seed, verbose=False)
        module = Module(steps)
        half = resolve_precision(True, torch.device("cpu")).name == "bf16"
        with quiet_lightning():
            trainer = lightning.Trainer(
                max_steps=steps, accelerator="cpu", gradient_clip_val=1.0, logger=False, enable_checkpointing=False,
                precision="bf16-mixed" if half else "32-true", enable_progress_bar=False, enable_model_summary=False,
            )  # fmt: skip
            begun = time.process_time()
            trainer.fit(module, DataLoader(crops, batch_size=None))
        return module, time.process_time() - begun

    trained(2)  # warms up
    _, tried_s = trained(_TRIED_STEPS)
    steps = max(2, round(budget_s * _TRIED_STEPS / tried_s))
    module, spent = trained(steps)
    found = evaluate(module.model.eval(), index, statistics, config.data)
    return Outcome(float(found.metric(data_set.metric)), spent, steps)


def by_constant(data_set: DataSet, config: RunConfig, budget_s: float | None) -> Outcome:
    """The best constant prediction: the first of the baselines that a first model has to beat."""
    index, statistics = _prepared(config, config.data.transform)
    found = best_constant(_of_pixels(index, statistics, config), data_set.metric)
    return Outcome(0.0 if found is None else float(found.evaluation.metric(data_set.metric) or 0.0), 0.0, 0)


def by_pixel(data_set: DataSet, config: RunConfig, budget_s: float | None) -> Outcome:
    """A linear classifier of single pixels: the second of them."""
    index, statistics = _prepared(config, config.data.transform)
    begun = time.process_time()
    found = _of_pixels(index, statistics, config)
    return Outcome(float(found.metric(data_set.metric)), time.process_time() - begun, 0)


def _of_pixels(index: ChipIndex, statistics: BandStatistics, config: RunConfig) -> Evaluation:
    return evaluate(fit_linear_classifier(index, statistics), index, statistics, config.data)


OURS = "ununennium, as init configures it"
WAYS: dict[str, Callable[[DataSet, RunConfig, float | None], Outcome]] = {
    OURS: by_recipe,
    "loop by hand, balanced and weighted": by_hand,
    "Lightning and smp, balanced, with Dice": by_lightning,
    "linear classifier of pixels": by_pixel,
    "best constant": by_constant,
}

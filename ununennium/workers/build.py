"""Build what a run's configuration names: loaders, model, loss, optimizer, scheduler, callbacks and the Trainer."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from ununennium.config import Component, RunConfig, TrainerSettings
from ununennium.data.chips.batch_transforms import DeviceTransform
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.loaders import Loaders, build_loaders
from ununennium.data.chips.statistics import BandStatistics
from ununennium.data.targets.patch_labels import PatchTargets
from ununennium.errors import ConfigError
from ununennium.importing import counts_of_model, instantiate
from ununennium.runs.directory import RunDirectory
from ununennium.training import distributed
from ununennium.training.callbacks.callback import Callback
from ununennium.training.callbacks.torch_metric import TorchMetric
from ununennium.training.callbacks.validation_metrics import VALIDATION_METRICS
from ununennium.training.config import TrainerConfig, resolve_device
from ununennium.training.memory import memory_of, size_text
from ununennium.training.state import random_state, set_random_state

_FIELDS = {
    "loss_fn": "loss.target",
    "train_loader": "data",
    "val_loader": "data.split.validation",
    "monitor": "checkpoints.monitor",
    "ignore_index": "data.ignore_index",
}
"""Arguments of the Trainer and its callbacks -> the settings that they come from."""
_OWN_MODELS = ("ununennium.models:", "ununennium.models.")
"""Models that can be made without memory for their weights; those of others may read files as they are made."""


class Components:
    """The parts of a run's training, made in the order that decides the initial weights.

    Args:
        run: a run whose index and statistics have been written.

    Attributes:
        config: configuration of the run.
        index, statistics: of its data.
        settings: of the loop.
        loaders: of this rank's batches.
        model: on the CPU, with its initial weights.
        loss_fn: the loss.

    Raises:
        ConfigError: a component cannot be made as configured, or does not fit the data.
    """

    def __init__(self, run: RunDirectory) -> None:
        self.config = config = run.config()
        self.index = ChipIndex.load(run.index_file)
        self.statistics = BandStatistics.load(run.statistics_file)
        with named_by_setting():
            settings = config.trainer.model_dump(exclude={"callbacks", "ema_decay", "metrics"})
            self.settings = TrainerConfig(**settings, seed=config.seed)
            device = check_device(self.settings)
        _check_batch(config, self.index, device)
        torch.manual_seed(config.seed)  # the same initial weights on every rank
        self.loaders = self.make_loaders()
        if config.model.target.startswith(_OWN_MODELS):
            _check_size(config, self.index, device)
        with _limited(config, device):
            self.model = build_model(config, self.index)
        self.loss_fn = self.make_loss()

    def make_loaders(self, *, num_workers: int | None = None) -> Loaders:
        """Loaders as configured, or with another number of processes."""
        data = self.config.data
        return build_loaders(
            data if num_workers is None else data.model_copy(update={"num_workers": num_workers}),
            self.index,
            self.statistics,
            seed=self.config.seed,
            rank=distributed.rank(),
            world_size=distributed.world_size(),
        )

    def make_loss(self) -> Any:
        """The loss."""
        data = self.config.data
        classes = {"ignore_index": data.ignore_index, "num_classes": len(data.classes)}
        return _make(self.config.loss, "loss", **classes)

    def make_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        """An optimizer over the parameters of ``model``."""
        made: torch.optim.Optimizer = _make(self.config.optimizer, "optimizer", model.parameters())
        return made

    def make_scheduler(self, optimizer: torch.optim.Optimizer) -> Any:
        """The scheduler of ``optimizer``; None without one."""
        if self.config.scheduler is None:
            return None
        settings = self.settings
        steps_per_epoch = math.ceil(len(self.loaders.train) / settings.accumulation_steps)
        return _make(
            self.config.scheduler,
            "scheduler",
            optimizer,
            total_steps=settings.epochs * steps_per_epoch,
            T_max=settings.epochs * (steps_per_epoch if settings.scheduler_interval == "step" else 1),
            epochs=settings.epochs,
            steps_per_epoch=steps_per_epoch,
        )

    def make_transform(self) -> DeviceTransform | PatchTargets | None:
        """Transform of batches on the device."""
        transform: DeviceTransform | PatchTargets | None = None
        augment = self.config.data.augment
        if augment.where == "device":
            seed, rank = self.config.seed, distributed.rank()
            transform = DeviceTransform(self.index, self.statistics, augment, seed=seed, rank=rank)
        of_patch = self.index.of_patch
        return transform if of_patch is None else PatchTargets(of_patch, transform)

    def make_validation_metrics(self) -> Callback:
        """The callback that adds the validation metrics of the task."""
        index = self.index
        return VALIDATION_METRICS[index.task.kind](index.classes, index.ignore_index, index.target_scale)

    def make_own_metrics(self) -> list[Callback]:
        """The metrics that ``trainer.metrics`` names."""
        classes = {"ignore_index": self.config.data.ignore_index, "num_classes": len(self.config.data.classes)}
        return [
            TorchMetric(_make(part, f"trainer.metrics.{name}", **classes), name)
            for name, part in self.config.trainer.metrics.items()
        ]

    def make_own_callbacks(self) -> list[Callback]:
        """The callbacks that ``trainer.callbacks`` names.

        Raises:
            ConfigError: an object is no ``Callback``.
        """
        found = []
        for number, part in enumerate(self.config.trainer.callbacks):
            made = _make(part, f"trainer.callbacks.{number}")
            if not isinstance(made, Callback):
                remedy = f"makes a {type(made).__name__}, not a ununennium.training.Callback"
                raise ConfigError(f"trainer.callbacks.{number}.target", part.target, remedy)
            found.append(made)
        return found


def build_model(config: RunConfig, index: ChipIndex) -> nn.Module:
    """The model that ``config`` describes, for the bands and dates of ``index``.

    Raises:
        ConfigError: it cannot be made as configured, or is no ``nn.Module``.
    """
    model = _make(
        config.model,
        "model",
        **counts_of_model(index.in_channels, len(config.data.classes)),
        num_dates=index.num_dates,
    )
    if not isinstance(model, nn.Module):
        raise ConfigError("model.target", config.model.target, f"makes a {type(model).__name__}, not an nn.Module")
    return model


@contextlib.contextmanager
def named_by_setting() -> Iterator[None]:
    """Name the setting of the configuration in a ConfigError that names an argument of the Trainer or a callback."""
    try:
        yield
    except ConfigError as error:
        field = _FIELDS.get(error.field, error.field)
        if field in TrainerSettings.model_fields:
            field = f"trainer.{field}"
        if field == error.field:
            raise
        raise ConfigError(field, error.value, error.remedy) from error


def check_device(settings: TrainerConfig) -> torch.device:
    """The device of the loop, once it has shown that it computes.

    Raises:
        ConfigError: it does not.
    """
    device = resolve_device(settings)
    try:
        works = float(torch.ones(1, device=device)) == 1.0
    except Exception as error:
        remedy = f"cannot compute here ({type(error).__name__}: {_first_line(error)}); give 'cuda' or 'cpu'"
        raise ConfigError("device", settings.device, remedy) from error
    if not works:
        raise ConfigError("device", settings.device, "does not compute; give 'cuda' or 'cpu'")
    return device


def _make(part: Component, field: str, *args: Any, **runtime: Any) -> Any:
    return instantiate(part.target, part.kwargs, *args, field=field, **runtime)


def _check_batch(config: RunConfig, index: ChipIndex, device: torch.device) -> None:
    """Refuse a batch whose pixels alone do not fit the memory, before it is read."""
    data, memory = config.data, memory_of(device)
    size = 2 * 4 * data.batch_size * len(index.bands) * index.num_dates * data.chip_size**2
    if memory and size > memory:
        remedy = (
            f"a batch of {data.batch_size} chips of {data.chip_size} px takes {size_text(size)}, and {device} has "
            f"{size_text(memory)}; lower it, or data.chip_size"
        )
        raise ConfigError("data.batch_size", data.batch_size, remedy)


def _check_size(config: RunConfig, index: ChipIndex, device: torch.device) -> None:
    """Make the model without its weights, so that one beyond the memory is refused before that is filled."""
    before = random_state()
    try:
        with torch.device("meta"), _limited(config, device):
            build_model(config, index)
    finally:
        set_random_state(before)


@contextlib.contextmanager
def _limited(config: RunConfig, device: torch.device) -> Iterator[None]:
    """Refuse a model while it is made, once its weights and their gradients are more than the memory."""
    memory, total = memory_of(torch.device("cpu") if config.trainer.fully_shard else device), 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total
        total += 0 if parameter is None else 2 * parameter.numel() * parameter.element_size()
        if memory and total > memory:
            remedy = f"makes a model whose weights and gradients take more than the {size_text(memory)} of {device}"
            raise ConfigError("model.kwargs", dict(config.model.kwargs), remedy)

    handle = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        handle.remove()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]

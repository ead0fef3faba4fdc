"""Train two batches of a run on copies of its parts, so that a wrong setting costs seconds, never an epoch.

The check opens every run, and is all that a dry run trains. Two batches, the second of which is timed, go through the
Trainer's own loop on the real device, in the real precision and layout: forward, loss, backward, optimizer, scheduler,
one validation batch, metrics. Model, loss, optimizer and loaders are copies, and random states are put back, so that
training is bit-identical with and without it.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import logging
import math
import time
import warnings
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ununennium.data.chips.loaders import Batches
from ununennium.errors import ConfigError, DataError, UnunenniumError
from ununennium.formatting import duration_text
from ununennium.hints import did_you_mean
from ununennium.processes.reporting import is_lost
from ununennium.training.callbacks import EMA, Callback
from ununennium.training.memory import memory_of, peak_memory, size_text
from ununennium.training.state import StopReason, random_state, set_random_state
from ununennium.training.trainer import Trainer
from ununennium.workers.build import Components, build_model, named_by_setting

_LOUD = "ununennium.training.trainer"


@dataclass(frozen=True)
class CheckResult:
    """Figures of the batches that were trained.

    Attributes:
        device: device that computed.
        precision: ``fp32``, ``bf16`` or ``fp16``.
        num_parameters: of the model.
        batch: shape of the images.
        output: shape of what the model makes of them; None if that is no tensor.
        loss: of the batches; None if it is not finite.
        duration_s: seconds of the check.
        peak_memory_bytes: most memory used until its end: of the device on CUDA, else of the process.
        memory_bytes: memory of the device, in bytes; 0 if unknown.
        metrics: names that the history will have.
        batch_s: seconds of the second training batch; None if there is no other, or its step was skipped.
        training_s: seconds of all training batches of all epochs at that speed, without validation.
    """

    device: str
    precision: str
    num_parameters: int
    batch: list[int]
    output: list[int] | None
    loss: float | None
    duration_s: float
    peak_memory_bytes: int
    memory_bytes: int
    metrics: list[str]
    batch_s: float | None = None
    training_s: float | None = None

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

    def in_words(self) -> str:
        """One line for people."""
        memory = size_text(self.peak_memory_bytes)
        if self.memory_bytes:
            memory += f" of {size_text(self.memory_bytes)}"
        loss = "a loss that is not finite" if self.loss is None else f"loss {self.loss:.4f}"
        takes = "" if self.training_s is None else f"; training takes about {duration_text(self.training_s)}"
        return (
            f"a batch of {' x '.join(map(str, self.batch))} through {self.num_parameters:,} parameters and back on "
            f"{self.device} ({self.precision}): {loss}, {self.duration_s:.1f} s, {memory} memory"
            f"{takes}"
        )


def check_training(components: Components) -> CheckResult:
    """Train two batches on copies of ``components``, and check the names of monitored metrics.

    Raises:
        ConfigError: a part fails, does not fit the others or the memory, or a monitor names no metric.
        DataError: imagery or labels that cannot be read.
    """
    before = random_state()
    try:
        with _quiet():
            return _train_two_batches(components)
    finally:
        set_random_state(before)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()


def _train_two_batches(components: Components) -> CheckResult:
    """Train two batches, and validate one; nothing that it makes is kept."""
    started = time.perf_counter()
    trainer, witness = _small_trainer(components)
    with _blamed(components, witness, trainer), named_by_setting():
        trainer.fit()  # of all epochs, so that their number is checked, too; the witness ends it after one
        if trainer.state.global_step == 0:  # skipped for a gradient that is not finite, as fp16 begins
            _step_without_gradient(trainer, witness)
    names = [*trainer.history, "epoch"]
    _check_monitors(components, names)
    loss = trainer.history["train_loss"][0]
    batch_s = witness.batch_s
    return CheckResult(
        device=str(trainer.device),
        precision=trainer.precision.name,
        num_parameters=sum(parameter.numel() for parameter in trainer.module.parameters()),
        batch=witness.batch,
        output=witness.output,
        loss=loss if math.isfinite(loss) else None,
        duration_s=round(time.perf_counter() - started, 3),
        peak_memory_bytes=peak_memory(trainer.device),
        memory_bytes=memory_of(trainer.device),
        metrics=names,
        batch_s=batch_s,
        training_s=None if batch_s is None else batch_s * len(components.loaders.train) * trainer.epochs,
    )


class _Witness(Callback):
    """Knows which part of training is at work, and the shapes that pass through it."""

    priority = -1_000_000

    def __init__(self, components: Components) -> None:
        self.part = "data"
        self.batch: list[int] = []
        self.output: list[int] | None = None
        self._components = components
        self._batches = 0
        self._started: float | None = None
        self._ended: float | None = None

    def __deepcopy__(self, memo: dict[int, Any]) -> _Witness:
        return self  # a copy of the model, such as for averages, must not copy what its hooks know

    def watch(self, model: nn.Module, optimizer: Any) -> None:
        """Follow a model and its optimizer."""
        model.register_forward_pre_hook(self._before_model)
        model.register_forward_hook(self._after_model)
        if hasattr(optimizer, "register_step_pre_hook"):
            optimizer.register_step_pre_hook(lambda *_: self._enter("optimizer"))
            optimizer.register_step_post_hook(lambda *_: self._enter("scheduler"))

    @property
    def batch_s(self) -> float | None:
        """Seconds of the second batch, with loading it where each batch is a step of its own."""
        return None if self._started is None or self._ended is None else self._ended - self._started

    def on_step_end(self, trainer: Trainer) -> None:
        if trainer.device.type == "cuda":
            torch.cuda.synchronize(trainer.device)
        if self._batches == 1:
            self._started = time.perf_counter()
        elif self._batches == 2:
            self._ended = time.perf_counter()

    def on_validation_batch(self, trainer: Trainer, output: Any, target: Any) -> None:
        self._enter("metrics")

    def on_validation_end(self, trainer: Trainer) -> None:
        self._enter("scheduler")

    def on_epoch_end(self, trainer: Trainer) -> None:
        trainer.request_stop(StopReason.COMPLETED)

    def _enter(self, part: str) -> None:
        self.part = part

    def _before_model(self, model: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._enter("model")
        self._batches += model.training
        if self._batches == 2 and self._started is None:  # of the same window as the first
            self._started = time.perf_counter()
        if arguments and isinstance(arguments[0], Tensor):
            self.batch = list(arguments[0].shape)

    def _after_model(self, model: nn.Module, arguments: tuple[Any, ...], output: Any) -> None:
        self._enter("loss")
        if isinstance(output, Tensor):
            self.output = list(output.shape)
            _check_output(self._components, self.output)


class _FirstBatches(DataLoader[Any]):
    """The first batches of a loader, which is as long as that one."""

    def __init__(self, loader: Batches, number: int) -> None:
        super().__init__(
            loader.dataset,
            batch_size=loader.batch_size,
            sampler=loader.sampler,
            collate_fn=loader.collate_fn,
            generator=torch.Generator(),
        )
        self._number = number

    def __iter__(self) -> Any:
        return islice(super().__iter__(), self._number)


def _small_trainer(components: Components) -> tuple[Trainer, _Witness]:
    """A Trainer of two batches over copies, and what watches it."""
    config = components.config
    try:
        model = copy.deepcopy(components.model)
    except Exception:  # models that hold what cannot be copied
        model = build_model(config, components.index)
    optimizer = components.make_optimizer(model)
    scheduler = components.make_scheduler(optimizer)
    loaders = components.make_loaders(num_workers=0)
    witness = _Witness(components)
    witness.watch(model, optimizer)
    callbacks: list[Callback] = [witness, components.make_validation_metrics()]
    if config.trainer.ema_decay is not None:
        callbacks.append(EMA(config.trainer.ema_decay))
    with named_by_setting():
        trainer = Trainer(
            model,
            optimizer,
            components.make_loss(),
            _FirstBatches(loaders.train, 2),
            None if loaders.validation is None else _FirstBatches(loaders.validation, 1),
            scheduler,
            callbacks,
            replace(components.settings, compile=False, time_limit_s=None),
            batch_transform=components.make_transform(),
            progress=False,
        )
    return trainer, witness


def _step_without_gradient(trainer: Trainer, witness: _Witness) -> None:
    """Advance optimizer and scheduler, whose settings the skipped step did not reach."""
    for group in trainer.optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    witness.part = "optimizer"
    trainer.optimizer.step()
    witness.part = "scheduler"
    trainer.schedule.after_step(1)


def _check_output(components: Components, shape: list[int]) -> None:
    """Refuse a number of outputs that is not that of the classes, or another size than the chips'."""
    data, kwargs = components.config.data, dict(components.config.model.kwargs)
    if not components.index.task.has_classes or len(shape) < 2:
        return
    if shape[1] != len(data.classes):
        remedy = (
            f"the model gives {shape[1]} outputs {tuple(shape)} for {len(data.classes)} classes; leave num_classes "
            "out, and it is filled in where the model has such a parameter"
        )
        raise ConfigError("model.kwargs", kwargs, remedy)
    if not components.index.task.is_patchwise and len(shape) == 4 and shape[2:] != [data.chip_size, data.chip_size]:
        remedy = f"the model gives {shape[2]} x {shape[3]} px for chips of {data.chip_size} x {data.chip_size} px"
        raise ConfigError("model.target", components.config.model.target, remedy)


def _check_monitors(components: Components, names: list[str]) -> None:
    """Refuse a monitor that no epoch will log."""
    config = components.config
    monitors = {"checkpoints.monitor": config.checkpoints.monitor}
    if config.early_stopping is not None:
        monitors["early_stopping.monitor"] = config.early_stopping.monitor
    for field, name in monitors.items():
        if name not in names:
            raise _no_such_metric(field, name, names)


def _no_such_metric(field: str, name: str, names: list[str]) -> ConfigError:
    hint = did_you_mean(name, names)
    return ConfigError(field, name, f"is not logged; {hint + ' ' if hint else ''}these are: {', '.join(sorted(names))}")


@contextlib.contextmanager
def _blamed(components: Components, witness: _Witness, trainer: Trainer) -> Iterator[None]:
    """Name the setting whose part was at work when something failed.

    Raises:
        ConfigError: a failing setting.
    """
    config = components.config
    try:
        yield
    except ConfigError as error:
        if error.field in ("monitor", "checkpoints.monitor") and witness.part == "scheduler":
            names = [*trainer.metrics, "epoch"]
            raise _no_such_metric("trainer.scheduler_monitor", str(error.value), names) from error
        raise
    except Exception as error:
        in_part = witness.part in ("model", "loss", "metrics")  # where an error of the data is one of their shapes
        if is_lost(error) or (isinstance(error, UnunenniumError) and not (in_part and isinstance(error, DataError))):
            raise
        words = " ".join(str(error).split())[:600]
        if _out_of_memory(error):
            has = size_text(memory_of(trainer.device))
            remedy = f"one batch does not fit the memory of {trainer.device} ({has}); lower it, or data.chip_size"
            raise ConfigError("data.batch_size", config.data.batch_size, f"{remedy}: {words}") from error
        if witness.part == "data":
            raise
        parts = {"model": config.model, "loss": config.loss, "optimizer": config.optimizer}
        part = config.scheduler if witness.part == "scheduler" else parts.get(witness.part, config.model)
        name = witness.part if part is not None and witness.part != "metrics" else "model"
        what = {
            "model": f"fails on a batch {tuple(witness.batch)} of (batch, {_axes(components)}rows, columns)",
            "loss": f"fails on the output {tuple(witness.output or ())} of the model for {tuple(witness.batch)}",
            "optimizer": "fails in its first step",
            "scheduler": "fails when it advances",
            "metrics": f"gives {tuple(witness.output or ())}, which the metrics cannot take",
        }[witness.part]
        remedy = f"{what}: {type(error).__name__}: {words}"
        if part is None or name in ("model", "loss"):
            target = (part or config.model).target
            raise ConfigError(f"{name}.target", target, remedy) from error
        raise ConfigError(f"{name}.kwargs", dict(part.kwargs), f"{part.target} {remedy}") from error


def _axes(components: Components) -> str:
    """The axes between batch and rows."""
    return "dates, bands, " if components.config.data.layout == "stack" else "channels, "


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Say nothing that training itself is going to say."""
    logger = logging.getLogger(_LOUD)
    was = logger.disabled
    logger.disabled = True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.disabled = was

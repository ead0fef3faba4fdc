"""The training loop."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader

from ununennium.errors import DataError
from ununennium.training import distributed
from ununennium.training.batches import unpack
from ununennium.training.callbacks.callback import HOOKS, Callback, overrides
from ununennium.training.callbacks.progress import with_progress
from ununennium.training.config import TrainerConfig, resolve_device
from ununennium.training.loading import DataWait, mark_windows, to_device
from ununennium.training.modules import CompanionModules
from ununennium.training.objective import Objective
from ununennium.training.optimization import Skips, Window
from ununennium.training.parallel import ParallelModel
from ununennium.training.precision import as_float32, deterministic_kernels, resolve_precision
from ununennium.training.replay import ReplayableLoader
from ununennium.training.resume import keyed, read_checkpoint, restore, snapshot
from ununennium.training.scheduling import Schedule
from ununennium.training.sharding import check_equal_steps, check_not_empty, for_this_rank
from ununennium.training.state import StopReason, TrainerState, WeightedSum, mean_of, random_state, set_random_state

__all__ = ["Trainer", "TrainerConfig"]


class Trainer:
    """Trains a plain ``nn.Module`` on a plain ``DataLoader``.

    The loop, with every hook at its place::

        on_fit_start
        for epoch in remaining epochs:
            on_epoch_start
            for window in windows of accumulation_steps micro-batches (the last one may be shorter):
                for micro-batch in window:
                    forward, backward
                normalise by the window's valid weight; unscale; check finite; clip; step; zero_grad
                step the per-step scheduler
                on_step_end
            with around_validation:
                for batch in val_loader:
                    on_validation_batch
            on_validation_end
            history; step the per-epoch scheduler
            on_epoch_end                (on_checkpoint after each checkpoint)
        on_fit_end                      (on_exception instead, if anything was raised)

    Args:
        model: the module; under several ranks either plain or already in DistributedDataParallel.
        optimizer: made over the model's parameters.
        loss_fn: ``loss_fn(output, target)`` gives a mean (weighted by samples) or ``(sum, weight)``. A loss with a
            third parameter ``valid`` is given the batch's mask; otherwise the mask becomes the loss's ``ignore_index``.
        train_loader: batches ``(image, target)``, ``(image, target, valid)``, or mappings with these keys. Under
            several ranks a DataLoader without a sampler for them is split with a warning (see ``training.sharding``).
        val_loader: the same, for validation.
        scheduler: a learning-rate scheduler; see ``TrainerConfig.scheduler_interval``.
        callbacks: called at the hooks above.
        config: settings of the loop.
        batch_transform: ``batch_transform(image, target, valid, training=, epoch=, batch=)`` gives the (image, target)
            that the model and the loss take, on the device, in training and in validation; both count from 0.
        ignore_index: target value of what has no label, for a loss that has no such attribute. A batch without any
            label contributes nothing, whatever the loss returns for it.
        progress: add a ``Progress`` if ``callbacks`` has none; None does so on a terminal or in a notebook.

    Attributes:
        state: position, counters, and after ``fit`` the stop reason.
        epochs: epochs in all that ``fit`` trains to.
        epoch_loss: sums of this rank's training loss and weight in the running epoch.
        history: metric name to one value per completed epoch.
        metrics: the running epoch's metrics; callbacks add theirs in ``on_validation_end``.
        timing: figures of the epoch that no two runs share, hence no metrics: ``train_s``, seconds without validation,
            and ``data_wait``, the share of them spent waiting for batches (mean of the ranks).
        data_wait: measures that share; ``data_wait.of_run`` is that of all epochs trained here.
        module: the model without wrappers.

    Raises:
        ConfigError: settings that cannot work together.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        loss_fn: Callable[[Tensor, Tensor], Any],
        train_loader: DataLoader[Any],
        val_loader: DataLoader[Any] | None = None,
        scheduler: LRScheduler | None = None,
        callbacks: list[Callback] | None = None,
        config: TrainerConfig | None = None,
        *,
        batch_transform: Callable[..., tuple[Any, Any]] | None = None,
        ignore_index: float | None = None,
        progress: bool | None = None,
    ) -> None:
        self.config = config or TrainerConfig()
        self.device = resolve_device(self.config)
        self.precision = resolve_precision(self.config.mixed_precision, self.device)
        self._parallel = ParallelModel(model, optimizer, self.config, self.device)
        self.module = self._parallel.module
        self.optimizer = optimizer
        self.objective = Objective(loss_fn, ignore_index)
        self._world_size = distributed.world_size()
        split = {"seed": self.config.seed or 0, "rank": distributed.rank(), "world_size": self._world_size}
        self.train_loader = for_this_rank(train_loader, "train_loader", training=True, **split)
        self.val_loader = for_this_rank(val_loader, "val_loader", training=False, **split)
        loaders = {"train_loader": self.train_loader, "val_loader": self.val_loader}
        self.replays = {name: ReplayableLoader(loader, name) for name, loader in loaders.items()}
        self.batch_transform = batch_transform
        when = self.config.scheduler_interval, self.config.scheduler_monitor
        self.schedule = Schedule(scheduler, *when, has_validation=val_loader is not None)
        self.callbacks = sorted(with_progress(callbacks, progress), key=lambda callback: callback.priority)
        self.companions = CompanionModules(self.module, loss_fn, batch_transform, keyed(self), self.device)
        self._hooks = {
            hook: [getattr(callback, hook) for callback in self.callbacks if overrides(callback, hook)]
            for hook in HOOKS
        }
        self.state, self.epochs = TrainerState(), self.config.epochs
        self.history: dict[str, list[float]] = {}
        self.metrics: dict[str, float] = {}
        self.timing: dict[str, float] = {}
        self.resumed_from: str | None = None

        strangers = self.companions.strangers(optimizer)
        self._window = Window(
            optimizer, self.precision, self.config.gradient_clip, self.config.accumulation_steps, self.device, strangers
        )
        self._on_host = self.device.type == "cpu"
        self.epoch_loss = WeightedSum(self.device)
        self._gradient_norm = WeightedSum(self.device)
        self.data_wait = DataWait()
        self._skips = Skips(self.config.max_nonfinite_steps)
        self._stop: tuple[StopReason, str] | None = None
        self._deadline = math.inf

    # ------------------------------------------------------------------ the loop

    def fit(self, epochs: int | None = None, *, resume_from: str | None = None) -> dict[str, list[float]]:
        """Train until ``epochs`` epochs are completed in all, or something stops the run.

        Epochs that were completed before (by an earlier ``fit``, or in the checkpoint resumed from) count: only the
        remaining ones run. ``state.stop_reason`` tells why it returned.

        Args:
            epochs: epochs in all; ``config.epochs`` if not given.
            resume_from: a checkpoint folder (its newest checkpoint is taken) or one checkpoint's manifest, any fsspec
                URL; None starts from where this Trainer stands.

        Returns:
            The history: metric name (``train_loss``, ``val_loss``, ``lr`` ...) to one float per completed epoch.

        Raises:
            NonFiniteError: ``config.max_nonfinite_steps`` steps in a row had a non-finite gradient.
            CheckpointError: the checkpoint is missing, damaged or does not fit.
        """
        epochs = self.config.epochs if epochs is None else epochs
        if epochs < 0:
            raise ValueError(f"fit(epochs={epochs}): give a number of epochs >= 0")
        self.epochs, self._stop = epochs, None
        self._skips.clear()
        self.state.stop_reason, self.state.stop_message = None, ""
        if self.config.time_limit_s is not None:
            self._deadline = time.monotonic() + self.config.time_limit_s
        with deterministic_kernels(self.config.deterministic):
            try:
                if resume_from is not None:
                    self.load_state_dict(read_checkpoint(resume_from))
                    self.resumed_from = resume_from
                elif self.config.seed is not None and self.state.global_step == 0:
                    torch.manual_seed(self.config.seed * self._world_size + distributed.rank())
                if not self.module.training:  # sub-modules that the user froze stay frozen
                    self.module.train()
                self._check(epochs)
                self.dispatch("on_fit_start")
                self.companions.complete()
                stopped = self._must_stop(agree_now=True)
                while not stopped and self.state.epoch < epochs:
                    self._run_epoch()
                    stopped = self._must_stop(agree_now=True)
                self._remember_running()
                completed = (StopReason.COMPLETED, f"all {self.state.epoch} epochs are done")
                self.state.stop_reason, self.state.stop_message = (self._stop or completed) if stopped else completed
                self.dispatch("on_fit_end")
            except BaseException as error:
                self.state.stop_reason, self.state.stop_message = StopReason.FAILED, f"{type(error).__name__}: {error}"
                self.dispatch("on_exception", error)
                raise
        return self.history

    def _check(self, epochs: int) -> None:
        """Refuse, before the first step, what could not be trained to its end, or not be resumed."""
        replay, left = self.replays["train_loader"], epochs - self.state.epoch
        check_equal_steps(self.train_loader, self.config.accumulation_steps)
        check_not_empty(self.val_loader, "val_loader")
        self.companions.check_optimizer(self.optimizer)
        steps = replay.steps_left(left, self.state.batches_done, self.config.accumulation_steps)
        self.schedule.check_length(steps, left)
        replay.warn_of_limits()

    def _run_epoch(self) -> None:
        """One epoch, or what a resume left of it; returns early, at a step boundary, if asked to stop."""
        batches = self._begin_epoch()
        for batch, ends_window in mark_windows(batches, self.config.accumulation_steps):
            if ends_window:
                self._forward_backward(batch)
            else:
                with self._parallel.no_sync():
                    self._forward_backward(batch)
            self.state.batches_done += 1
            if ends_window:
                self._optimizer_step()
                if self._must_stop():
                    return
        if self.state.batches_done == 0:
            raise DataError(
                "train_loader gave no batch; is its dataset empty, or smaller than one batch with drop_last?"
            )
        self._reduce_training_metrics()
        if self.val_loader is not None and not self._validate():
            return
        self._finish_epoch()

    def _forward_backward(self, batch: Any) -> None:
        image, target, valid = self._prepare(batch, training=True)
        with self.precision.autocast():
            output = self._parallel.training(image)
        loss = self.objective(as_float32(output), target, valid)
        if self._on_host and isinstance(loss.weight, Tensor):
            loss = loss._replace(weight=float(loss.weight))
        self._window.backward(loss)
        value = loss.value.item() if self._on_host else loss.value.detach()
        self.epoch_loss.add(value * loss.weight if loss.is_mean else value, loss.weight)

    def _optimizer_step(self) -> None:
        result = self._window.step()
        if not result.ran:
            self.state.skipped_steps += 1
            self._skips.add(result, f"epoch {self.state.epoch + 1}, after step {self.state.global_step}")
            return
        self.state.global_step += 1
        self._skips.clear()
        self._gradient_norm.add(result.norm, 1.0)
        self.schedule.after_step(self.state.global_step)
        for hook in self._hooks["on_step_end"]:
            hook(self)

    def _validate(self) -> bool:
        """Validate the unwrapped model on disjoint shards without a collective per batch; False if asked to stop."""
        assert self.val_loader is not None
        distributed.broadcast_buffers(self.module)
        loss = WeightedSum(self.device)
        modes = [(module, module.training) for module in self.module.modules()] + self.companions.modes()
        batches = 0
        with contextlib.ExitStack() as stack:
            stack.enter_context(self.replays["train_loader"].undisturbed())
            stack.enter_context(self.companions.generators.undisturbed())
            for callback in self.callbacks:
                stack.enter_context(callback.around_validation(self))
            distributed.broadcast_buffers(self.module)  # a callback may have put others in, such as averages
            stack.enter_context(self._parallel.around_validation())
            self.module.eval()
            self.companions.eval()
            try:
                with torch.no_grad():
                    for batch in self.replays["val_loader"].iterate(self.state.epoch):
                        self._validate_batch(batch, loss)
                        batches += 1
                        # No rank waits for another in here: this one leaves, and all agree below.
                        if self._stop is not None or time.monotonic() > self._deadline:
                            break
            finally:
                for module, was_training in modes:
                    module.training = was_training
        if self._must_stop(agree_now=True):
            return False
        *sums, batches_of_all = distributed.sum_over_ranks([*loss.sums(), float(batches)], self.device)
        if not batches_of_all:
            raise DataError("val_loader gave no batch; give it data, or leave it out")
        self.metrics["val_loss"] = mean_of(sums)
        self.dispatch("on_validation_end")
        return True

    def _validate_batch(self, batch: Any, loss: WeightedSum) -> None:
        image, target, valid = self._prepare(batch, training=False)
        with self.precision.autocast():
            output = as_float32(self._parallel.validation(image))
        value, weight, is_mean, _ = self.objective(output, target, valid)
        loss.add(value * weight if is_mean else value, weight)
        for hook in self._hooks["on_validation_batch"]:
            hook(self, output, target)

    def _prepare(self, batch: Any, *, training: bool) -> tuple[Any, Any, Any]:
        """Image, masked target and valid mask, on the device."""
        image, target, valid = unpack(batch)
        image, target, valid = (
            to_device(part, self.device, channels_last=self.config.channels_last) for part in (image, target, valid)
        )
        if self.batch_transform is not None:
            place = {"epoch": self.state.epoch, "batch": self.state.batches_done}
            return *self.batch_transform(image, target, valid, training=training, **place), None
        if valid is not None:
            target = self.objective.mask(target, valid)
        return image, target, valid

    # ------------------------------------------------------------------ the parts of an epoch

    def _begin_epoch(self) -> Iterator[Any]:
        """An iterator over the batches of this epoch that were not consumed yet."""
        epoch, done = self.state.epoch, self.state.batches_done
        self.epoch_loss.load(self.state.running.get("loss", [0.0, 0.0]))
        self._gradient_norm.load(self.state.running.get("gradient_norm", [0.0, 0.0]))
        self.metrics, self.timing = {}, {}
        self._window.discard()
        before = random_state()
        self.dispatch("on_epoch_start")
        if done:  # its first call, before the stop, has drawn what it draws
            set_random_state(before)
        return self.data_wait.measure(lambda: self.replays["train_loader"].epoch(epoch, done))

    def _reduce_training_metrics(self) -> None:
        sums = [*self.epoch_loss.sums(), *self.data_wait.epoch()]
        loss_total, loss_weight, *seconds = distributed.sum_over_ranks(sums, self.device)
        self.timing = self.data_wait.close_epoch(*(total / self._world_size for total in seconds))
        self.metrics["train_loss"] = mean_of([loss_total, loss_weight])
        self.metrics["grad_norm"] = mean_of(self._gradient_norm.sums())
        self.metrics["lr"] = float(self.optimizer.param_groups[0]["lr"])

    def _finish_epoch(self) -> None:
        for name in self.metrics.keys() - self.history.keys():
            self.history[name] = [math.nan] * self.state.epoch
        for name, values in self.history.items():
            values.append(float(self.metrics.get(name, math.nan)))
        self.state.epoch += 1
        self.schedule.after_epoch(self.metrics, self.state.epoch)
        self.state.batches_done = 0
        self.state.running = {}
        self.dispatch("on_epoch_end")

    # ------------------------------------------------------------------ stopping, hooks, state

    def request_stop(self, reason: StopReason, message: str = "") -> None:
        """Ask the run to stop at the next optimizer step (called in ``on_epoch_end``: before the next epoch).

        Safe to call from a signal handler: it only sets a flag. The first reason wins.
        """
        if self._stop is None:
            self._stop = (reason, message)

    def _must_stop(self, *, agree_now: bool = False) -> bool:
        """Tell whether to leave the epoch here; the same answer on every rank."""
        if time.monotonic() > self._deadline:
            self.request_stop(StopReason.TIMED_OUT, f"the time limit of {self.config.time_limit_s} s has passed")
        if self._world_size > 1:
            if not agree_now and self.state.global_step % self.config.agree_every_steps:
                return False
            reasons = list(StopReason)
            mine = 0 if self._stop is None else 1 + reasons.index(self._stop[0])
            agreed = distributed.max_over_ranks(mine, self.device)
            if agreed:
                self.request_stop(reasons[agreed - 1], "another rank asked to stop")
            return agreed > 0  # a wish that came since then was not agreed on: the next time
        return self._stop is not None

    def dispatch(self, hook: str, *arguments: Any) -> None:
        """Call ``hook`` of every callback that overrides it."""
        for call in self._hooks[hook]:
            call(self, *arguments)

    @property
    def is_main_process(self) -> bool:
        """Tell whether this is rank 0, the only one that touches storage."""
        return distributed.rank() == 0

    def state_dict(self) -> dict[str, Any]:
        """State that a resumed run needs (correctness 59); keys carry no wrapper's prefix."""
        self._remember_running()
        return snapshot(self)

    def load_state_dict(self, checkpoint: dict[str, Any]) -> None:
        """Take over ``state_dict()``.

        Raises:
            CheckpointError: a part is missing or does not fit.
        """
        restore(self, checkpoint)

    def _remember_running(self) -> None:
        """Keep the sums of an unfinished epoch, so that its mean covers what ran before and after a stop."""
        if self.state.batches_done:
            self.state.running = {"loss": self.epoch_loss.sums(), "gradient_norm": self._gradient_norm.sums()}

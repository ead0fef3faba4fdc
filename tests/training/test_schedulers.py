"""Learning rates advance when they should, and only then."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler

from ununennium.errors import ConfigError
from ununennium.training.callbacks import Callback


class Rates(Callback):
    def __init__(self):
        self.rates = []

    def on_fit_start(self, trainer):
        step = trainer.optimizer.step

        def recorded():
            self.rates.append(trainer.optimizer.param_groups[0]["lr"])
            return step()

        trainer.optimizer.step = recorded


@pytest.mark.parametrize(("window", "steps"), [(1, 12), (2, 6), (5, 4)])
def test_a_step_scheduler_advances_once_per_optimizer_step(kit, window, steps):
    """correctness 23: never per micro-batch."""
    model = kit.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    trainer = kit.trainer(
        model, kit.loader(24, 4), optimizer=optimizer, scheduler=scheduler, scheduler_interval="step",
        accumulation_steps=window, epochs=2,
    )  # fmt: skip
    trainer.fit()
    assert scheduler.last_epoch == trainer.state.global_step == steps


def test_an_epoch_scheduler_advances_once_per_epoch_after_validation(kit):
    """correctness 24: the epoch trains and validates with one rate."""
    model = kit.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = lr_scheduler.ExponentialLR(optimizer, 0.5)
    seen = []

    class Look(Callback):
        def on_validation_end(self, trainer):
            seen.append(optimizer.param_groups[0]["lr"])

    kit.trainer(
        model, kit.loader(), optimizer=optimizer, scheduler=scheduler, val_loader=kit.loader(), callbacks=[Look()],
        epochs=3,
    ).fit()  # fmt: skip
    assert seen == [1.0, 0.5, 0.25]
    assert optimizer.param_groups[0]["lr"] == 0.125


def test_a_plateau_scheduler_is_fed_the_monitor(kit):
    """correctness 24: ReduceLROnPlateau gets the reduced monitor, once per epoch."""
    model = kit.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)  # nothing improves
    optimizer.param_groups[0]["lr"] = 0.0
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, patience=0)
    fed = []
    real = scheduler.step
    scheduler.step = lambda value: (fed.append(value), real(value))
    history = kit.trainer(
        model, kit.loader(), optimizer=optimizer, scheduler=scheduler, val_loader=kit.loader(8), epochs=3
    ).fit()
    assert fed == history["val_loss"]


@pytest.mark.parametrize(("mode", "first"), [("min", math.nan), ("min", -math.inf), ("max", math.inf)])
def test_a_monitor_that_is_not_finite_is_no_improvement_for_the_plateau(kit, mode, first):
    """correctness 25: it never becomes, or freezes, the best."""
    model = kit.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, mode=mode, patience=0, factor=0.1)

    class Script(Callback):
        def on_validation_end(self, trainer):
            trainer.metrics["val_loss"] = [first, 1.0, math.nan][trainer.state.epoch]

    kit.trainer(
        model, kit.loader(), optimizer=optimizer, scheduler=scheduler, val_loader=kit.loader(8), callbacks=[Script()],
        epochs=3,
    ).fit()  # fmt: skip
    assert scheduler.best == 1.0
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.1**2)  # after the first and the third epoch


@pytest.mark.parametrize("window", [1, 2, 3, 4])
def test_one_cycle_over_all_steps_never_raises_and_ends_low(kit, window):
    """correctness 27: OneCycleLR(total_steps = epochs * ceil(N/k)), stepped per optimizer step by 'auto'."""
    model = kit.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    total = 3 * -(-6 // window)
    scheduler = lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total)
    rates = Rates()
    kit.trainer(
        model, kit.loader(24, 4), optimizer=optimizer, scheduler=scheduler, accumulation_steps=window, epochs=3,
        callbacks=[rates],
    ).fit()  # fmt: skip
    assert len(rates.rates) == total
    assert rates.rates[-1] < 1e-4 < max(rates.rates)


@pytest.mark.parametrize(
    ("make", "per_step"),
    [
        (lambda o: lr_scheduler.OneCycleLR(o, 0.1, total_steps=99), True),
        (lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=4), True),
        (lambda o: lr_scheduler.ChainedScheduler([lr_scheduler.OneCycleLR(o, 0.1, total_steps=99)]), True),
        (lambda o: lr_scheduler.CosineAnnealingLR(o, 10), False),
        (lambda o: lr_scheduler.SequentialLR(
            o, [lr_scheduler.LinearLR(o), lr_scheduler.CosineAnnealingLR(o, 9)], [2]), False),
        (lambda o: lr_scheduler.ReduceLROnPlateau(o), False),
    ],
)  # fmt: skip
def test_auto_knows_which_schedulers_count_steps(kit, make, per_step):
    model = kit.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = kit.trainer(model, kit.loader(), optimizer=optimizer, scheduler=make(optimizer))
    assert trainer.schedule.per_step is per_step
    trainer.fit()


def test_settings_that_contradict_the_scheduler_are_refused(kit):
    model = kit.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    plateau = lr_scheduler.ReduceLROnPlateau(optimizer)
    with pytest.raises(ConfigError, match="scheduler_interval"):
        kit.trainer(model, kit.loader(), optimizer=optimizer, scheduler=plateau, scheduler_interval="step")
    with pytest.raises(ConfigError, match="needs a val_loader"):
        kit.trainer(model, kit.loader(), optimizer=optimizer, scheduler=plateau, scheduler_monitor="val_IoU")
    with pytest.raises(ConfigError, match="train_loss"):
        kit.trainer(model, kit.loader(), optimizer=optimizer, scheduler=plateau, scheduler_monitor="nonsense").fit()
    with pytest.warns(UserWarning, match="not used"):
        kit.trainer(
            model, kit.loader(), optimizer=optimizer, scheduler=lr_scheduler.ExponentialLR(optimizer, 0.9),
            scheduler_monitor="train_loss",
        )  # fmt: skip

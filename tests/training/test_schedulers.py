"""Learning rates advance when they should, and only then."""

from __future__ import annotations

import math

import pytest
import torch
from torch.optim import lr_scheduler

from tests.stopping import StopAt
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


def test_what_cannot_step_is_no_scheduler(kit):
    """correctness 89"""
    with pytest.raises(ConfigError, match=r"scheduler = 'dict': has no step\(\)"):
        kit.trainer(kit.model(), kit.loader(), scheduler={"max_lr": 0.1})


def one_cycle(optimizer, total):
    return lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=total)


def after_warm_up(optimizer, total):
    """Four steps of warm-up, then one cycle of ``total``."""
    parts = [lr_scheduler.ConstantLR(optimizer, 0.1, 4), one_cycle(optimizer, total)]
    return lr_scheduler.SequentialLR(optimizer, parts, [4])


def before_a_plain_end(optimizer, total):
    """One cycle of ``total`` in the first ten steps."""
    parts = [one_cycle(optimizer, total), lr_scheduler.ConstantLR(optimizer, 0.1, 4)]
    return lr_scheduler.SequentialLR(optimizer, parts, [10])


def chained(optimizer, total):
    return lr_scheduler.ChainedScheduler([lr_scheduler.ConstantLR(optimizer, 0.5, 2), one_cycle(optimizer, total)])


def table(optimizer, total):
    rates = [1.0 / (1 + step) for step in range(total + 1)]
    return lr_scheduler.LambdaLR(optimizer, rates.__getitem__)


@pytest.mark.parametrize(
    ("make", "enough"),
    [(one_cycle, 18), (after_warm_up, 14), (before_a_plain_end, 9), (chained, 18), (table, 18)],
)
@pytest.mark.parametrize("short", [0, 1])
def test_a_scheduler_that_ends_before_the_run_is_refused_before_the_first_step(kit, make, enough, short):
    """correctness 27, 89: 3 epochs of 6 steps; one step fewer than needed is named with both totals."""
    model = kit.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    trainer = kit.trainer(
        model, kit.loader(24, 4), optimizer=optimizer, scheduler=make(optimizer, enough - short), epochs=3,
        scheduler_interval="step",
    )  # fmt: skip
    if not short:
        assert len(trainer.fit()["train_loss"]) == 3
        return
    words = "LambdaLR.*fails for 18" if make is table else rf"total_steps={enough - 1}.*takes it to {enough} steps"
    with pytest.raises(ConfigError, match=words):
        trainer.fit()
    assert trainer.state.global_step == 0


@pytest.mark.parametrize("within", [False, True])
def test_a_finished_one_cycle_run_is_not_resumed_for_more_epochs(kit, within):
    """correctness 26, 89: the checkpoint's total counts, and the refusal comes before the first step."""

    def make(epochs):
        model = kit.model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        stop = StopAt(8 if within else None)
        return kit.trainer(
            model, kit.loader(24, 4), optimizer=optimizer, scheduler=one_cycle(optimizer, epochs * 6), callbacks=[stop]
        )

    first = make(2)
    first.fit(2)
    checkpoint = first.state_dict()
    second = make(4)
    second.load_state_dict(checkpoint)
    with pytest.raises(ConfigError, match=r"total_steps=12.*takes it to 24 steps.*start a new run"):
        second.fit(4)
    assert second.state.global_step == (8 if within else 12)
    again = make(2)
    again.load_state_dict(checkpoint)
    assert len(again.fit(2)["train_loss"]) == 2


def test_a_scheduler_over_epochs_is_counted_in_epochs(kit):
    """correctness 89: OneCycleLR stepped per epoch, as scheduler_interval asks."""
    for total, fits in ((3, True), (2, False)):
        model = kit.model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trainer = kit.trainer(
            model, kit.loader(24, 4), optimizer=optimizer, scheduler=one_cycle(optimizer, total), epochs=3,
            scheduler_interval="epoch",
        )  # fmt: skip
        if fits:
            trainer.fit()
        else:
            with pytest.raises(ConfigError, match="takes it to 3 epochs"):
                trainer.fit()


def test_a_run_of_unknown_length_ends_with_an_error_of_ours(kit):
    """correctness 89: an iterable dataset says nothing of its length."""

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(kit.dataset(24))

    model = kit.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    loader = torch.utils.data.DataLoader(Stream(), batch_size=4)
    trainer = kit.trainer(model, loader, optimizer=optimizer, scheduler=one_cycle(optimizer, 4))
    with pytest.warns(UserWarning, match="IterableDataset"), pytest.raises(ConfigError, match="make it for the whole"):
        trainer.fit()


TIMMS = {
    "epochs": lambda s, o: s.CosineLRScheduler(o, t_initial=4, warmup_t=1, warmup_lr_init=0.01, noise_range_t=[2, 4]),
    "updates": lambda s, o: s.CosineLRScheduler(o, t_initial=24, warmup_t=3, warmup_lr_init=0.01, t_in_epochs=False),
    "steps of epochs": lambda s, o: s.MultiStepLRScheduler(o, decay_t=[1, 3], decay_rate=0.5),
    "polynomial": lambda s, o: s.PolyLRScheduler(o, t_initial=24, t_in_epochs=False),
}


class TimmRates(Callback):
    """The rate of every step."""

    def __init__(self):
        self.rates = []

    def on_step_end(self, trainer):
        self.rates.append(trainer.optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("stop_at", [None, 6, 9])
@pytest.mark.parametrize("kind", TIMMS)
def test_timms_schedulers_give_the_rates_of_timms_own_loop(kit, kind, stop_at):
    """correctness 23, 24, 26, 89: step(epoch) and step_update(num_updates), over a resume too."""
    timm = pytest.importorskip("timm.scheduler")
    optimizer = torch.optim.SGD(kit.model().parameters(), lr=0.1)
    scheduler, wanted = TIMMS[kind](timm, optimizer), []
    for epoch in range(4):  # as timm's train.py
        for update in range(6):
            scheduler.step_update(num_updates=epoch * 6 + update + 1)
            wanted.append(optimizer.param_groups[0]["lr"])
        scheduler.step(epoch + 1)

    def make(stop):
        model, rates = kit.model(), TimmRates()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        trainer = kit.trainer(
            model, kit.loader(24, 4), optimizer=optimizer, scheduler=TIMMS[kind](timm, optimizer),
            callbacks=[rates, StopAt(stop)],
        )  # fmt: skip
        return trainer, rates

    trainer, rates = make(stop_at)
    trainer.fit(4)
    if stop_at is not None:
        resumed, later = make(None)
        resumed.load_state_dict(trainer.state_dict())
        resumed.fit(4)
        rates.rates += later.rates
    assert rates.rates == wanted


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_timms_plateau_scheduler_is_fed_the_monitor_and_keeps_its_patience(kit):
    """correctness 24, 25, 89: timm's own state_dict leaves the counters out."""
    timm = pytest.importorskip("timm.scheduler")

    def make():
        model = kit.model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer.param_groups[0]["lr"] = 0.1
        for parameter in model.parameters():
            parameter.requires_grad_(parameter.ndim == 1)
        scheduler = timm.PlateauLRScheduler(optimizer, decay_rate=0.1, patience_t=1, mode="max")

        class Script(Callback):
            def on_validation_end(self, trainer):
                trainer.metrics["val_loss"] = [0.9, 0.5, math.nan, 0.5][trainer.state.epoch]

        return kit.trainer(
            model,
            kit.loader(),
            optimizer=optimizer,
            scheduler=scheduler,
            val_loader=kit.loader(8),
            callbacks=[Script()],
        )

    whole = make()
    whole.fit(4)
    first = make()
    first.fit(2)
    second = make()
    second.load_state_dict(first.state_dict())
    second.fit(4)
    rates = [trainer.optimizer.param_groups[0]["lr"] for trainer in (whole, second)]
    assert rates == [pytest.approx(0.01)] * 2


def test_an_interval_that_contradicts_timms_scheduler_is_refused(kit):
    """correctness 89: t_in_epochs decides."""
    timm = pytest.importorskip("timm.scheduler")
    model = kit.model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = timm.CosineLRScheduler(optimizer, t_initial=4)
    with pytest.raises(ConfigError, match="t_in_epochs=True"):
        kit.trainer(model, kit.loader(), optimizer=optimizer, scheduler=scheduler, scheduler_interval="step")
    kit.trainer(model, kit.loader(), optimizer=optimizer, scheduler=scheduler, scheduler_interval="epoch")

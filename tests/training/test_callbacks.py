"""Hooks, early stopping, and how a run ends."""

from __future__ import annotations

import math
import re
import signal
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ununennium.errors import ConfigError
from ununennium.training import StopReason, Trainer
from ununennium.training.callbacks import EMA, Callback, EarlyStopping, MetricsFile, Monitor, Progress, TensorBoard
from ununennium.training.callbacks.callback import HOOKS


class Spy(Callback):
    def __init__(self):
        self.calls = []

    def around_validation(self, trainer):
        self.calls.append("around_validation")
        return super().around_validation(trainer)


for _hook in HOOKS:
    setattr(Spy, _hook, lambda self, trainer, *rest, _hook=_hook: self.calls.append(_hook))


class Script(Callback):
    """Overwrites a metric with a given value per epoch."""

    def __init__(self, values, name="val_loss"):
        self.values, self.name = values, name

    def on_validation_end(self, trainer):
        trainer.metrics[self.name] = self.values[trainer.state.epoch]


def test_the_hooks_come_in_the_order_of_the_docstring(kit):
    """correctness 39: the order equals the pseudocode in Trainer's docstring."""
    spy = Spy()
    kit.trainer(
        kit.model(), kit.loader(12, 4), val_loader=kit.loader(8, 4), callbacks=[spy], accumulation_steps=2, epochs=2
    ).fit()
    epoch = [
        "on_epoch_start", "on_step_end", "on_step_end", "around_validation", "on_validation_batch",
        "on_validation_batch", "on_validation_end", "on_epoch_end",
    ]  # fmt: skip
    assert spy.calls == ["on_fit_start", *epoch, *epoch, "on_fit_end"]
    in_docstring = re.findall(r"\b(?:on_[a-z_]+|around_validation)\b", Trainer.__doc__.split("Args:")[0])
    once = list(dict.fromkeys(name for name in spy.calls))
    assert [name for name in dict.fromkeys(in_docstring) if name in once] == once
    assert set(HOOKS) <= set(in_docstring)


def test_a_hook_that_nobody_overrides_is_not_called(kit):
    trainer = kit.trainer(kit.model(), kit.loader(), callbacks=[Callback(), EarlyStopping("train_loss")])
    assert trainer._hooks["on_step_end"] == []
    assert len(trainer._hooks["on_epoch_end"]) == 1


def test_callbacks_of_higher_priority_run_later(kit):
    order = []

    class Late(Callback):
        priority = 100

        def on_epoch_end(self, trainer):
            order.append("late")

    class Early(Callback):
        def on_epoch_end(self, trainer):
            order.append("early")

    kit.trainer(kit.model(), kit.loader(), callbacks=[Late(), Early()]).fit()
    assert order == ["early", "late"]


@given(
    value=st.floats(allow_nan=True, allow_infinity=True),
    best=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    delta=st.floats(0, 10),
)
def test_better_is_strict_and_finite(value, best, delta):
    """correctness 40, 41: mode=min means v < best - min_delta; the first finite value is always best; NaN never is."""
    smaller, larger = Monitor("loss", "min", delta), Monitor("loss", "max", delta)
    if not math.isfinite(value):
        assert not smaller.is_better(value, best)
        assert not larger.is_better(value, best)
    elif best is None:
        assert smaller.is_better(value, None)
        assert larger.is_better(value, None)
    else:
        assert smaller.is_better(value, best) == (value < best - delta)
        assert larger.is_better(value, best) == (value > best + delta)
        assert not smaller.is_better(best, best)


def test_a_nan_first_does_not_freeze_the_best(kit):
    """correctness 25, 41: NaN never becomes the best, and the first finite value does."""
    stopping = EarlyStopping(patience=3)
    script = Script([math.nan, 2.0, math.inf, 1.0])
    kit.trainer(kit.model(), kit.loader(), val_loader=kit.loader(8), callbacks=[script, stopping], epochs=4).fit()
    assert (stopping.best, stopping.best_epoch) == (1.0, 4)


def test_an_unknown_monitor_names_those_that_exist(kit):
    """correctness 40: it raises at first use."""
    with pytest.raises(ConfigError, match=r"'val_iou'.*train_loss.*val_loss"):
        kit.trainer(
            kit.model(), kit.loader(), val_loader=kit.loader(8), callbacks=[EarlyStopping("val_iou", mode="max")]
        ).fit()


def test_a_validation_monitor_without_validation_raises_before_the_first_step(kit):
    """correctness 40: at the start of fit()."""
    model = kit.model()
    before = kit.weights(model)
    with pytest.raises(ConfigError, match="needs a val_loader"):
        kit.trainer(model, kit.loader(), callbacks=[EarlyStopping()]).fit()
    assert kit.same(before, kit.weights(model))


def test_a_monitor_that_should_grow_with_mode_min_is_warned_of():
    with pytest.warns(UserWarning, match="mode='max'"):
        EarlyStopping("val_IoU")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        EarlyStopping("val_IoU", mode="max")
        EarlyStopping("val_loss")


@pytest.mark.parametrize("arguments", [{"patience": 0}, {"patience": 1.5}, {"min_delta": -1}, {"mode": "auto"}])
def test_an_impossible_early_stopping_is_refused(arguments):
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        EarlyStopping(**arguments)


@pytest.mark.parametrize("patience", [1, 2, 3])
def test_it_stops_after_exactly_that_many_checks_without_improvement(kit, patience):
    """correctness 42, 43: and the last epoch's hooks still run."""
    spy = Spy()
    script = Script([3.0, 1.0, *[1.0] * 9])
    trainer = kit.trainer(
        kit.model(), kit.loader(), val_loader=kit.loader(8), epochs=11,
        callbacks=[script, EarlyStopping(patience=patience), spy],
    )  # fmt: skip
    history = trainer.fit()
    assert len(history["val_loss"]) == 2 + patience
    assert trainer.state.stop_reason is StopReason.EARLY_STOPPED
    assert spy.calls[-2:] == ["on_epoch_end", "on_fit_end"]


def test_patience_survives_a_resume(kit):
    """correctness 42: counter, best and history."""
    script = Script([1.0, 2.0, 2.0, 2.0, 2.0, 2.0])
    arguments = {"val_loader": kit.loader(8), "epochs": 6}
    first = kit.trainer(kit.model(), kit.loader(), callbacks=[script, EarlyStopping(patience=3)], **arguments)
    first.fit(2)
    stopping = EarlyStopping(patience=3)
    second = kit.trainer(kit.model(), kit.loader(), callbacks=[script, stopping], **arguments)
    second.load_state_dict(first.state_dict())
    history = second.fit()
    assert history["val_loss"] == [1.0, 2.0, 2.0, 2.0]
    assert (stopping.best, stopping.best_epoch) == (1.0, 1)


def test_stopping_early_is_a_typed_reason_and_a_second_fit_starts_unstopped(kit):
    """correctness 44: not an exception."""
    script = Script([1.0] + [2.0] * 20)
    trainer = kit.trainer(
        kit.model(), kit.loader(), val_loader=kit.loader(8), callbacks=[script, EarlyStopping(patience=2)], epochs=20
    )
    assert len(trainer.fit()["val_loss"]) == 3
    assert trainer.state.stop_reason is StopReason.EARLY_STOPPED
    assert "val_loss has not improved for 2 epochs" in trainer.state.stop_message
    assert len(trainer.fit(4)["val_loss"]) == 4
    assert trainer.state.stop_reason is StopReason.COMPLETED


def test_a_finished_run_takes_no_step(kit):
    """correctness 67: zero steps, and its history."""
    trainer = kit.trainer(kit.model(), kit.loader(), epochs=2)
    history = dict(trainer.fit())
    assert len(history["train_loss"]) == 2
    steps = trainer.state.global_step
    assert trainer.fit() == history
    assert trainer.state.global_step == steps


def test_an_early_stopped_run_that_is_resumed_takes_no_step(kit):
    """correctness 42, 67."""
    script = Script([1.0] + [2.0] * 20)

    def make():
        return kit.trainer(
            kit.model(), kit.loader(), val_loader=kit.loader(8), epochs=20,
            callbacks=[script, EarlyStopping(patience=2)],
        )  # fmt: skip

    first = make()
    first.fit()
    second = make()
    second.load_state_dict(first.state_dict())
    assert second.fit() == first.history
    assert second.state.stop_reason is StopReason.EARLY_STOPPED


def test_an_exception_reaches_the_caller_and_the_callbacks(kit):
    """correctness 48: the original exception, in one process."""
    spy = Spy()

    class Break(Callback):
        def on_step_end(self, trainer):
            raise ZeroDivisionError("a user's callback broke")

    trainer = kit.trainer(kit.model(), kit.loader(), callbacks=[Break(), spy])
    with pytest.raises(ZeroDivisionError, match="a user's callback broke"):
        trainer.fit()
    assert trainer.state.stop_reason is StopReason.FAILED
    assert spy.calls[-1] == "on_exception"
    assert "on_fit_end" not in spy.calls


@pytest.mark.parametrize("where", ["training", "validation"])
def test_a_signal_stops_at_the_next_step_and_inside_validation(kit, where):
    """correctness 68, 69: the handler sets a flag and nothing else."""
    batches = []

    class Ask(Callback):
        def on_step_end(self, trainer):
            batches.append("step")
            if where == "training":
                signal.raise_signal(signal.SIGUSR1)

        def on_validation_batch(self, trainer, output, target):
            batches.append("validation")
            signal.raise_signal(signal.SIGUSR1)

    trainer = kit.trainer(kit.model(), kit.loader(24, 4), val_loader=kit.loader(24, 4), callbacks=[Ask()], epochs=3)
    old = signal.signal(signal.SIGUSR1, lambda *_: trainer.request_stop(StopReason.PREEMPTED, "asked to"))
    try:
        trainer.fit()
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert trainer.state.stop_reason is StopReason.PREEMPTED
    assert batches == (["step"] if where == "training" else ["step"] * 6 + ["validation"])
    assert trainer.state.epoch == 0


def test_a_time_limit_stops_with_its_own_reason(kit):
    trainer = kit.trainer(kit.model(), kit.loader(), epochs=10**6, time_limit_s=0.2)
    trainer.fit()
    assert trainer.state.stop_reason is StopReason.TIMED_OUT


def test_the_average_follows_its_formula_and_serves_validation_only(kit):
    """correctness 60: raw and averaged weights are both kept; a save while they are swapped is refused."""
    model, expected = kit.model(), None
    ema = EMA(0.5)
    seen = []

    class Follow(Callback):
        def on_fit_start(self, trainer):
            nonlocal expected
            expected = [w.double() for w in kit.weights(model)]

        def on_step_end(self, trainer):
            n = trainer.state.global_step
            decay = min(0.5, (1 + n) / (10 + n))
            for average, live in zip(expected, kit.weights(model), strict=True):
                average.mul_(decay).add_(live.double(), alpha=1 - decay)

        def on_validation_batch(self, trainer, output, target):
            seen.append(kit.weights(model))
            with pytest.raises(Exception, match="averaged weights are in place"):
                trainer.state_dict()

    trainer = kit.trainer(model, kit.loader(8, 4), val_loader=kit.loader(4), callbacks=[ema, Follow()])
    trainer.fit()
    for average, validated in zip(expected, seen[0], strict=True):
        torch.testing.assert_close(validated, average.float(), rtol=1e-5, atol=1e-7)
    checkpoint = trainer.state_dict()
    assert kit.same(list(checkpoint["model"].values()), kit.weights(model))
    assert kit.same(list(checkpoint["callbacks"]["EMA"]["weights"].values()), seen[0])
    assert not kit.same(seen[0], kit.weights(model))


def test_the_average_is_put_back_when_validation_raises(kit):
    """correctness 60."""
    model = kit.model()
    live = []

    class Break(Callback):
        def on_step_end(self, trainer):
            live[:] = kit.weights(model)

        def on_validation_batch(self, trainer, output, target):
            raise RuntimeError("broke")

    with pytest.raises(RuntimeError, match="broke"):
        kit.trainer(model, kit.loader(8, 4), val_loader=kit.loader(4), callbacks=[EMA(), Break()]).fit()
    assert kit.same(live, kit.weights(model))


@pytest.mark.parametrize("ending", [".csv", ".jsonl"])
def test_the_metrics_file_equals_the_history_also_after_a_resume(kit, tmp_path, ending):
    path = tmp_path / f"metrics{ending}"
    arguments = {"val_loader": kit.loader(8), "callbacks": [MetricsFile(path)]}
    first = kit.trainer(kit.model(), kit.loader(), **arguments)
    first.fit(2)
    state = first.state_dict()
    first.fit(3)  # runs ahead of the checkpoint, then dies
    second = kit.trainer(kit.model(), kit.loader(), **arguments)
    second.load_state_dict(state)
    history = second.fit(4)
    rows = MetricsFile(path)._read()
    assert [int(row["epoch"]) for row in rows] == [1, 2, 3, 4]
    assert [float(row["val_loss"]) for row in rows] == pytest.approx(history["val_loss"])


def test_tensorboard_events_hold_the_history(kit, tmp_path):
    pytest.importorskip("tensorboard", reason="the extra 'tensorboard' is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = kit.trainer(kit.model(), kit.loader(), callbacks=[TensorBoard(tmp_path)], epochs=2).fit()
    events = EventAccumulator(str(tmp_path)).Reload()
    values = [event.value for event in events.Scalars("train_loss")]
    assert values == pytest.approx(history["train_loss"])


def test_progress_writes_one_plain_line_per_epoch(kit, capsys):
    kit.trainer(kit.model(), kit.loader(), val_loader=kit.loader(8), callbacks=[Progress()], epochs=2).fit()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert re.match(r"epoch   1  train_loss \d\.\d{4}  val_loss \d\.\d{4}  lr ", lines[0])


def test_progress_draws_a_bar_where_asked(kit, capsys):
    kit.trainer(kit.model(), kit.loader(), callbacks=[Progress(live=True)], epochs=2).fit()
    assert "epoch   2" in capsys.readouterr().err


def test_a_fit_that_follows_a_stop_within_an_epoch_counts_what_ran_before_it(kit):
    """correctness 5: the epoch's loss is that of all its batches, without a checkpoint in between."""

    class StopOnce(Callback):
        def on_step_end(self, trainer):
            if trainer.state.global_step == 2:
                trainer.request_stop(StopReason.PREEMPTED)

    wanted = kit.trainer(kit.model(), kit.loader()).fit()
    trainer = kit.trainer(kit.model(), kit.loader(), callbacks=[StopOnce()])
    assert not trainer.fit()
    assert trainer.fit() == wanted


def test_callbacks_that_share_a_key_are_told_apart_by_numbers_from_2(kit):
    """Stored names: a checkpoint of an earlier version has them."""
    trainer = kit.trainer(kit.model(), kit.loader(), callbacks=[EarlyStopping("train_loss") for _ in range(3)])
    key = trainer.callbacks[0].state_key
    assert list(trainer.state_dict()["callbacks"]) == [key, f"{key}#2", f"{key}#3"]

"""The Trainer's own figure of the time that it waits for data."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ununennium.training import StopReason
from ununennium.training.callbacks import Callback, MetricsFile, Progress
from ununennium.training.loading import DataWait


class Clock:
    """A clock that moves when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@given(
    start=st.integers(0, 20),
    epoch=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=8),
    after_last=st.integers(0, 20),
)
def test_what_passes_while_loading_is_waiting_and_what_passes_between_is_not(start, epoch, after_last):
    clock = Clock()
    wait = DataWait(clock)

    def load():
        clock.now += start
        return batches()

    def batches():
        for number, (loading, _) in enumerate(epoch):
            clock.now += loading
            yield number
        clock.now += after_last

    taken = []
    for batch in wait.measure(load):
        taken.append(batch)
        clock.now += epoch[batch][1]
    waited = start + sum(loading for loading, _ in epoch) + after_last
    passed = waited + sum(training for _, training in epoch)
    assert taken == list(range(len(epoch)))
    assert wait.epoch() == [waited, passed]


def test_the_share_of_a_run_weighs_epochs_by_their_length():
    wait = DataWait()
    assert math.isnan(wait.of_run)
    assert wait.close_epoch(1.0, 2.0) == {"train_s": 2.0, "data_wait": 0.5}
    assert wait.close_epoch(0.0, 8.0)["data_wait"] == 0.0
    assert wait.of_run == 0.1


class TimedLoader:
    """Batches that take time by the clock: 3 s to load, while training on one takes 1 s."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def __len__(self) -> int:
        return 4

    def __iter__(self):
        for _ in range(4):
            self._clock.now += 3.0
            yield torch.zeros(2, 4), torch.zeros(2, dtype=torch.long)


class Train(Callback):
    """One second per step, and a validation that takes long and is no part of the share."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock

    def on_step_end(self, trainer):
        self._clock.now += 1.0

    def on_validation_end(self, trainer):
        self._clock.now += 1000.0


@pytest.fixture
def waiting(kit, tmp_path):
    clock = Clock()
    callbacks = [Train(clock), MetricsFile(tmp_path / "metrics.jsonl"), Progress()]
    trainer = kit.trainer(kit.model(), TimedLoader(clock), val_loader=kit.loader(8), callbacks=callbacks, epochs=2)
    trainer.data_wait = DataWait(clock)
    return trainer


def test_the_share_is_of_the_training_part_and_no_metric(waiting):
    history = waiting.fit()
    assert waiting.timing == {"train_s": 16.0, "data_wait": 0.75}
    assert waiting.data_wait.of_run == 0.75
    assert not {"train_s", "data_wait"} & (history.keys() | waiting.metrics.keys())


def test_every_row_of_the_metrics_file_has_it(waiting, tmp_path):
    waiting.fit()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["train_s"], row["data_wait"]) for row in rows] == [(16.0, 0.75)] * 2


def test_the_progress_line_says_so_where_it_matters(waiting, kit, capsys):
    waiting.fit()
    assert all(line.endswith("waits for data 75%") for line in capsys.readouterr().err.splitlines())
    busy = kit.trainer(kit.model(), kit.loader(), callbacks=[Progress()])
    busy.data_wait = DataWait(Clock())
    busy.fit()
    assert "waits" not in capsys.readouterr().err


def test_a_stop_amid_an_epoch_leaves_no_figure_of_the_epoch_before(kit):
    class Stop(Callback):
        def on_step_end(self, trainer):
            if trainer.state.epoch == 1:
                trainer.request_stop(StopReason.PREEMPTED)

    trainer = kit.trainer(kit.model(), kit.loader(), callbacks=[Stop()], epochs=3)
    trainer.fit()
    assert (trainer.state.epoch, trainer.timing) == (1, {})

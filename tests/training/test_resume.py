"""Two halves equal the whole, to the bit."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.stopping import StopAt
from ununennium.errors import CheckpointError
from ununennium.training.callbacks import EMA, CheckpointCallback, EarlyStopping
from ununennium.training.loading import epoch_batches, mark_windows
from ununennium.training.resume import clean_key

PROGRAM = Path(__file__).with_name("resumable_run.py")


WORKERS, STOPS = (0, 2), (5, 7)


@pytest.fixture(scope="module")
def dumps(tmp_path_factory):
    """What each run held at its end: one process runs them whole, one stops them, another resumes them."""
    folder = tmp_path_factory.mktemp("resumed")
    cases = [(workers, stop) for workers in WORKERS for stop in STOPS]
    for what in ("whole", "stop", "resume"):
        words = []
        for workers, stop in cases:
            name = f"{workers}-{stop}"
            kept = folder / ("whole" if what == "whole" else "halves") / name
            words += [folder / f"{what}-{name}", workers, kept, what, stop]
        finished = subprocess.run(
            [sys.executable, str(PROGRAM), *map(str, words)],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert finished.returncode == 0, finished.stderr
    return lambda what, workers, stop: torch.load(folder / f"{what}-{workers}-{stop}", weights_only=True)


def equal(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(equal, first, second))
    return first == second or (isinstance(first, float) and math.isnan(first) and math.isnan(second))


@pytest.mark.slow
@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("stop", STOPS)
def test_a_run_that_is_stopped_and_resumed_in_a_new_process_equals_one_that_was_not(dumps, workers, stop):
    """correctness 26, 61, 62, 63: weights, optimizer, learning rates, history; at an epoch's end (5) and within (7)."""
    whole, halves = dumps("whole", workers, stop), dumps("resume", workers, stop)
    assert dumps("stop", workers, stop)["rates"] == whole["rates"][:stop]
    assert whole["model"].keys() == halves["model"].keys()
    for part in ("model", "optimizer", "scheduler", "history", "rates", "ema"):
        assert equal(whole[part], halves[part]), part


def test_two_runs_are_bit_equal_in_deterministic_mode(kit):
    """correctness 61: on the CPU, with dropout and shuffling."""
    results = []
    for _ in range(2):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(4, 16), nn.Dropout(0.3), nn.ReLU(), nn.Linear(16, 3))
        torch.rand(len(results) + 1)  # whatever happened before does not matter
        loader = kit.loader(24, 4, shuffle=True)
        history = kit.trainer(model, loader, deterministic=True, seed=7, epochs=2).fit()
        results.append((kit.weights(model), history))
    assert kit.same(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert not torch.are_deterministic_algorithms_enabled()


class Recorded(torch.utils.data.Dataset):
    def __init__(self, length):
        self.length, self.seen = length, []

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        self.seen.append(int(index))
        return torch.randn(4), torch.tensor(index % 3)


class Plain(torch.utils.data.Sampler):
    """Order as a function of (seed, epoch), like the product's."""

    start = 0

    def __init__(self, length):
        self.length, self.epoch = length, 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __len__(self):
        return self.length

    def __iter__(self):
        order = np.random.default_rng([11, self.epoch]).permutation(self.length)
        yield from map(int, order[self.start :])


class Startable(Plain):
    """It may begin in the middle."""

    def set_start(self, start):
        self.start = start


@pytest.mark.parametrize("make_sampler", [Plain, Startable])
def test_after_a_second_resume_in_one_epoch_each_sample_came_once(kit, make_sampler):
    """correctness 63, 64: the remaining ones of that epoch; the order is a function of (seed, epoch)."""
    state, trained = None, []
    for stop in (2, 4, 99):
        dataset = Recorded(24)
        loader = torch.utils.data.DataLoader(dataset, batch_size=4, sampler=make_sampler(24))
        trainer = kit.trainer(kit.model(), loader, callbacks=[StopAt(stop)])
        if state is not None:
            trainer.load_state_dict(state)
        done = trainer.state.batches_done
        trainer.fit()
        state = trainer.state_dict()
        dropped = 4 * done if make_sampler is Plain else 0  # loaded again, and dropped
        trained += dataset.seen[dropped:]
    assert trained == [int(i) for i in np.random.default_rng([11, 0]).permutation(24)]
    assert Counter(trained) == Counter(range(24))


def test_set_epoch_is_called_on_every_sampler_before_iterating(kit):
    """correctness 64: on `sampler` and on `batch_sampler.sampler`."""
    calls = []

    class Told(torch.utils.data.SequentialSampler):
        def set_epoch(self, epoch):
            calls.append(epoch)

    data = kit.dataset(8)
    batches = torch.utils.data.BatchSampler(Told(data), 4, drop_last=False)
    for loader in (
        torch.utils.data.DataLoader(data, batch_size=4, sampler=Told(data)),
        torch.utils.data.DataLoader(data, batch_sampler=batches),
    ):
        calls.clear()
        kit.trainer(kit.model(), loader, epochs=3).fit()
        assert calls == [0, 1, 2]


def test_fit_after_a_resume_runs_the_remaining_epochs(kit):
    """correctness 67."""
    first = kit.trainer(kit.model(), kit.loader())
    first.fit(2)
    second = kit.trainer(kit.model(), kit.loader())
    second.load_state_dict(first.state_dict())
    assert len(second.fit(5)["train_loss"]) == 5
    assert second.state.global_step == 5 * 6


@pytest.mark.parametrize(
    "part", ["model", "optimizer", "state", "history", "callbacks", "random_states", "world_size", "scheduler"]
)
def test_a_checkpoint_that_lacks_a_part_says_which(kit, part):
    """correctness 59: a missing part is a clear error."""

    def make():
        model = kit.model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        return kit.trainer(model, kit.loader(), optimizer=optimizer, scheduler=scheduler)

    checkpoint = make().state_dict()
    assert {"scaler", "config", "versions", "precision"} <= checkpoint.keys()
    del checkpoint[part]
    with pytest.raises(CheckpointError, match=f"the checkpoint has no {part}"):
        make().load_state_dict(checkpoint)


def test_a_checkpoint_of_another_model_is_refused_in_one_line(kit):
    """correctness 59."""
    checkpoint = kit.trainer(kit.model(), kit.loader()).state_dict()
    other = kit.trainer(nn.Linear(4, 3), kit.loader())
    with pytest.raises(CheckpointError, match=r"^the checkpoint does not fit the model: [^\n]*$"):
        other.load_state_dict(checkpoint)


def test_another_number_of_ranks_is_refused(kit):
    """correctness 66: exact in global order, or refused with a clear message."""
    checkpoint = kit.trainer(kit.model(), kit.loader()).state_dict()
    checkpoint["world_size"] = 4
    with pytest.raises(CheckpointError, match="4 ranks"):
        kit.trainer(kit.model(), kit.loader()).load_state_dict(checkpoint)


def test_callbacks_that_a_checkpoint_does_not_know_start_afresh_with_a_warning(kit):
    """correctness 59: the documented default."""
    plain = kit.trainer(kit.model(), kit.loader(), val_loader=kit.loader(8)).state_dict()
    watched = kit.trainer(kit.model(), kit.loader(), val_loader=kit.loader(8), callbacks=[EarlyStopping()])
    with pytest.warns(UserWarning, match="EarlyStopping"):
        watched.load_state_dict(plain)
    with pytest.warns(UserWarning, match="does not have: EarlyStopping"):
        kit.trainer(kit.model(), kit.loader()).load_state_dict(watched.state_dict())


@pytest.mark.parametrize(
    "key", ["module.layer.weight", "_orig_mod.layer.weight", "module._orig_mod.layer.weight", "layer._orig_mod.weight"]
)
def test_keys_carry_no_wrapper(key):
    """correctness 56."""
    assert clean_key(key) == "layer.weight"


def test_a_compiled_model_and_the_bare_one_load_each_others_checkpoints(kit):
    """correctness 56: keys carry no `_orig_mod.`, whatever part was compiled."""
    compiled = kit.model()
    compiled[0] = torch.compile(compiled[0], backend="eager")
    bare = kit.model(2)
    saved = kit.trainer(torch.compile(compiled, backend="eager"), kit.loader()).state_dict()
    assert saved["model"].keys() == bare.state_dict().keys()
    trainer = kit.trainer(bare, kit.loader())
    trainer.load_state_dict(saved)
    assert kit.same(kit.weights(bare), kit.weights(compiled))
    again = kit.model(3)
    again[0] = torch.compile(again[0], backend="eager")
    kit.trainer(again, kit.loader()).load_state_dict(trainer.state_dict())
    assert kit.same(kit.weights(bare), kit.weights(again))


def test_fit_resumes_from_a_folder_of_checkpoints(kit, tmp_path):
    """correctness 57, 62: through storage, EMA and early stopping included."""

    def make():
        callbacks = [CheckpointCallback(str(tmp_path)), EarlyStopping(), EMA(0.9)]
        return kit.trainer(kit.model(), kit.loader(), val_loader=kit.loader(8), callbacks=callbacks, epochs=4)

    first = make()
    first.fit(2)
    second = make()
    history = second.fit(resume_from=str(tmp_path))
    whole = kit.trainer(
        kit.model(), kit.loader(), val_loader=kit.loader(8), epochs=4, callbacks=[EarlyStopping(), EMA(0.9)]
    )
    assert whole.fit() == history
    assert kit.same(kit.weights(whole.module), kit.weights(second.module))
    with pytest.raises(CheckpointError, match="nothing-here"):
        make().fit(resume_from=str(tmp_path / "nothing-here"))


def test_windows_look_ahead_only_within_themselves():
    """Nothing beyond a window's end is drawn, so that the position in a checkpoint is the loader's own."""
    drawn = []

    def stream():
        for number in range(7):
            drawn.append(number)
            yield number

    for number, ends in mark_windows(stream(), 3):
        if ends:
            assert drawn[-1] == number
    assert [ends for _, ends in mark_windows(range(7), 3)] == [False, False, True] * 2 + [True]
    assert list(mark_windows([], 3)) == []


def test_batches_already_done_are_left_out(kit):
    loader = kit.loader(24, 4)
    whole = [target.tolist() for _, target in loader]
    assert [target.tolist() for _, target in epoch_batches(loader, 0, 4)] == whole[4:]

"""What CheckpointCallback keeps, what it never deletes, and how a run goes on from it."""

from __future__ import annotations

import math
import signal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from ununennium.checkpoints.savers import Report
from ununennium.checkpoints.store import CheckpointStore
from ununennium.errors import CheckpointError, ConfigError, StorageError
from ununennium.training import StopReason
from ununennium.training.callbacks import EMA, Callback, CheckpointCallback, EarlyStopping


class Script(Callback):
    """Overwrites val_loss with a given value per epoch."""

    def __init__(self, values):
        self.values = values

    def on_validation_end(self, trainer):
        trainer.metrics["val_loss"] = self.values[trainer.state.epoch]


def epochs_in(folder):
    return sorted(manifest.epoch for manifest in CheckpointStore(folder).manifests())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    scores=st.lists(st.sampled_from([0.0, 1.0, 2.0, 3.0, math.nan, math.inf]), min_size=1, max_size=6),
    k=st.integers(1, 3),
)
def test_the_kept_checkpoints_are_the_k_best_and_the_newest(tmp_path_factory, make_trainer, scores, k):
    """correctness 45: end to end, a score of 0.0 included."""
    folder = str(tmp_path_factory.mktemp("kept"))
    callback = CheckpointCallback(folder, save_top_k=k)
    make_trainer(Script(scores), callback, epochs=len(scores)).fit()
    finite = [(score, epoch) for epoch, score in enumerate(scores, 1) if math.isfinite(score)]
    expected = {epoch for _, epoch in sorted(finite)[:k]} | {len(scores)} | {e for _, e in finite[-1:]}
    assert set(epochs_in(folder)) == expected
    best = min(finite, default=(None, None))
    assert callback.best_score == best[0]
    if finite:
        assert CheckpointStore.read(callback.best_model_path)["state"]["epoch"] == best[1]


@pytest.mark.parametrize(("k", "kept"), [(0, []), (-1, [1, 2, 3, 4])])
def test_zero_writes_none_and_minus_one_keeps_all(tmp_path, make_trainer, k, kept):
    """correctness 45."""
    make_trainer(Script([4.0, 3.0, 2.0, 1.0]), CheckpointCallback(str(tmp_path), save_top_k=k), epochs=4).fit()
    assert epochs_in(tmp_path) == kept
    assert bool(list(tmp_path.iterdir())) == bool(kept)


@pytest.mark.parametrize("k", [-2, 1.5, True, "3"])
def test_an_impossible_number_to_keep_is_refused(k):
    with pytest.raises(ConfigError, match="save_top_k"):
        CheckpointCallback("anywhere", save_top_k=k)


def test_an_unknown_monitor_names_those_that_exist_and_loses_no_work(tmp_path, make_trainer):
    """correctness 40."""
    with pytest.raises(ConfigError, match=r"'val_iou'.*train_loss.*val_loss"):
        make_trainer(CheckpointCallback(str(tmp_path), "val_iou", "max"), epochs=2).fit()
    assert epochs_in(tmp_path) == [1]


def test_a_validation_monitor_without_validation_raises_at_the_start(tmp_path, make_trainer):
    """correctness 40."""
    trainer = make_trainer(CheckpointCallback(str(tmp_path)), validate=False, epochs=1)
    with pytest.raises(ConfigError, match="needs a val_loader"):
        trainer.fit()
    assert trainer.state.global_step == 0


def test_mode_max_keeps_the_largest(tmp_path, make_trainer):
    callback = CheckpointCallback(str(tmp_path), mode="max")
    make_trainer(Script([1.0, 5.0, 2.0]), callback, epochs=3).fit()
    assert epochs_in(tmp_path) == [2, 3]
    assert callback.best_score == 5.0


def test_the_monitor_epoch_calls_the_newest_the_best(tmp_path, make_trainer):
    """Without validation, too, and whatever the loss says."""
    callback = CheckpointCallback(str(tmp_path), "epoch", "max", save_top_k=2)
    make_trainer(callback, validate=False, epochs=4).fit()
    assert epochs_in(tmp_path) == [3, 4]
    assert callback.best_score == 4.0
    assert CheckpointStore.read(callback.best_model_path)["state"]["epoch"] == 4


class BreakAt(Callback):
    def __init__(self, epoch, value=None):
        self.epoch = epoch

    def on_step_end(self, trainer):
        if trainer.state.epoch == self.epoch:
            raise RuntimeError("crash")


def test_a_crash_deletes_no_recovery_checkpoint(tmp_path, make_trainer):
    """correctness 47."""
    with pytest.raises(RuntimeError, match="crash"):
        make_trainer(Script([1.0, 2.0, 3.0, 4.0]), CheckpointCallback(str(tmp_path)), BreakAt(3), epochs=4).fit()
    assert epochs_in(tmp_path) == [1, 3]


def test_training_that_turns_nan_keeps_a_checkpoint_to_recover_from(tmp_path, make_trainer):
    """correctness 47: the newest finite one stays beside the newest."""
    scores = [1.0, 2.0, math.nan, math.nan]
    make_trainer(Script(scores), CheckpointCallback(str(tmp_path)), epochs=4).fit()
    assert epochs_in(tmp_path) == [1, 2, 4]


def test_the_new_one_is_durable_before_the_old_one_goes(tmp_path, make_trainer, monkeypatch):
    """correctness 49: at every deletion a newer, whole checkpoint is there."""
    seen = []
    real = CheckpointStore.delete

    def checked(self, manifest):
        newest = self.latest()
        assert newest.created > manifest.created
        seen.append(self.load(newest)["state"]["epoch"])
        real(self, manifest)

    monkeypatch.setattr(CheckpointStore, "delete", checked)
    make_trainer(Script([4.0, 3.0, 2.0]), CheckpointCallback(str(tmp_path)), epochs=3).fit()
    assert seen == [2, 3]


def test_nothing_that_another_run_wrote_is_deleted(tmp_path, make_trainer):
    """correctness 52: only what this run's own manifests record; nothing else in the folder."""
    make_trainer(Script([5.0]), CheckpointCallback(str(tmp_path)), epochs=1).fit()
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path.parent / "outside.pt").write_text("mine too")
    torch.manual_seed(4)
    make_trainer(Script([3.0, 2.0, 1.0]), CheckpointCallback(str(tmp_path)), model=nn.Linear(3, 2), epochs=3).fit()
    assert epochs_in(tmp_path) == [1, 3]
    assert (tmp_path / "notes.txt").exists()
    assert (tmp_path.parent / "outside.pt").exists()


def test_the_checkpoint_resumed_from_is_never_deleted(folder, make_trainer):
    """correctness 52: though the resumed run finds better ones."""
    scores = Script([5.0, 4.0, 3.0, 2.0])
    make_trainer(scores, CheckpointCallback(folder), epochs=2).fit()
    source = CheckpointStore(folder).latest()
    make_trainer(scores, CheckpointCallback(folder), epochs=4).fit(resume_from=folder)
    kept = CheckpointStore(folder)
    assert source in kept.manifests()
    assert kept.load(source)["state"]["epoch"] == 2
    assert epochs_in(folder) == [2, 4]


def test_a_callback_that_goes_on_from_its_own_checkpoint_keeps_that_one(tmp_path, make_trainer):
    """correctness 52: here the checkpoint resumed from is this writer's own, and still not deleted."""
    callback = CheckpointCallback(str(tmp_path))
    make_trainer(Script([5.0, 4.0]), callback, epochs=2).fit()
    source = CheckpointStore(str(tmp_path)).latest()
    make_trainer(Script([5.0, 4.0, 3.0, 2.0]), callback, epochs=4).fit(resume_from=str(tmp_path))
    assert source in CheckpointStore(str(tmp_path)).manifests()


def test_what_the_run_before_a_resume_kept_is_not_deleted_by_the_one_after(tmp_path, make_trainer):
    """correctness 52: a process deletes what it wrote, though the other's are recorded and have fallen behind."""
    scores = Script([5.0, 4.0, 3.0, 2.0])
    make_trainer(scores, CheckpointCallback(str(tmp_path), save_top_k=2), epochs=2).fit()
    make_trainer(scores, CheckpointCallback(str(tmp_path), save_top_k=2), epochs=4).fit(resume_from=str(tmp_path))
    assert epochs_in(tmp_path) == [1, 2, 3, 4]


def test_best_and_counters_survive_a_resume(folder, make_trainer):
    """correctness 42, 59: the resumed run does not take its first epoch for the best ever."""
    scores = Script([1.0, 3.0, 2.0, 2.5])
    make_trainer(scores, CheckpointCallback(folder), EarlyStopping(patience=3), epochs=2).fit()
    callback = CheckpointCallback(folder)
    stopping = EarlyStopping(patience=3)
    history = make_trainer(scores, callback, stopping, epochs=9).fit(resume_from=folder)
    assert history["val_loss"] == [1.0, 3.0, 2.0, 2.5]
    assert callback.best_score == 1.0
    assert 1 in epochs_in(folder)


def test_what_early_stopping_became_in_the_epoch_is_in_its_checkpoint(tmp_path, make_trainer):
    """correctness 42: whatever the order of the list, the checkpoint is written last."""
    stopping = EarlyStopping(patience=9)
    make_trainer(CheckpointCallback(str(tmp_path)), Script([1.0, 2.0]), stopping, epochs=2).fit()
    state = CheckpointStore.read(tmp_path)["callbacks"]["EarlyStopping(val_loss, min)"]
    assert state["checks_without_improvement"] == 1


def test_a_checkpoint_holds_everything_a_resume_needs(tmp_path, make_trainer):
    """correctness 59, 60: also the averaged weights, the random states, the configuration and the versions."""
    make_trainer(CheckpointCallback(str(tmp_path)), EMA(), epochs=1).fit()
    checkpoint = CheckpointStore.read(tmp_path)
    assert set(checkpoint) == {
        "model", "optimizer", "scheduler", "scaler", "state", "history", "callbacks", "random_states", "config",
        "precision", "world_size", "versions", "running", "loaders", "modules", "module_buffers",
        "generators",
    }  # fmt: skip
    assert checkpoint["state"]["epoch"] == 1
    assert checkpoint["callbacks"]["EMA"]["weights"].keys() == checkpoint["model"].keys()
    assert {"python", "numpy", "torch", "cuda"} == set(checkpoint["random_states"][0]["now"])


def test_every_n_steps_saves_within_an_epoch(tmp_path, make_trainer):
    class Positions(Callback):
        def __init__(self):
            self.seen = []

        def on_checkpoint(self, trainer, manifest):
            self.seen.append((manifest.epoch, manifest.step, manifest.batches_done))

    positions = Positions()
    make_trainer(positions, CheckpointCallback(str(tmp_path), every_n_steps=2), epochs=2).fit()
    assert positions.seen == [(0, 2, 2), (1, 3, 0), (1, 4, 1), (1, 6, 3), (2, 6, 0)]


class AskToStop(Callback):
    def on_step_end(self, trainer):
        if trainer.state.global_step == 4:
            trainer.request_stop(StopReason.PREEMPTED)


def test_a_run_that_is_asked_to_stop_saves_where_it_stands_and_goes_on_to_the_bit(tmp_path, make_trainer):
    """correctness 62, 63, 69: in the middle of the second epoch."""
    make_trainer(CheckpointCallback(str(tmp_path)), AskToStop(), epochs=3).fit()
    newest = CheckpointStore(tmp_path).latest()
    assert newest.position == (1, 4, 1)
    resumed = make_trainer(CheckpointCallback(str(tmp_path)), epochs=3)
    history = resumed.fit(resume_from=str(tmp_path))
    whole = make_trainer(epochs=3)
    assert whole.fit() == history
    for ours, theirs in zip(resumed.module.parameters(), whole.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_only_rank_zero_touches_storage(tmp_path, make_trainer, monkeypatch):
    """correctness 54: another rank writes nothing and is told what was seen."""
    from ununennium.training import distributed

    monkeypatch.setattr(distributed, "rank", lambda: 1)
    seen = CheckpointStore(tmp_path).save({"x": 1}, epoch=1, step=1)
    before = sorted(tmp_path.iterdir())
    monkeypatch.setattr(distributed, "broadcast", lambda value: (Report([seen]), None))
    callback = CheckpointCallback(str(tmp_path))
    make_trainer(callback, epochs=1).fit()
    assert sorted(tmp_path.iterdir()) == before
    assert callback.last_model_path == seen.url


def test_a_folder_that_cannot_be_written_shows_itself_before_the_first_step(tmp_path, make_trainer):
    (tmp_path / "file").write_text("in the way")
    trainer = make_trainer(CheckpointCallback(str(tmp_path / "file" / "checkpoints")), epochs=1)
    with pytest.raises(StorageError, match="file"):
        trainer.fit()
    assert trainer.state.global_step == 0


def test_resuming_from_an_empty_folder_says_so(tmp_path, make_trainer):
    with pytest.raises(CheckpointError, match="there is no checkpoint in"):
        make_trainer(epochs=1).fit(resume_from=str(tmp_path))


@pytest.mark.parametrize("call", ["put_file", "create"])
def test_a_signal_within_a_save_ends_the_run_after_it(tmp_path, make_trainer, monkeypatch, call):
    """correctness 68, 69: asked to stop while a checkpoint is uploaded or committed: it is whole, a run goes on."""
    from ununennium.storage.local import LocalStorage

    saved = getattr(LocalStorage, call)
    trainer = make_trainer(CheckpointCallback(str(tmp_path / "killed")), epochs=3)

    def asked_to_stop(storage, *arguments):
        if trainer.state.epoch == 1 and trainer.state.stop_reason is None:
            signal.raise_signal(signal.SIGUSR1)
        return saved(storage, *arguments)

    monkeypatch.setattr(LocalStorage, call, asked_to_stop)
    old = signal.signal(signal.SIGUSR1, lambda *_: trainer.request_stop(StopReason.PREEMPTED, "asked to"))
    try:
        trainer.fit()
    finally:
        signal.signal(signal.SIGUSR1, old)
    assert (trainer.state.stop_reason, trainer.state.epoch) == (StopReason.PREEMPTED, 1)
    (manifest,) = CheckpointStore(tmp_path / "killed").manifests()
    assert manifest.position == (1, 3, 0)
    resumed = make_trainer(CheckpointCallback(str(tmp_path / "killed")), epochs=3)
    undisturbed = make_trainer(CheckpointCallback(str(tmp_path / "undisturbed")), epochs=3)
    assert resumed.fit(resume_from=str(tmp_path / "killed")) == undisturbed.fit()
    for ours, theirs in zip(resumed.module.parameters(), undisturbed.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)

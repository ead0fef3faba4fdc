"""Checkpoints are ordered by how they were written, whatever the clocks of the machines said (correctness 90)."""

from __future__ import annotations

import json
import uuid
from datetime import datetime, timedelta

import pytest

from ununennium.checkpoints import store as store_module
from ununennium.checkpoints.manifest import SavePoint, best_first, retained
from ununennium.checkpoints.savers import BackgroundSaver, upload_left
from ununennium.checkpoints.store import CheckpointStore
from ununennium.training import CheckpointCallback

DAY = timedelta(days=1)


@pytest.fixture(params=["disk", "s3"])
def place(request, tmp_path):
    """An empty folder on the local disk, and one on a real S3 server, to which checkpoints go in the background."""
    if request.param == "disk":
        return str(tmp_path / "checkpoints")
    request.getfixturevalue("s3")
    return f"s3://checkpoints/{uuid.uuid4().hex}"


@pytest.fixture
def set_clock(monkeypatch):
    """Moves the clock by which checkpoints are dated."""

    def set_to(offset):
        class Clock(datetime):
            @classmethod
            def now(cls, tz=None):
                return datetime.now(tz) + offset

        monkeypatch.setattr(store_module, "datetime", Clock)

    return set_to


def train(make_trainer, folder, epochs, *, resume=None, keep=1, lr=None):
    callback = CheckpointCallback(folder, monitor="train_loss", save_top_k=keep)
    trainer = make_trainer(callback, epochs=epochs, validate=False)
    for group in trainer.optimizer.param_groups:
        group["lr"] = lr or group["lr"]
    trainer.fit(resume_from=resume)
    return callback


def save(store, number, *, score=None, value=None):
    return store.save({"n": number, "value": value}, epoch=number, step=number, monitor="loss", score=score)


def without_generation(store):
    """Rewrite all manifests as earlier versions wrote them."""
    for manifest in store.manifests():
        values = json.loads(store.storage.read_bytes(manifest.manifest_key))
        del values["generation"]
        store.storage.delete(manifest.manifest_key)
        store.storage.create(manifest.manifest_key, json.dumps(values).encode())


@pytest.mark.slow
@pytest.mark.parametrize("skew", [-DAY, DAY], ids=["behind", "ahead"])
def test_a_run_goes_on_from_its_last_epoch_on_a_machine_with_another_clock(place, set_clock, make_trainer, skew):
    """correctness 90: three machines, the second a day off, the third right again."""
    train(make_trainer, place, 2)
    set_clock(skew)
    train(make_trainer, place, 4, resume=place)
    assert CheckpointStore(place).latest().epoch == 4
    set_clock(timedelta(0))
    callback = train(make_trainer, place, 5, resume=place)
    manifests = CheckpointStore(place).manifests()
    assert manifests[-1].epoch == 5
    assert callback.last_model_path == manifests[-1].url
    assert [manifest.epoch for manifest in manifests] == sorted(manifest.epoch for manifest in manifests)


@pytest.mark.slow
@pytest.mark.parametrize("skew", [-DAY, DAY], ids=["behind", "ahead"])
def test_a_deliberate_return_to_an_earlier_checkpoint_is_the_newest_once_it_has_written(
    place, set_clock, make_trainer, skew
):
    """correctness 90: it is behind in its position, and still what a restart goes on from."""
    train(make_trainer, place, 4, keep=-1)
    set_clock(skew)
    second = next(manifest for manifest in CheckpointStore(place).manifests() if manifest.epoch == 2)
    callback = train(make_trainer, place, 3, resume=second.url, keep=-1, lr=0.5)
    newest = CheckpointStore(place).latest()
    assert (newest.epoch, newest.url) == (3, callback.last_model_path)
    assert CheckpointStore.read(place)["state"]["epoch"] == 3
    again = train(make_trainer, place, 4, resume=place, keep=-1)
    assert CheckpointStore(place).latest().url == again.last_model_path


def test_manifests_without_a_generation_are_older_than_all_that_have_one(place, set_clock):
    """correctness 90: those of earlier versions follow each other by position, and no clock moves them."""
    set_clock(2 * DAY)
    first = CheckpointStore(place)
    for number, offset in ((1, 3 * DAY), (2, DAY), (3, 2 * DAY)):
        set_clock(offset)
        save(first, number)
    without_generation(first)
    assert [manifest.epoch for manifest in CheckpointStore(place).manifests()] == [1, 2, 3]
    set_clock(-DAY)
    new = save(CheckpointStore(place), 2, value="another")
    assert new.generation == 1
    assert [manifest.epoch for manifest in CheckpointStore(place).manifests()] == [1, 2, 3, 2]


def test_the_generation_is_one_more_than_the_largest_in_the_folder_also_of_others(folder):
    """correctness 90: two stores that write by turns."""
    one, other = CheckpointStore(folder), CheckpointStore(folder)
    written = [save(store, number) for number, store in enumerate([one, other, other, one, other], 1)]
    assert [manifest.generation for manifest in written] == [1, 2, 3, 4, 5]
    assert CheckpointStore(folder).manifests() == written


def test_the_very_state_of_an_earlier_checkpoint_saved_again_is_the_newest(folder):
    store = CheckpointStore(folder)
    first = save(store, 1)
    save(store, 2)
    again = save(CheckpointStore(folder), 1)
    assert (again.key, again.writer) == (first.key, first.writer)
    assert CheckpointStore(folder).latest() == again
    assert CheckpointStore.read(folder)["n"] == 1
    assert len(store.manifests()) == 2


@pytest.mark.parametrize("skew", [-DAY, DAY], ids=["behind", "ahead"])
def test_of_two_equal_scores_the_one_that_was_written_first_is_kept(place, set_clock, skew):
    """correctness 45, 90: on machines whose clocks disagree."""
    store = CheckpointStore(place)
    first = save(store, 1, score=0.5)
    set_clock(skew)
    others = [save(CheckpointStore(place), number, score=score) for number, score in ((2, 0.5), (3, 0.9))]
    manifests = CheckpointStore(place).manifests()
    assert best_first(manifests)[0] == CheckpointStore(place).best() == first
    assert retained(manifests, 1) == [first, others[-1]]


def test_the_rule_that_ranks_is_that_of_the_newest_whatever_its_clock(place, set_clock):
    """correctness 90: a run resumed with another monitor, on a machine that is behind."""
    save(CheckpointStore(place), 1, score=0.1)
    set_clock(-DAY)
    other = CheckpointStore(place)
    written = [
        other.save({"n": epoch}, epoch=epoch, step=epoch, monitor="val_IoU", mode="max", score=score)
        for epoch, score in ((2, 0.7), (3, 0.6))
    ]
    assert CheckpointStore(place).best() == written[0]


def test_what_is_uploaded_late_does_not_become_the_newest(s3, tmp_path, monkeypatch):
    """correctness 90: left on a machine's disk, while another went on from what had been uploaded."""
    url = f"s3://checkpoints/{uuid.uuid4().hex}"
    save(CheckpointStore(url), 1)
    monkeypatch.setenv("UNUNENNIUM_SPOOL", str(tmp_path / "first-machine"))
    store = CheckpointStore(url)
    store.look_for_generations()
    monkeypatch.setattr(store, "publish", None)  # it never gets its upload done
    saver = BackgroundSaver(store, -1, [], set())
    saver.save({"n": 2, "by": "the first"}, SavePoint(epoch=2, step=2))
    saver.flush(0.2)
    saver.close()
    other = CheckpointStore(url)
    for number in (2, 3):
        save(other, number, value="the second")
    (late,) = upload_left(url)
    assert late.epoch == 2
    assert CheckpointStore(url).latest().epoch == 3


def test_a_run_that_goes_on_in_another_folder_keeps_its_order(place, tmp_path, make_trainer):
    """correctness 90: what was written in the new folder is newer than what it was resumed from."""
    train(make_trainer, place, 3)
    elsewhere = str(tmp_path / "elsewhere")
    callback = train(make_trainer, elsewhere, 4, resume=place)
    assert [manifest.epoch for manifest in callback.kept][-1] == 4
    assert callback.last_model_path.startswith(elsewhere)

"""Checkpoints that are uploaded while training goes on: what happens when the storage, the network or the run fails."""

from __future__ import annotations

import re
import threading
import time
import uuid
from itertools import pairwise

import pytest
import torch

from ununennium.checkpoints.manifest import SavePoint, retained
from ununennium.checkpoints.savers import BackgroundSaver, upload_left
from ununennium.checkpoints.spool import Spool, spools
from ununennium.checkpoints.store import CheckpointStore
from ununennium.errors import CheckpointError, ConfigError, CredentialsError, StorageError
from ununennium.storage.open import open_storage
from ununennium.training import StopReason
from ununennium.training.callbacks import Callback, CheckpointCallback

FLUSH_S = 60.0


@pytest.fixture(autouse=True)
def spool(tmp_path, monkeypatch):
    monkeypatch.setenv("UNUNENNIUM_SPOOL", str(tmp_path / "spool"))
    return tmp_path / "spool"


@pytest.fixture
def url(s3):
    return f"s3://checkpoints/{uuid.uuid4().hex}"


@pytest.fixture
def hasty(monkeypatch):
    """Few enough seconds for a request that a test can wait for the end of all its tries."""
    monkeypatch.setenv("UNUNENNIUM_REQUEST_TIMEOUT_S", "0.7")


@pytest.fixture
def background():
    """Makes savers, and closes them."""
    made = []

    def make(url, save_top_k=1, **options):
        made.append(BackgroundSaver(CheckpointStore(url), save_top_k, [], set(), **options))
        return made[-1]

    yield make
    for saver in made:
        saver.close()


def waiting_in(spool):
    return sorted(path.name for path in spool.glob("*/*.pt"))


def save(saver, state, number, score=None):
    return saver.save(state(number), SavePoint(epoch=number, step=number, monitor="val_loss", score=score))


class At(Callback):
    """Does something at the end of an epoch's first step."""

    def __init__(self, epoch, act):
        self.epoch, self.act = epoch, act

    def on_step_end(self, trainer):
        if trainer.state.epoch == self.epoch and trainer.state.batches_done == 1:
            self.act(trainer)


class Slow(Callback):
    """Epochs that take as long as epochs do."""

    def __init__(self, seconds):
        self.seconds = seconds

    def on_step_end(self, trainer):
        time.sleep(self.seconds)


# ---------------------------------------------------------------------- what is saved


def test_object_storage_is_written_in_the_background_and_a_folder_at_once(url, tmp_path, make_trainer):
    running = {}
    for place in (url, str(tmp_path / "checkpoints")):
        names = []
        look = At(1, lambda _, names=names: names.extend(thread.name for thread in threading.enumerate()))
        make_trainer(CheckpointCallback(place), look, epochs=2).fit()
        running[place] = "checkpoint-upload" in names
    assert list(running.values()) == [True, False]
    assert "checkpoint-upload" not in [thread.name for thread in threading.enumerate()]  # joined at the end


@pytest.mark.parametrize("snapshot", [False, True])
def test_what_is_saved_is_the_state_at_that_moment(url, background, snapshot, tmp_path):
    """correctness 58: the next step changes the tensors at once, and the checkpoint has those before it."""
    url = str(tmp_path / "checkpoints") if snapshot else url
    weights = torch.arange(2e6)
    tied = {"model": {"a": weights, "b": weights}, "part": weights[5:9], "none": torch.zeros(0), "n": 1}
    saver = background(url, -1, snapshot=snapshot)
    for number in range(3):
        tied["n"] = number
        saver.save(tied, SavePoint(epoch=number, step=number))
        weights += 1.0
    assert saver.flush(FLUSH_S).waiting == []
    store = CheckpointStore(url)
    for number, manifest in enumerate(store.manifests()):
        loaded = store.load(manifest)
        assert loaded["n"] == number
        assert torch.equal(loaded["model"]["a"], torch.arange(2e6) + number)
        assert torch.equal(loaded["part"], torch.arange(5.0, 9.0) + number)
        assert loaded["model"]["a"].data_ptr() == loaded["model"]["b"].data_ptr()  # tied as before


def test_uploads_go_one_after_another_each_committed_before_the_next(proxy, url, background, state):
    """correctness 58: one in flight at most."""
    saver = background(url, -1)
    proxy.bytes_per_s = 20_000.0
    for number in range(4):
        save(saver, state, number)
    assert saver.flush(FLUSH_S).waiting == []
    puts = [request.target.rpartition("/")[2].split("?")[0] for request in proxy.requests if request.method == "PUT"]
    epochs = [(name.split("-")[0], name.rpartition(".")[2]) for name in puts]
    assert epochs == [(f"epoch%3D{number:04d}", kind) for number in range(4) for kind in ("pt", "json")]


def test_a_callback_hears_of_every_commit_once(url, make_trainer):
    seen = []

    class Listen(Callback):
        def on_checkpoint(self, trainer, manifest):
            assert CheckpointStore(url).storage.exists(manifest.manifest_key)
            seen.append(manifest.epoch)

    make_trainer(CheckpointCallback(url, save_top_k=-1), Listen(), epochs=4).fit()
    assert seen == [1, 2, 3, 4]


def test_a_snapshot_without_a_background_is_refused():
    with pytest.raises(ConfigError, match="snapshot"):
        CheckpointCallback("anywhere", background=False, snapshot=True)
    with pytest.raises(ConfigError, match="flush_s"):
        CheckpointCallback("anywhere", flush_s=float("inf"))


def test_a_snapshot_is_for_folders_and_object_storage_says_so_once(url, make_trainer, tmp_path, caplog):
    make_trainer(CheckpointCallback(url, save_top_k=-1, snapshot=True), epochs=2).fit()
    assert [record.message for record in caplog.records if "snapshot" in record.message] == [
        f"snapshot is for local folders: to {url} a save waits for a local file alone"
    ]
    assert len(CheckpointStore(url).manifests()) == 2
    caplog.clear()
    make_trainer(CheckpointCallback(tmp_path / "checkpoints", save_top_k=-1, snapshot=True), epochs=2).fit()
    assert not caplog.records
    assert len(CheckpointStore(tmp_path / "checkpoints").manifests()) == 2


def test_a_spool_that_is_gone_is_an_error_at_the_next_save(background, state, spool, tmp_path):
    """correctness 58: a snapshot's failure surfaces at the next save."""
    saver = background(str(tmp_path / "checkpoints"), snapshot=True)
    for path in spool.glob("*/*"):
        path.unlink()
    (folder,) = spool.iterdir()
    folder.rmdir()
    save(saver, state, 1)
    with pytest.raises(StorageError, match=f"no checkpoint can wait in {folder}"):
        save(saver, state, 2)


def test_two_processes_that_save_to_one_folder_have_a_spool_each(url, background, state, spool):
    one, other = background(url), background(url)
    save(one, state, 1)
    save(other, state, 2)
    assert one.folder != other.folder
    assert one.flush(FLUSH_S).waiting == other.flush(FLUSH_S).waiting == []
    assert waiting_in(spool) == []
    assert {manifest.epoch for manifest in CheckpointStore(url).manifests()} == {1, 2}  # which is first is open


# ---------------------------------------------------------------------- storage that fails


@pytest.mark.slow
def test_training_goes_on_beside_a_black_hole_and_says_what_is_not_uploaded(
    proxy, url, hasty, make_trainer, spool, caplog
):
    """The endpoint takes connections and answers nothing; the next start uploads what is left."""
    callback = CheckpointCallback(url, flush_s=2.0)
    holes = At(0, lambda _: proxy.inject("black_hole", times=10_000))
    history = make_trainer(callback, holes, Slow(0.2), epochs=12).fit()
    assert len(history["val_loss"]) == 12
    assert callback.problem is not None
    assert str(spool) in callback.problem
    warned = [record.message for record in caplog.records if "is tried again; training goes on" in record.message]
    assert len(warned) == 1  # once for an outage, not after every try
    assert 1 <= len(waiting_in(spool)) <= 2  # the best and the newest; others are superfluous
    proxy.heal()
    again = CheckpointCallback(url)
    assert make_trainer(again, epochs=12).fit(resume_from=url) == history
    assert (again.problem, waiting_in(spool)) == (None, [])
    assert CheckpointStore.read(url)["state"]["epoch"] == 12


def outage(proxy, seconds):
    """Take the server away for so long."""
    proxy.connected = False
    threading.Timer(seconds, proxy.heal).start()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [3.0, pytest.param(60.0, marks=pytest.mark.slow)])
def test_nothing_is_lost_in_an_outage(proxy, url, make_trainer, spool, caplog, seconds):
    callback = CheckpointCallback(url, save_top_k=-1, flush_s=90.0)
    make_trainer(callback, At(1, lambda _: outage(proxy, seconds)), epochs=6).fit()
    assert callback.problem is None
    assert "can be written again" in caplog.text
    assert waiting_in(spool) == []
    store = CheckpointStore(url)
    assert [store.load(manifest)["state"]["epoch"] for manifest in store.manifests()] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_a_server_that_is_killed_within_an_upload_leaves_the_old_checkpoint_and_gets_the_new_one(
    own_store, monkeypatch, background
):
    from tests.servers.fault_proxy import FaultProxy

    url = "s3://checkpoints/killed"
    with FaultProxy(own_store.port) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        saver = background(url)
        saver.save({"n": 1}, SavePoint(epoch=1, step=1, score=1.0))
        assert saver.flush(FLUSH_S).waiting == []
        killed, gone = threading.Event(), threading.Event()

        def kill(request):
            if "partNumber=2" in request.target and not killed.is_set():
                killed.set()
                own_store.kill()
                gone.set()

        proxy.on_request = kill
        saver.save({"n": 2, "large": torch.rand(6_000_000)}, SavePoint(epoch=2, step=2, score=0.5))
        assert gone.wait(60)
        own_store.start()
        store = CheckpointStore(url)
        found = [store.load(manifest)["n"] for manifest in store.manifests()]
        assert found in ([1], [1, 2], [2])
        assert saver.flush(FLUSH_S).waiting == []
        assert [store.load(manifest)["n"] for manifest in store.manifests()] == [2]


def test_wrong_credentials_are_said_before_the_first_epoch(url, make_trainer, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    trainer = make_trainer(CheckpointCallback(url), epochs=1)
    with pytest.raises(CredentialsError, match="set AWS_ACCESS_KEY_ID"):
        trainer.fit()
    assert trainer.state.global_step == 0


def test_credentials_that_cease_to_hold_do_not_end_training(proxy, url, make_trainer, spool, caplog):
    callback = CheckpointCallback(url, flush_s=FLUSH_S)
    revoke = At(1, lambda _: proxy.inject("refuse", times=10_000))
    began = time.monotonic()
    make_trainer(callback, revoke, epochs=3).fit()
    assert time.monotonic() - began < FLUSH_S / 2  # what trying again cannot mend is not waited for
    assert re.search(r"the server refused \((AccessDenied|403)", caplog.text)  # the answer to HEAD has no body
    assert "not uploaded" in callback.problem
    assert len(waiting_in(spool)) >= 1


def test_a_bit_that_flips_on_the_way_down_is_caught_and_both_hashes_named(proxy, url, state):
    store = CheckpointStore(url)
    manifest = store.save(state(1), epoch=1, step=1)
    proxy.inject("flip_down", method="GET", part=".pt", after_bytes=700)
    assert store.load(manifest)["number"] == 1  # read again
    assert [request.fault for request in proxy.requests].count("flip_down") == 1
    proxy.inject("flip_down", method="GET", part=".pt", times=2, after_bytes=700)
    with pytest.raises(CheckpointError, match=f"is damaged: .*SHA-256 [0-9a-f]{{64}}.*{manifest.sha256}"):
        store.load(manifest)


@pytest.mark.parametrize("fault", ["flip_up", "flip_down", "drop_response", "unavailable", "truncate"])
@pytest.mark.parametrize("part", [".pt", ".json"])
def test_whatever_hits_an_upload_is_caught_before_the_commit_and_mended(proxy, url, background, state, fault, part):
    saver = background(url, -1)
    method = "GET" if fault in ("flip_down", "truncate") else "PUT"
    proxy.inject(fault, method=method, part=part, after_bytes=300)
    save(saver, state, 1)
    save(saver, state, 2)
    report = saver.flush(FLUSH_S)
    assert (report.waiting, [manifest.epoch for manifest in report.kept]) == ([], [1, 2])
    proxy.heal()
    store = CheckpointStore(url)
    assert [store.load(manifest)["number"] for manifest in store.manifests()] == [1, 2]


def test_a_file_that_rots_in_the_spool_is_not_uploaded_over_and_over(proxy, url, hasty, background, state, spool):
    saver = background(url)
    proxy.connected = False
    save(saver, state, 1)
    deadline = time.monotonic() + FLUSH_S
    while not (said := saver.warnings()) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "is tried again" in said[0]
    (file,) = spool.glob("*/*.pt")
    content = bytearray(file.read_bytes())
    content[300] ^= 1
    file.write_bytes(content)
    proxy.connected = True
    assert saver.flush(FLUSH_S).waiting == []
    assert any("is lost" in text for text in saver.warnings())
    assert CheckpointStore(url).manifests() == []


# ---------------------------------------------------------------------- tries and pauses


@pytest.fixture
def blocked(tmp_path, background, state, monkeypatch):
    """A saver whose folder is a file, so that every upload fails, and the times of its tries; one has failed."""

    def make(first_pause_s, hurry_s=0.2):
        monkeypatch.setattr("ununennium.checkpoints.savers._FIRST_PAUSE_S", first_pause_s)
        monkeypatch.setattr("ununennium.checkpoints.savers._LONGEST_PAUSE_S", 300.0)
        monkeypatch.setattr("ununennium.checkpoints.savers._HURRY_S", hurry_s)
        (tmp_path / "checkpoints").touch()
        saver, tries = background(str(tmp_path / "checkpoints")), []
        publish = saver._store.publish
        monkeypatch.setattr(saver._store, "publish", lambda *a: (tries.append(time.monotonic()), publish(*a))[1])
        save(saver, state, 1)
        wait_for(lambda: saver._trouble)
        return saver, tries

    return make


def wait_for(is_so):
    deadline = time.monotonic() + FLUSH_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_pauses_between_tries_double(blocked):
    _, tries = blocked(0.1)
    wait_for(lambda: len(tries) >= 4)
    first, second, third = (later - earlier for earlier, later in pairwise(tries[:4]))
    assert first >= 0.1
    assert second >= 0.2
    assert third >= 0.4


def test_a_flush_does_not_wait_for_the_end_of_a_long_pause(blocked, tmp_path):
    saver, _ = blocked(300.0)
    (tmp_path / "checkpoints").unlink()
    assert saver.flush(FLUSH_S).waiting == []
    assert [manifest.epoch for manifest in saver.kept] == [1]


def test_a_flush_ends_when_its_time_is_up(blocked):
    saver, tries = blocked(300.0, hurry_s=300.0)
    began = time.monotonic()
    assert len(saver.flush(0.3).waiting) == 1
    assert 0.3 <= time.monotonic() - began < 30
    assert len(tries) == 1


def test_after_a_flush_there_is_no_hurry_any_more(blocked):
    saver, tries = blocked(300.0)
    saver.flush(FLUSH_S)  # one more try, after which there is no hope
    number = len(tries)
    time.sleep(1.0)
    assert len(tries) == number


def test_an_upload_that_has_begun_is_finished_though_a_newer_one_replaces_it(tmp_path, background, state, monkeypatch):
    saver = background(str(tmp_path / "checkpoints"))
    begun, may_go_on = threading.Event(), threading.Event()
    publish = saver._store.publish
    monkeypatch.setattr(saver._store, "publish", lambda *a: (begun.set(), may_go_on.wait(FLUSH_S), publish(*a))[2])
    save(saver, state, 1)
    assert begun.wait(FLUSH_S)
    save(saver, state, 2)
    assert [manifest.epoch for manifest in saver.expected()] == [2]
    assert len(saver._report().waiting) == 2
    may_go_on.set()
    report = saver.flush(FLUSH_S)
    assert [manifest.epoch for manifest in report.committed] == [1, 2]
    assert saver.warnings() == []
    assert [manifest.epoch for manifest in CheckpointStore(str(tmp_path / "checkpoints")).manifests()] == [2]


# ---------------------------------------------------------------------- runs that end


def test_an_exception_does_not_take_the_last_checkpoint_with_it(proxy, url, make_trainer, spool):
    def crash(_):
        raise RuntimeError("crash")

    proxy.bytes_per_s = 20_000.0
    with pytest.raises(RuntimeError, match="crash"):
        make_trainer(CheckpointCallback(url), At(1, crash), epochs=3).fit()
    proxy.bytes_per_s = None
    assert [manifest.epoch for manifest in CheckpointStore(url).manifests()] == [1]
    assert waiting_in(spool) == []


@pytest.mark.slow
def test_a_run_that_is_asked_to_stop_waits_for_its_upload_no_longer_than_it_may(
    proxy, url, hasty, make_trainer, spool, monkeypatch
):
    """What the launcher leaves until it kills, not ``flush_s``; the next start goes on from what is in the spool."""
    monkeypatch.setenv("UNUNENNIUM_GRACE_S", "3")

    def stop(trainer):
        proxy.inject("black_hole", times=10_000)
        trainer.request_stop(StopReason.PREEMPTED)

    callback = CheckpointCallback(url)
    trainer = make_trainer(callback, At(1, stop), epochs=3)
    began = time.monotonic()
    trainer.fit()
    assert time.monotonic() - began < 3 + 8
    assert trainer.state.stop_reason is StopReason.PREEMPTED
    assert "not uploaded" in callback.problem
    proxy.heal()
    resumed = make_trainer(CheckpointCallback(url), epochs=3)
    resumed_history = resumed.fit(resume_from=url)
    assert resumed.state.global_step == 9
    assert resumed_history == make_trainer(epochs=3).fit()


def test_what_a_process_left_is_uploaded_by_the_next(url, background, state, spool):
    folder = Spool.claim(url)
    store = CheckpointStore(url)
    with folder.new() as (path, file):
        manifest = store.serialise(state(1), path, file, SavePoint(epoch=1, step=1))
        folder.keep(path, manifest)
    (folder.folder / ".tmp-half").write_bytes(b"half")
    (folder.folder / "epoch=0002-step=00000002-aaaaaaaaaaaa.pt").write_bytes(b"no manifest")
    assert upload_left(url) == []  # it is held by a living process
    folder.release()
    assert upload_left(f"{url}/{manifest.key}") == [manifest]
    assert store.load(store.latest())["number"] == 1
    assert [path.name for path in folder.folder.iterdir() if not path.name.startswith((".lock", "dest"))] == []
    assert [each.url for each in spools()] == [url]


@pytest.mark.slow
def test_what_an_earlier_process_left_is_not_deleted_by_the_next(url, background, state):
    folder = Spool.claim(url)
    with folder.new() as (path, file):
        manifest = CheckpointStore(url).serialise(state(1), path, file, SavePoint(epoch=1, step=1, score=9.0))
        folder.keep(path, manifest)
    folder.release()
    saver = background(url)
    for number in (2, 3):
        save(saver, state, number, score=1.0 / number)
    assert saver.flush(FLUSH_S).waiting == []
    assert [each.epoch for each in CheckpointStore(url).manifests()] == [1, 3]


def test_the_kept_are_the_same_as_without_a_background(url, tmp_path, make_trainer):
    """Also where storage is too slow for every checkpoint to get there."""
    epochs = {}
    for place in (url, str(tmp_path / "checkpoints")):
        make_trainer(CheckpointCallback(place, save_top_k=2), epochs=6).fit()
        epochs[place] = [manifest.epoch for manifest in CheckpointStore(place).manifests()]
    assert epochs[url] == epochs[str(tmp_path / "checkpoints")]


def test_storage_has_no_leftovers_after_all_that(s3):
    """Uploads in parts that were begun were ended, or aborted."""
    assert [left.key for left in open_storage("s3://checkpoints").leftovers()] == []
    assert retained([], 1) == []


def test_a_smaller_state_written_over_the_file_of_a_larger_one_is_whole(url, spool, background):
    """What the spool keeps of an uploaded checkpoint to write over is nobody's checkpoint, and gone at the end."""
    saver = background(url, save_top_k=-1)
    states = [{"model": torch.full((values,), 1.0 + values)} for values in (100_000, 10, 50_000)]
    for number, state in enumerate(states, 1):
        saver.save(state, SavePoint(epoch=number, step=number))
        assert saver.flush(FLUSH_S).waiting == []
        assert waiting_in(spool) == []
    assert list(spool.glob("*/.tmp-*")) != []
    store = CheckpointStore(url)
    for manifest, state in zip(store.manifests(), states, strict=True):
        assert torch.equal(store.load(manifest)["model"], state["model"])
    saver.close()
    assert list(spool.glob("*/.tmp-*")) == []

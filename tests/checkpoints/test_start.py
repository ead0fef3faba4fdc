"""A start is as patient as what follows it, and leaves nothing behind (correctness 92)."""

from __future__ import annotations

import os
import stat
import time
import uuid
from pathlib import Path

import pytest

from tests.checkpoints.test_registry import PASSED, add
from ununennium.checkpoints.manifest import SavePoint
from ununennium.checkpoints.registry import Registry
from ununennium.checkpoints.savers import upload_left
from ununennium.checkpoints.store import CheckpointStore
from ununennium.errors import ConfigError, StorageError, StorageUnavailable
from ununennium.storage import patience
from ununennium.storage.open import check_exclusive, check_writable, open_storage
from ununennium.training import CheckpointCallback

BURST = 6
"""More than the four tries of one request."""


@pytest.fixture
def url(s3):
    return f"s3://checkpoints/{uuid.uuid4().hex}"


@pytest.mark.parametrize("times", [1, 3, BURST])
def test_a_probe_whose_answer_is_lost_is_known_again_and_removed(proxy, url, times):
    """correctness 92: the server has it, the client tries again, and is told that it exists."""
    storage = open_storage(url)
    for check in (check_exclusive, check_writable):
        proxy.inject("drop_response", method="PUT", part="probe-", times=times)
        assert check(storage) in (True, None)
        assert "drop_response" in [request.fault for request in proxy.requests]
        proxy.heal()
    assert storage.list() == []


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_a_probe_waits_out_a_burst_of_503(proxy, url, method):
    storage = open_storage(url)
    proxy.inject("unavailable", method=method, part="probe-", times=BURST)
    assert check_exclusive(storage)
    assert storage.list() == []


@pytest.mark.parametrize("first", ["listing", "resume", "head", "version", "alias"])
def test_the_first_requests_to_a_folder_and_a_registry_wait_out_a_burst_of_503(proxy, url, tmp_path, first):
    """correctness 92: whichever of them comes first."""
    CheckpointStore(url).save({"n": 1}, epoch=1, step=1)
    registry = Registry(url, "roofs")
    version = add(registry, tmp_path, 1)
    registry.promote(version, expected_generation=0, gate=PASSED, actor="a", run_id="r")
    registry.set_alias("staging", version, actor="a")
    uses = {
        "listing": lambda: CheckpointStore(url).latest().epoch == 1,
        "resume": lambda: CheckpointStore.read(url)["n"] == 1,
        "head": lambda: Registry(url, "roofs").current().version == version,
        "version": lambda: Registry(url, "roofs").contract(version)["run_id"] == "run",
        "alias": lambda: Registry(url, "roofs").resolve("staging") == version,
    }
    proxy.inject("unavailable", method="GET", times=BURST)
    assert uses[first]()


def test_a_run_that_starts_within_a_slow_down_trains_and_leaves_no_probe(proxy, url, make_trainer):
    """correctness 92: the first requests of every kind are refused, and answers of the first writes are lost."""
    proxy.inject("drop_response", method="PUT", part="probe-")
    for method in ("PUT", "GET", "DELETE"):
        proxy.inject("unavailable", method=method, times=4)
    make_trainer(CheckpointCallback(url), epochs=1).fit()
    assert CheckpointStore(url).latest().epoch == 1
    assert not [key for key in open_storage(url).list() if "probe" in key]


@pytest.mark.slow
def test_storage_that_stays_away_is_an_error_that_names_it(proxy, url, monkeypatch):
    monkeypatch.setattr(patience, "PATIENCE_S", 1.0)
    storage = open_storage(url)
    proxy.connected = False
    for use in (lambda: check_exclusive(storage), CheckpointStore(url).latest, Registry(url, "roofs").current):
        began = time.monotonic()
        with pytest.raises(StorageUnavailable, match=f"{url}.*for now"):
            use()
        assert time.monotonic() - began < 20
    proxy.heal()
    assert storage.list() == []


def test_an_exclusive_create_whose_answer_is_lost_is_its_own_and_nobody_elses(proxy, url):
    """correctness 92: by a token beside the bytes, as another writer may have written the same."""
    storage, other = open_storage(url), open_storage(url)
    proxy.inject("drop_response", method="PUT")
    storage.create("x.json", b"{}")
    assert "drop_response" in [request.fault for request in proxy.requests]
    for again in (storage, other):
        with pytest.raises(FileExistsError):
            again.create("x.json", b"{}")


def test_what_waits_for_its_upload_is_uploaded_through_a_burst_of_503(proxy, url, tmp_path, monkeypatch):
    from ununennium.checkpoints.spool import Spool

    monkeypatch.setenv("UNUNENNIUM_SPOOL", str(tmp_path / "spool"))
    store = CheckpointStore(url)
    spool = Spool.claim(store.storage.root)
    with spool.new() as (path, file):
        spool.keep(path, store.serialise({"n": 1}, path, file, SavePoint(epoch=1, step=1)))
    spool.release()
    proxy.inject("unavailable", method="PUT", times=BURST)
    assert [manifest.epoch for manifest in upload_left(url)] == [1]
    assert CheckpointStore.read(url)["n"] == 1


def test_a_probe_that_cannot_be_written_leaves_nothing_on_a_disk(tmp_path, monkeypatch):
    """correctness 92: also if it was written, and only forcing it to the disk failed."""
    storage = open_storage(str(tmp_path / "runs"))

    def fail(*_):
        raise StorageError("the second create fails")

    real, calls = type(storage).create, []

    def second_fails(self, key, data):
        calls.append(key)
        fail() if len(calls) > 1 else real(self, key, data)

    monkeypatch.setattr(type(storage), "create", second_fails)
    with pytest.raises(StorageError, match="second create fails"):
        check_exclusive(storage)
    assert storage.list() == []


@pytest.mark.parametrize(
    ("url", "words"),
    [
        *(("s3://", "names no bucket"), ("s3:///", "names no bucket"), ("gs://", "names no bucket")),
        *(
            ("file://", "names no bucket or folder"),
            ("github://b/x", "cannot be opened"),
            ("http://", "names no bucket"),
        ),
        *(("s3:/bucket/runs", "write 's3://bucket/runs'"), ("file:/data", "write 'file://data'")),
        *(("s4://bucket", "fsspec knows"), ("", "give a folder"), ("://x", "names no scheme")),
    ],
)
def test_a_url_that_leads_nowhere_is_refused_by_name_and_makes_no_folder(url, words, tmp_path, monkeypatch):
    """correctness 92: not taken for a local folder."""
    monkeypatch.chdir(tmp_path)
    for use in (open_storage, CheckpointStore, lambda url: Registry(url, "roofs")):
        with pytest.raises(ConfigError, match=r"^storage = ") as caught:
            use(url)
        assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["dir.pt", "run.json", "epoch=0001-step=00000001-aaaaaaaaaaaa.pt"])
def test_a_folder_with_the_name_of_a_file_is_a_folder(tmp_path, make_trainer, name):
    """correctness 92: to resume from, and to upload what waits for it."""
    place = str(tmp_path / name)
    make_trainer(CheckpointCallback(place), epochs=1).fit()
    trainer = make_trainer(CheckpointCallback(place), epochs=2)
    trainer.fit(resume_from=place)
    assert trainer.state.epoch == 2
    assert CheckpointStore.at(place)[1][-1].epoch == CheckpointStore.read(f"{place}/")["state"]["epoch"] == 2
    assert upload_left(place) == []


# ---------------------------------------------------------------------- what a disk has to be told


@pytest.mark.parametrize("way", ["create", "put_file", "draft", "delete"])
def test_a_commit_on_a_disk_is_forced_with_its_folder_after_it_has_its_name(tmp_path, monkeypatch, way):
    """correctness 49: after a power cut a file whose folder was not forced may have no name."""
    storage = open_storage(str(tmp_path / "new" / "runs"))
    (tmp_path / "local").write_bytes(b"x")
    if way == "delete":
        storage.create("a/x", b"x")
    done: list[tuple[str, str]] = []
    for name in ("link", "replace", "unlink"):
        real = getattr(os, name)

        def named(*paths, _real=real, _name=name):
            _real(*paths)
            if ".tmp-" not in str(paths[-1]):
                done.append((_name, str(paths[-1])))

        monkeypatch.setattr(os, name, named)
    fsync = os.fsync

    def forced(descriptor):
        fsync(descriptor)
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        done.append((kind, os.readlink(f"/proc/self/fd/{descriptor}")))

    monkeypatch.setattr(os, "fsync", forced)
    if way == "create":
        storage.create("a/x", b"x")
    elif way == "put_file":
        storage.put_file(tmp_path / "local", "a/x")
    elif way == "draft":
        with storage.draft() as (path, file):
            file.write(b"x")
            file.flush()
            storage.put_file(path, "a/x")
    else:
        storage.delete("a/x")
    folder = tmp_path / "new" / "runs" / "a"
    verb = {"create": "link", "delete": "unlink"}.get(way, "replace")
    named_at = done.index((verb, str(folder / "x")))
    assert ("folder", str(folder)) in done[named_at + 1 :]
    if way != "delete":
        assert "file" in [kind for kind, _ in done[:named_at]]
        assert {("folder", str(path)) for path in (tmp_path, tmp_path / "new", folder.parent)} <= set(done)
    assert Path(folder, "x").exists() is (way != "delete")

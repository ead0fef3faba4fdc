"""What remote storage gave is kept by its hash, checked each time, and never more of it than allowed."""

from __future__ import annotations

import os
import subprocess
import threading
import time
import uuid

import pytest
import torch

from ununennium.checkpoints import object_cache as load_cache
from ununennium.checkpoints.artifact import load_artifact
from ununennium.checkpoints.janitor import find_leftovers
from ununennium.checkpoints.object_cache import ExpectedObject, open_verified
from ununennium.checkpoints.registry import Registry
from ununennium.checkpoints.store import CheckpointStore
from ununennium.errors import CheckpointError, ConfigError
from ununennium.storage.open import open_storage

from .test_registry import add


@pytest.fixture(autouse=True)
def folder_of_copies(monkeypatch, tmp_path, no_copies):
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("UNUNENNIUM_LOAD_CACHE_GB", "0.1")
    return tmp_path / "cache" / "objects"


@pytest.fixture
def url(s3):
    return f"s3://checkpoints/{uuid.uuid4().hex}"


def downloads(proxy):
    return sum(request.method == "GET" and ".pt" in request.target for request in proxy.requests)


def test_what_was_downloaded_once_is_not_downloaded_again(proxy, url, state, folder_of_copies):
    store = CheckpointStore(url)
    manifest = store.save(state(1), epoch=1, step=1)
    read_back = downloads(proxy)
    assert CheckpointStore(url).load(manifest)["number"] == 1
    assert downloads(proxy) == read_back + 1
    assert CheckpointStore(url).load(manifest)["number"] == 1
    assert downloads(proxy) == read_back + 1
    assert [path.name for path in folder_of_copies.iterdir()] == [manifest.sha256]


def test_a_copy_that_rots_is_noticed_and_downloaded_again(proxy, url, state, folder_of_copies, caplog):
    store = CheckpointStore(url)
    manifest = store.save(state(1), epoch=1, step=1)
    store.load(manifest)
    copy = folder_of_copies / manifest.sha256
    content = bytearray(copy.read_bytes())
    content[300] ^= 1
    copy.write_bytes(content)
    before = downloads(proxy)
    assert torch.equal(store.load(manifest)["model"]["weight"], state(1)["model"]["weight"])
    assert downloads(proxy) == before + 1
    assert "is damaged: it is removed" in caplog.text
    assert store.is_whole(manifest)
    assert store.load(manifest)["number"] == 1
    assert downloads(proxy) == before + 2  # is_whole looks at the object itself


def test_what_arrives_damaged_twice_is_an_error_and_not_kept(proxy, url, state, folder_of_copies):
    store = CheckpointStore(url)
    manifest = store.save(state(1), epoch=1, step=1)
    proxy.inject("flip_down", method="GET", part=".pt", times=2, after_bytes=700)
    with pytest.raises(CheckpointError, match=f"SHA-256 [0-9a-f]{{64}}.*{manifest.sha256}; resume from another"):
        store.load(manifest)
    assert list(folder_of_copies.iterdir()) == []
    assert store.load(manifest)["number"] == 1


@pytest.mark.slow
def test_a_promoted_model_comes_from_its_copy_and_is_verified_without_it(proxy, url, tmp_path, folder_of_copies):
    registry = Registry(url, "roofs")
    version = add(registry, tmp_path, 1)
    place = registry.version_url(version)
    load_artifact(place)
    assert len(list(folder_of_copies.iterdir())) == 1
    open_storage(place).delete("model.safetensors")
    load_artifact(place)
    with pytest.raises(CheckpointError, match="is no model artefact"):
        load_artifact(place, cached=False)  # as `registry verify` does


def test_a_folder_on_the_disk_is_not_copied(tmp_path, state, folder_of_copies):
    store = CheckpointStore(tmp_path / "checkpoints")
    store.load(store.save(state(1), epoch=1, step=1))
    assert not folder_of_copies.exists()


def put(storage, number, size_bytes):
    """An object of so many bytes, and what it has to be."""
    import hashlib

    content = bytes([number]) * size_bytes
    storage.create(f"{number}", content)
    return f"{number}", ExpectedObject(hashlib.sha256(content).hexdigest(), size_bytes, "the test", "try again")


def fetch(storage, key, expected):
    with open_verified(storage, key, expected) as path:
        return path.read_bytes()


def test_the_copies_used_last_stay_within_the_limit(url, monkeypatch, folder_of_copies):
    monkeypatch.setenv("UNUNENNIUM_LOAD_CACHE_GB", "0.0000035")  # 3,500 bytes
    storage = open_storage(url)
    made = [put(storage, number, 1000) for number in range(4)]
    for age, (key, expected) in enumerate(made[:3]):
        fetch(storage, key, expected)
        past = time.time() - 100 + age
        os.utime(folder_of_copies / expected.sha256, (past, past))
    fetch(storage, *made[0])  # used again: the second is the oldest now
    fetch(storage, *made[3])
    kept = {path.name for path in folder_of_copies.iterdir()}
    assert kept == {made[number][1].sha256 for number in (0, 2, 3)}
    large = put(storage, 9, 4000)
    assert len(fetch(storage, *large)) == 4000  # larger than all that may be kept: it pushes nothing out
    assert {path.name for path in folder_of_copies.iterdir()} == kept


def test_a_copy_that_is_in_use_may_be_pushed_out_by_another_reader(url, folder_of_copies):
    storage = open_storage(url)
    key, expected = put(storage, 1, 1000)
    fetch(storage, key, expected)
    with open_verified(storage, key, expected) as path:
        (folder_of_copies / expected.sha256).unlink()
        assert path.read_bytes() == bytes([1]) * 1000
    assert list(folder_of_copies.iterdir()) == []


@pytest.mark.slow
def test_readers_at_once_each_have_the_whole(url, folder_of_copies):
    storage = open_storage(url)
    key, expected = put(storage, 1, 200_000)
    found, barrier = [], threading.Barrier(6)

    def read():
        own = open_storage(url)
        barrier.wait()
        found.append(fetch(own, key, expected) == bytes([1]) * 200_000)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 6
    assert [path.name for path in folder_of_copies.iterdir()] == [expected.sha256]


def test_a_cache_that_cannot_be_written_costs_a_download_and_no_more(url, monkeypatch, tmp_path, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path / "file"))
    storage = open_storage(url)
    key, expected = put(storage, 1, 1000)
    assert len(fetch(storage, key, expected)) == 1000
    assert "are not kept in" in caplog.text


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KB."""
    folder = tmp_path / "small"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True, timeout=20)


def test_a_full_disk_of_the_cache_costs_a_download_and_no_more(url, monkeypatch, small_disk, caplog):
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(small_disk))
    storage = open_storage(url)
    key, expected = put(storage, 1, 1_000_000)
    assert fetch(storage, key, expected) == bytes([1]) * 1_000_000
    assert "are not kept in" in caplog.text
    assert list((small_disk / "objects").iterdir()) == []  # what was begun there is gone


@pytest.mark.parametrize("text", ["-1", "much", "nan", "inf"])
def test_a_limit_that_is_none_is_refused(monkeypatch, text):
    monkeypatch.setenv("UNUNENNIUM_LOAD_CACHE_GB", text)
    with pytest.raises(ConfigError, match="UNUNENNIUM_LOAD_CACHE_GB"):
        load_cache.limit()


def test_the_janitor_takes_what_is_over_the_limit_unused_or_unfinished(url, monkeypatch, folder_of_copies):
    storage = open_storage(url)
    now = time.time()
    for number, days in enumerate((40, 3, 2)):
        key, expected = put(storage, number, 1000)
        fetch(storage, key, expected)
        os.utime(folder_of_copies / expected.sha256, (now - days * 86400, now - days * 86400))
    (folder_of_copies / ".ununennium-killed").write_bytes(b"half")

    def found(at):
        return {finding.reason: finding for finding in find_leftovers(storage, now=at) if finding.remove}

    assert list(found(now)) == ["nobody has used it for 40 days"]
    monkeypatch.setenv("UNUNENNIUM_LOAD_CACHE_GB", "0.0000015")
    reasons = found(now + 2 * 86400)
    assert set(reasons) == {"whoever began it is gone", "all copies together have more than 1.5e-06 GB"}
    for finding in find_leftovers(storage, now=now + 2 * 86400):
        finding.remove()
    assert len(list(folder_of_copies.iterdir())) == 1

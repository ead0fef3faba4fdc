"""Checkpoints are complete or absent, checked when read, and never lost by being replaced."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import pickle
import random
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ununennium.checkpoints.manifest import Manifest, SavePoint, retained
from ununennium.checkpoints.read_back import read_back
from ununennium.checkpoints.store import CheckpointStore
from ununennium.errors import CheckpointError, StorageError, StorageUnavailable
from ununennium.storage.open import open_storage

ROOT = Path(__file__).parents[2]


def save(store, state, number=0, score=None, **position):
    arguments = {"epoch": number, "step": number, "monitor": "val_loss", "score": score, **position}
    return store.save(state(number), **arguments)


def test_what_is_saved_is_loaded_by_another_store(folder, state):
    manifest = save(CheckpointStore(folder), state, 3, score=0.5)
    other = CheckpointStore(folder)
    assert other.manifests() == [manifest]
    loaded = other.load(other.latest())
    assert loaded["number"] == 3
    assert torch.equal(loaded["model"]["weight"], state(3)["model"]["weight"])
    assert CheckpointStore.read(folder)["number"] == CheckpointStore.read(manifest.url)["number"] == 3


def test_the_name_holds_the_hash_of_the_content(folder, state):
    manifest = save(CheckpointStore(folder), state, 1)
    content = open_storage(folder).read_bytes(manifest.key)
    assert manifest.sha256 == hashlib.sha256(content).hexdigest()
    assert manifest.sha256[:12] in manifest.key
    assert manifest.size_bytes == len(content)


def test_everything_a_user_may_hold_loads_with_weights_only(folder):
    """correctness 57: NumPy values, paths and enums become what weights_only accepts; tensors come to the CPU."""
    store = CheckpointStore(folder)
    value = {
        "scalar": np.float64(0.25), "array": np.arange(3), "path": Path("/a/b"), "ordered": OrderedDict(a=1),
        "nested": [np.int32(4), {"flag": np.bool_(True)}], "nothing": None, "random": random.getstate(),
        "numpy": np.random.default_rng(1).bit_generator.state, "legacy": np.random.RandomState(1).get_state(),
        "torch": torch.get_rng_state(),
    }  # fmt: skip
    loaded = store.load(store.save(value, epoch=1, step=1))
    assert loaded["scalar"] == 0.25
    assert loaded["array"].tolist() == [0, 1, 2]
    assert loaded["path"] == "/a/b"
    assert loaded["nested"][1]["flag"] is True
    random.Random().setstate(loaded["random"])
    assert loaded["random"] == value["random"]
    assert loaded["numpy"] == value["numpy"]
    assert loaded["legacy"][1].tolist() == value["legacy"][1].tolist()
    assert torch.equal(loaded["torch"], value["torch"])


def test_a_malicious_pickle_does_not_run(folder, tmp_path):
    """correctness 57: a checkpoint whose hash is right is still loaded with weights_only."""

    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "ran"),))

    store = CheckpointStore(folder)
    good = store.save({"a": 1}, epoch=1, step=1)
    payload = pickle.dumps(Evil())
    (tmp_path / "evil").write_bytes(payload)
    content = json.loads(store.storage.read_bytes(good.manifest_key))
    store.storage.put_file(tmp_path / "evil", good.key)
    content |= {"sha256": hashlib.sha256(payload).hexdigest(), "size_bytes": len(payload)}
    forged = Manifest.from_dict({**good.to_dict(), **content}, url=good.url)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        store.load(forged)
    assert not (tmp_path / "ran").exists()


def test_a_reader_sees_only_what_has_a_manifest(folder, state):
    """correctness 50: the manifest, not a listing of blobs, says what exists."""
    store = CheckpointStore(folder)
    save(store, state, 1)
    store.storage.create("epoch=0009-step=00000009-aaaaaaaaaaaa.pt", b"an upload that never ended")
    assert [m.epoch for m in store.manifests()] == [1]
    with pytest.raises(CheckpointError, match="never committed"):
        CheckpointStore.read(f"{store.storage.root}/epoch=0009-step=00000009-aaaaaaaaaaaa.pt")


def test_the_manifest_is_created_after_the_blob(folder, state, monkeypatch):
    """correctness 50: payload first, manifest last."""
    store = CheckpointStore(folder)
    order = []
    for name in ("put_file", "create"):
        real = getattr(store.storage, name)
        monkeypatch.setattr(store.storage, name, lambda *a, _r=real, _n=name: (order.append(_n), _r(*a))[1])
    save(store, state, 1)
    assert order == ["put_file", "create"]


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_damage_is_found_before_anything_is_parsed(tmp_path, state, damage):
    """correctness 49: size and hash are checked, and the error names both hashes."""
    store = CheckpointStore(tmp_path)
    manifest = save(store, state, 1)
    blob = tmp_path / manifest.key
    content = bytearray(blob.read_bytes())
    if damage == "flip":
        content[len(content) // 2] ^= 1
    blob.write_bytes({"flip": content, "truncate": content[:-9], "empty": b""}[damage])
    with pytest.raises(CheckpointError, match=f"SHA-256 [0-9a-f]{{64}}.*{manifest.sha256}"):
        store.load(manifest)


def test_a_folder_with_a_damaged_newest_checkpoint_gives_the_one_before(tmp_path, state):
    store = CheckpointStore(tmp_path)
    save(store, state, 1)
    newest = save(store, state, 2)
    (tmp_path / newest.key).write_bytes(b"ruined")
    assert CheckpointStore.read(tmp_path)["number"] == 1


class Unserialisable:
    def __reduce__(self):
        raise RuntimeError("this cannot be saved")


def test_a_failure_while_serialising_leaves_the_store_as_it_was(folder, state):
    """correctness 51: on file:// and memory://."""
    store = CheckpointStore(folder)
    first = save(store, state, 1)
    before = store.storage.list()
    with pytest.raises(CheckpointError):
        store.save({"model": torch.zeros(3), "bad": Unserialisable()}, epoch=2, step=2)
    assert store.storage.list() == before
    assert store.load(first)["number"] == 1


def test_a_full_disk_while_spooling_loses_nothing_and_says_so(tmp_path, state):
    """A real full filesystem where one may be mounted, else the device that is always full."""
    store = CheckpointStore(tmp_path / "checkpoints")
    first = save(store, state, 1)
    full = tmp_path / "spool"
    full.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(full)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small filesystem is not permitted here")
    try:
        small = CheckpointStore(tmp_path / "checkpoints", spool=full)
        with pytest.raises(StorageError, match=r"no space left.*everything saved before is intact"):
            small.save({"big": torch.zeros(1 << 18)}, epoch=2, step=2)
    finally:
        subprocess.run(["umount", str(full)], check=True)
    assert store.manifests() == [first]
    assert store.load(first)["number"] == 1


def test_a_full_store_loses_nothing_and_says_so(folder, state, monkeypatch):
    """A disk that fills up while uploading."""
    store = CheckpointStore(folder)
    first = save(store, state, 1)

    def full(*_):
        raise StorageError("no space left to write") from OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(store.storage, "put_file", full)
    with pytest.raises(StorageError, match="no space left"):
        save(store, state, 2)
    monkeypatch.undo()
    assert [m.epoch for m in store.manifests()] == [1]
    assert store.load(first)["number"] == 1


def test_a_failed_delete_is_logged_and_tried_again(folder, state, monkeypatch, caplog):
    """correctness 53: never fatal."""
    store = CheckpointStore(folder)
    old = save(store, state, 1)
    real = store.storage.delete

    def refuse(key):
        raise StorageError(f"{key} could not be deleted")

    monkeypatch.setattr(store.storage, "delete", refuse)
    store.delete(old)
    assert "tried again" in caplog.text
    assert CheckpointStore(folder).load(old)["number"] == 1
    monkeypatch.setattr(store.storage, "delete", real)
    new = save(store, state, 2)
    assert store.manifests() == [new]
    assert store.storage.list() == sorted([new.key, new.manifest_key])


def test_a_delete_takes_the_manifest_first(folder, state, monkeypatch):
    """correctness 49, 50: no manifest ever points to a missing blob."""
    store = CheckpointStore(folder)
    manifest = save(store, state, 1)
    order, real = [], store.storage.delete
    monkeypatch.setattr(store.storage, "delete", lambda key: (order.append(key), real(key)))
    store.delete(manifest)
    assert order == [manifest.manifest_key, manifest.key]


def test_a_manifest_that_cannot_be_read_is_warned_of_and_left_out(folder, state, caplog):
    store = CheckpointStore(folder)
    manifest = save(store, state, 1)
    store.storage.create("epoch=0002-step=00000002-bbbbbbbbbbbb.json", b"{ torn")
    assert store.manifests() == [manifest]
    assert "epoch=0002" in caplog.text


def test_saving_the_same_state_again_is_the_same_checkpoint(folder, state):
    store = CheckpointStore(folder)
    assert save(store, state, 1) == save(store, state, 1)
    assert len(store.manifests()) == 1


@pytest.mark.slow
def test_many_calls_of_a_killed_save_leave_the_older_checkpoint_whole(tmp_path):
    """correctness 49, 50: killed at every I/O call of a save and of the deletion that follows, enumerated."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def run(folder, call):
        return subprocess.run(
            [sys.executable, "-m", "tests.checkpoints.killed_save", str(folder), str(call)],
            cwd=ROOT, env=environment, capture_output=True, text=True,
            timeout=240, check=False,
        )  # fmt: skip

    counted = run(tmp_path / "whole", 0)
    assert counted.returncode == 0, counted.stderr
    calls = int(counted.stdout)
    assert calls >= 8
    finished = run(tmp_path, f"each {calls}")
    assert finished.returncode == 0, finished.stderr
    outcomes = json.loads(finished.stdout)
    assert len(outcomes) == calls
    for outcome in outcomes:
        assert outcome["killed"] is True
        assert outcome["complete"], outcome  # at least one checkpoint is whole
        assert set(outcome["complete"]) <= {1, 2}
        assert outcome["dangling"] == []  # every manifest points to a whole blob
        assert outcome["after_restart"] == [2]  # the restart saves again, deletes the old one, and repairs


finite_or_not = st.one_of(st.integers(-5, 5).map(float), st.just(0.0), st.just(math.nan), st.just(math.inf), st.none())


def _manifest(number, score, mode):
    return Manifest(
        key=f"epoch={number:04d}-step={number:08d}-{'0' * 12}.pt", epoch=number, step=number, batches_done=0,
        size_bytes=1, sha256="0" * 64, created=f"2026-01-01T00:00:{number:02d}.000000+00:00", writer="w",
        monitor="val_loss", mode=mode, score=score, metrics={}, versions={}, url="",
    )  # fmt: skip


@settings(max_examples=300)
@given(scores=st.lists(finite_or_not, max_size=12), k=st.integers(-1, 4), mode=st.sampled_from(["min", "max"]))
def test_the_kept_are_the_k_best_finite_ones_and_the_newest(scores, k, mode):
    """correctness 45, 47: for any sequence of scores, saved one after the other; a tie keeps the older."""
    kept = []
    for number, score in enumerate(scores):
        kept = retained([*kept, _manifest(number, score, mode)], k)
    finite = [(s, n) for n, s in enumerate(scores) if s is not None and math.isfinite(s)]
    ranked = sorted(finite, key=lambda pair: (pair[0] if mode == "min" else -pair[0], pair[1]))
    best = {n for _, n in (ranked if k == -1 else ranked[: max(k, 0)])}
    newest = {len(scores) - 1} if scores else set()
    newest_finite = {finite[-1][1]} if finite else set()
    expected = set(range(len(scores))) if k == -1 else set() if k == 0 else best | newest | newest_finite
    assert {manifest.epoch for manifest in kept} == expected


def test_a_store_in_memory_is_really_in_memory(state):
    store = CheckpointStore("memory://a-name-of-its-own/checkpoints")
    manifest = save(store, state, 1)
    assert fsspec.filesystem("memory").exists(f"/a-name-of-its-own/checkpoints/{manifest.key}")
    fsspec.filesystem("memory").rm("/a-name-of-its-own", recursive=True)


def test_what_was_stored_otherwise_than_written_is_taken_back(folder, state, tmp_path):
    """correctness 49: the upload is read back; the error names both hashes, and what is older stays."""
    store, path = CheckpointStore(folder), tmp_path / "spooled.pt"
    old = save(store, state, 1)
    with path.open("wb") as file:
        manifest = store.serialise(state(2), path, file, SavePoint(epoch=2, step=2))
    whole = path.read_bytes()
    path.write_bytes(whole[:-9])
    with pytest.raises(
        StorageUnavailable, match=f"{len(whole) - 9} bytes instead of {len(whole)}; it is not committed"
    ):
        store.publish(manifest, path)
    content = bytearray(whole)
    content[300] ^= 1
    path.write_bytes(content)
    with pytest.raises(StorageUnavailable, match=f"SHA-256 [0-9a-f]{{64}} instead of .*{manifest.sha256}"):
        store.publish(manifest, path)
    assert store.manifests() == [old]
    assert not store.storage.exists(manifest.key)
    path.write_bytes(whole)
    assert store.publish(manifest, path) == manifest
    assert store.load(manifest)["number"] == 2


def test_what_only_could_not_be_read_back_is_not_uploaded_again(folder, state, tmp_path, monkeypatch):
    """correctness 49: committed, but nothing older goes before it has been read back."""
    store, path = CheckpointStore(folder), tmp_path / "spooled.pt"
    with path.open("wb") as file:
        manifest = store.serialise(state(1), path, file, SavePoint(epoch=1, step=1))

    def away(*_):
        raise StorageUnavailable("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(store.storage, "chunks", away)
        with pytest.raises(StorageUnavailable, match="no answer"):
            store.publish(manifest, path)
    assert store.is_unproven(manifest)
    assert CheckpointStore(folder).load(manifest)["number"] == 1
    with monkeypatch.context() as patched:
        patched.setattr(store.storage, "put_file", away)
        assert store.publish(manifest, path) == manifest
    assert not store.is_unproven(manifest)


def test_torch_keeps_its_own_checksums_elsewhere(tmp_path, state):
    """We leave out torch's CRC-32, as our SHA-256 covers it; whoever else calls torch.save still gets it."""
    save(CheckpointStore(tmp_path / "checkpoints"), state, 1)
    torch.save(state(1), tmp_path / "own.pt")
    with zipfile.ZipFile(tmp_path / "own.pt") as archive:
        assert archive.testzip() is None


def test_a_large_state_is_hashed_as_it_is_written(tmp_path):
    """In a thread beside the one that writes, with pieces forced to the disk meanwhile: in order all the same."""
    values = {f"layer{number}": torch.full((1 << 20,), float(number)) for number in range(20)}
    store = CheckpointStore(tmp_path)
    manifest = store.save({"model": values, "small": [torch.ones(2)] * 3}, epoch=1, step=1)
    assert manifest.sha256 == hashlib.sha256((tmp_path / manifest.key).read_bytes()).hexdigest()
    loaded = store.load(manifest)["model"]
    assert all(torch.equal(loaded[name], value) for name, value in values.items())


@pytest.mark.parametrize("call", ["_force_data", "fsync"])
def test_a_disk_that_fails_while_it_is_written_is_an_error(tmp_path, state, monkeypatch, call):
    """Also where the system tells the error to the thread that forces ahead, and to nobody afterwards."""
    from ununennium.checkpoints import serialise

    store = CheckpointStore(tmp_path)
    old = save(store, state, 1)

    def fail(descriptor):
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(serialise if call == "_force_data" else serialise.os, call, fail)
        with pytest.raises(Exception, match="Input/output error"):
            store.save({"large": [torch.zeros(1 << 20) for _ in range(20)]}, epoch=2, step=2)
    assert store.manifests() == [old]


def test_a_checkpoint_that_could_not_be_deleted_stays_if_it_is_saved_again(folder, state, monkeypatch):
    store = CheckpointStore(folder)
    first, second = save(store, state, 1), save(store, state, 2)

    def refuse(key):
        raise StorageError(f"{key} is locked")

    with monkeypatch.context() as patch:
        patch.setattr(store.storage, "delete", refuse)
        store.delete(first)
        store.delete(second)
    save(store, state, 1)
    assert [manifest.epoch for manifest in store.manifests()] == [1]
    assert store.load(first)["number"] == 1


@pytest.mark.parametrize("wrong", [1, 2])
def test_an_upload_is_read_back_twice_at_most(tmp_path, state, monkeypatch, wrong):
    store = CheckpointStore(str(tmp_path / "checkpoints"))
    found = []

    def read(storage, key):
        found.append(read_back(storage, key))
        return found[-1] if len(found) > wrong else (0, "damaged")

    monkeypatch.setattr("ununennium.checkpoints.store.read_back", read)
    if wrong == 1:
        manifest = save(store, state, 1)
        assert store.manifests() == [manifest]
    else:
        with pytest.raises(StorageUnavailable, match="0 bytes and SHA-256 damaged instead of"):
            save(store, state, 1)
        assert store.manifests() == []
    assert len(found) == 2


def test_a_manifest_says_where_in_the_run_its_state_is_from(tmp_path, state):
    about = {"epoch": 2, "step": 7, "batches_done": 3, "monitor": "IoU", "mode": "max", "score": 0.5}
    store = CheckpointStore(str(tmp_path))
    saved = store.save(state(1), metrics={"IoU": 0.5, "loss": 0.1}, **about)
    assert store.manifests() == [saved]
    assert {name: getattr(saved, name) for name in about} == about
    assert saved.metrics == {"IoU": 0.5, "loss": 0.1}
    assert saved.key.startswith("epoch=0002-step=00000007-")

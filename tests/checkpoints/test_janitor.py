"""The janitor takes what killed writers left, says why, and never what is committed, young or of unknown age."""

from __future__ import annotations

import json
import os
import time
import uuid
from pathlib import Path

import pytest
import torch

from ununennium.checkpoints.janitor import find_leftovers
from ununennium.checkpoints.manifest import SavePoint
from ununennium.checkpoints.spool import Spool
from ununennium.checkpoints.store import CheckpointStore
from ununennium.cli import run
from ununennium.errors import ConfigError
from ununennium.storage.open import open_storage

LATER = time.time() + 30 * 3600.0
ORPHAN = "runs/r/checkpoints/epoch=0009-step=00000009-aaaaaaaaaaaa.pt"
WEIGHTS = "models/roofs/versions/v1/model.safetensors"
PROBE = f"runs/r/checkpoints/probe-{'0' * 32}"


@pytest.fixture(autouse=True)
def spool(tmp_path, monkeypatch):
    monkeypatch.setenv("UNUNENNIUM_SPOOL", str(tmp_path / "spool"))
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def filled(folder):
    """A folder with what is committed, what is not, and what is no concern of ours; gives the names that must stay."""
    storage = open_storage(folder)
    kept = CheckpointStore(f"{folder}/runs/r/checkpoints").save({"n": 1}, epoch=1, step=1)
    for key in ("models/roofs/versions/v2/model.safetensors", "models/roofs/versions/v2/contract.json", "notes.pt"):
        storage.create(key, b"stays")
    storage.create("models/roofs/promotions/9999999999.json", b"{}")
    stays = storage.list()
    assert f"runs/r/checkpoints/{kept.key}" in stays
    for key in (ORPHAN, WEIGHTS, PROBE):
        storage.create(key, b"left behind")
    return storage, stays


def test_only_what_was_never_committed_goes_and_each_has_a_reason(filled):
    storage, stays = filled
    found = list(find_leftovers(storage, now=LATER))
    assert sorted(finding.place for finding in found) == sorted(storage.url(key) for key in (ORPHAN, WEIGHTS, PROBE))
    assert all(finding.reason and finding.remove for finding in found)
    for finding in found:
        finding.remove()
    assert storage.list() == stays
    assert list(find_leftovers(storage, now=LATER)) == []


def test_what_is_young_stays(filled):
    storage, _ = filled
    found = list(find_leftovers(storage))
    assert len(found) == 3
    for finding in found:
        assert finding.remove is None
        assert "younger than 24 h" in finding.reason
    with pytest.raises(ConfigError, match=r"older_than_hours = 0\.5"):
        list(find_leftovers(storage, older_than_hours=0.5))


def test_what_is_committed_since_it_was_listed_stays(filled):
    storage, _ = filled
    (finding,) = (each for each in find_leftovers(storage, now=LATER) if each.place.endswith(".pt"))
    storage.create(ORPHAN.replace(".pt", ".json"), b"{}")
    finding.remove()
    assert storage.exists(ORPHAN)


def test_an_upload_that_never_ended_is_aborted(s3):
    storage = open_storage(f"s3://checkpoints/{uuid.uuid4().hex}")
    bucket, _, path = storage._path(ORPHAN).partition("/")
    storage._fs.call_s3("create_multipart_upload", Bucket=bucket, Key=path)
    assert [finding.remove for finding in find_leftovers(storage)] == [None]
    (finding,) = find_leftovers(storage, now=LATER)
    assert finding.what == "an upload in parts that never ended"
    finding.remove()
    assert list(storage.leftovers()) == []


def test_a_spool_is_emptied_of_what_is_uploaded_and_of_nothing_else(tmp_path):
    store = CheckpointStore(str(tmp_path / "storage" / "runs" / "r" / "checkpoints"))
    spool = Spool.claim(store.storage.root)
    waiting = []
    for number in (1, 2):
        with spool.new() as (path, file):
            waiting.append(
                store.serialise({"n": torch.tensor(number)}, path, file, SavePoint(epoch=number, step=number))
            )
            spool.keep(path, waiting[-1])
    spool.release()
    store.publish(waiting[0], spool.file(waiting[0]))
    found = {Path(each.place).name: each for each in find_leftovers(open_storage(str(tmp_path / "storage")), now=LATER)}
    assert found[waiting[1].key].remove is None
    assert "it is nowhere else" in found[waiting[1].key].reason
    blob = tmp_path / "storage" / "runs" / "r" / "checkpoints" / waiting[0].key
    whole = blob.read_bytes()
    blob.write_bytes(whole[:-1])
    found[waiting[0].key].remove()
    assert spool.waiting() == waiting  # what is in storage is damaged: this is the only copy
    blob.write_bytes(whole)
    found[waiting[0].key].remove()
    assert spool.waiting() == [waiting[1]]


def test_the_command_explains_and_a_dry_run_removes_nothing(tmp_path, capsys):
    root = tmp_path / "storage"
    open_storage(str(root)).create(ORPHAN, b"left behind")
    os.utime(root / ORPHAN, (0, 0))
    for arguments, done in ((["--dry-run"], "would be removed"), ([], "removed")):
        assert run(["storage", "gc", "--storage", str(root), "--json", *arguments]) == 0
        (row,) = json.loads(capsys.readouterr().out)
        assert (row["done"], (root / ORPHAN).exists()) == (done, bool(arguments))
        assert "never committed" in row["why"]
    assert run(["storage", "gc", "--storage", str(root)]) == 0
    assert "nothing is left behind" in capsys.readouterr().out

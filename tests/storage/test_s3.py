"""The storage seam on a real S3 server, and when the network or the server goes wrong."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import fsspec
import pytest
from torch.utils.data import DataLoader, Dataset

from ununennium.errors import ConfigError, CredentialsError, StorageError, StorageUnavailable
from ununennium.storage.base import CHUNK_BYTES
from ununennium.storage.open import check_exclusive, check_writable, open_storage

PROMPT_S = 40.0


@pytest.fixture
def url(s3: str) -> str:
    return f"s3://checkpoints/{uuid.uuid4().hex}"


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> float:
    """Seconds per request: four tries of it are few enough to wait for."""
    monkeypatch.setenv("UNUNENNIUM_REQUEST_TIMEOUT_S", "0.7")
    return 0.7


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Large enough to go in three parts."""
    path = tmp_path / "large.bin"
    path.write_bytes(os.urandom(2 * CHUNK_BYTES + 5))
    return path


def small(tmp_path: Path, contents: bytes = b"x" * 1000) -> Path:
    path = tmp_path / "small.bin"
    path.write_bytes(contents)
    return path


def test_a_black_hole_ends_a_write_in_finite_time(proxy, url, hasty, tmp_path, large):
    """The endpoint accepts connections and never says anything: botocore and aiohttp would wait for ever."""
    storage = open_storage(url)
    for file in (small(tmp_path), large):
        proxy.inject("black_hole", times=100)
        began = time.monotonic()
        with pytest.raises(StorageUnavailable, match=f"{url}/x.* could not be written, for now"):
            storage.put_file(file, "x")
        assert time.monotonic() - began < PROMPT_S
        proxy.heal()
    storage.put_file(large, "x")
    assert storage.size("x") == large.stat().st_size


def test_a_black_hole_ends_reading_and_creating(proxy, url, hasty):
    storage = open_storage(url)
    storage.create("x", b"1")
    proxy.inject("black_hole", times=100)
    for attempt in (storage.read_bytes, lambda key: storage.create(f"{key}2", b"2")):
        began = time.monotonic()
        with pytest.raises(StorageUnavailable):
            attempt("x")
        assert time.monotonic() - began < PROMPT_S
    proxy.heal()
    assert storage.list() == ["x"]


@pytest.mark.parametrize("root", ["", "/log"])
def test_the_first_key_of_a_long_log_takes_one_request(proxy, s3, root):
    bucket = f"first-{uuid.uuid4().hex}"
    storage = open_storage(f"s3://{bucket}{root}")
    assert storage.first("a/") is None, "not even a bucket"
    console = fsspec.filesystem("s3", skip_instance_cache=True)
    console.mkdir(bucket)
    assert storage.first("a/") is None
    for number in range(12):
        storage.create(f"a/{99 - number}.json", b"{}")
    storage.create("b.json", b"{}")
    before = len(proxy.requests)
    assert storage.first("a/") == "a/88.json"
    assert len(proxy.requests) == before + 1
    for number in range(12):  # as consoles mark folders
        console.pipe_file(f"{bucket}{root}/a/0{number:02}/", b"")
    assert storage.first("a/") == storage.list("a/")[0] == "a/88.json"
    assert storage.first("b") == "b.json"


def test_a_trickle_is_no_answer(proxy, url, hasty):
    """Every byte comes within the read timeout, and still the whole does not."""
    storage = open_storage(url)
    storage.create("x", bytes(400_000))
    proxy.bytes_per_s = 60_000.0
    began = time.monotonic()
    with pytest.raises(StorageUnavailable):
        storage.read_bytes("x")
    assert time.monotonic() - began < PROMPT_S


def test_a_server_that_is_down_is_said_to_be_unavailable(proxy, url, hasty):
    storage = open_storage(url)
    proxy.connected = False
    with pytest.raises(StorageUnavailable, match=r"could not be created, for now: "):
        storage.create("x", b"1")
    proxy.connected = True
    storage.create("x", b"1")


def test_a_burst_of_503_is_waited_out(proxy, url, large):
    storage = open_storage(url)
    for method in ("PUT", "HEAD", "GET"):
        proxy.inject("unavailable", method=method)
    storage.put_file(large, "x")
    assert b"".join(storage.chunks("x")) == large.read_bytes()


def test_a_body_that_breaks_off_is_read_again(proxy, url, large):
    storage = open_storage(url)
    storage.put_file(large, "x")
    proxy.inject("truncate", method="GET", after_bytes=1 << 20)
    assert b"".join(storage.chunks("x")) == large.read_bytes()
    assert "truncate" in [request.fault for request in proxy.requests]


@pytest.mark.parametrize("kind", ["drop_response", "flip_up"])
@pytest.mark.parametrize("size", [1000, 2 * CHUNK_BYTES + 5])
def test_an_upload_that_is_hit_on_its_way_is_whole_or_an_error(proxy, url, tmp_path, kind, size):
    """A bit that flips on the way up is refused by the server, as is a part without an answer by nobody."""
    file = small(tmp_path, os.urandom(size))
    storage = open_storage(url)
    proxy.inject(kind, method="PUT", after_bytes=500)
    try:
        storage.put_file(file, "x")
    except StorageUnavailable:
        storage.put_file(file, "x")
    assert [request.fault for request in proxy.requests].count(kind) == 1
    assert b"".join(storage.chunks("x")) == file.read_bytes()


@pytest.mark.parametrize("wrong", ["AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"])
def test_wrong_credentials_are_an_error_that_says_what_to_set(url, monkeypatch, wrong):
    monkeypatch.setenv(wrong, "wrong")
    with pytest.raises(CredentialsError, match=r"refused .*set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        check_writable(open_storage(url))


def test_no_credentials_at_all_are_an_error_that_says_what_to_set(url, monkeypatch, tmp_path):
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    with pytest.raises(CredentialsError, match="set AWS_ACCESS_KEY_ID"):
        check_writable(open_storage(url))


@pytest.mark.parametrize("value", ["0", "-1", "soon", "inf", "nan"])
def test_a_request_timeout_that_is_none_is_refused(s3, monkeypatch, value):
    monkeypatch.setenv("UNUNENNIUM_REQUEST_TIMEOUT_S", value)
    with pytest.raises(ConfigError, match="UNUNENNIUM_REQUEST_TIMEOUT_S"):
        open_storage("s3://checkpoints/x")


def test_another_process_sees_what_this_one_wrote_and_the_other_way_round(url):
    """correctness 55: after this process has listed, looked and read."""
    storage = open_storage(url)
    storage.create("mine.json", b"1")
    assert storage.list() == ["mine.json"]
    script = (
        "import sys; from ununennium.storage.open import open_storage; s = open_storage(sys.argv[1]);"
        "assert s.list() == ['mine.json']; s.create('theirs.json', b'{}'); s.delete('mine.json')"
    )
    subprocess.run([sys.executable, "-c", script, url], check=True, timeout=100)
    assert storage.list() == ["theirs.json"]
    assert not storage.exists("mine.json")


class Objects(Dataset):
    """Reads an object by a storage that its process was given, not one that it opened."""

    def __init__(self, storage):
        self.storage = storage

    def __len__(self):
        return 4

    def __getitem__(self, number):
        return len(self.storage.read_bytes("x")) + number


@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_loader_workers_use_the_storage_of_their_parent(url, start):
    """Forked they find connections that are not theirs; spawned they are sent the object itself."""
    storage = open_storage(url)
    storage.create("x", bytes(7))
    workers = multiprocessing.get_context(start)
    loader = DataLoader(Objects(storage), batch_size=None, num_workers=2, multiprocessing_context=workers, timeout=90)
    assert sorted(int(value) for value in loader) == [7, 8, 9, 10]
    assert storage.list() == ["x"]  # the parent goes on


@pytest.mark.slow
def test_a_store_without_conditional_writes_is_used_only_by_who_vouches_for_it(url, monkeypatch, caplog):
    storage = open_storage(url)
    real = type(storage).create

    def ignores_the_condition(self, key, data):
        self._fs.pipe_file(self._path(key), data)

    monkeypatch.setattr(type(storage), "create", ignores_the_condition)
    with pytest.raises(StorageError, match=r"ignores conditional writes.*UNUNENNIUM_UNSAFE_SINGLE_WRITER=1"):
        check_exclusive(storage)
    assert check_exclusive(storage, unsafe_single_writer=True) is False
    assert "UNSAFE" in caplog.text
    monkeypatch.setenv("UNUNENNIUM_UNSAFE_SINGLE_WRITER", "1")
    assert check_exclusive(storage) is False
    monkeypatch.setattr(type(storage), "create", real)
    assert check_exclusive(storage) is True
    assert storage.list() == []


def test_an_upload_that_was_killed_is_found_and_discarded(url, proxy, large):
    """Parts that nobody ended cost money and show in no listing."""
    storage = open_storage(url)
    bucket, _, path = storage._path("x").partition("/")
    storage._fs.call_s3("create_multipart_upload", Bucket=bucket, Key=path)
    (left,) = storage.leftovers()
    assert (left.key, storage.list()) == ("x", [])
    assert abs(left.modified - time.time()) < 60
    storage.discard(left)
    storage.discard(left)
    assert list(storage.leftovers()) == []

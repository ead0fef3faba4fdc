"""The storage seam on a local disk and in memory."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import fsspec
import pytest

from ununennium.errors import ConfigError, CredentialsError, StorageError, StorageUnavailable
from ununennium.storage.base import CHUNK_BYTES
from ununennium.storage.errors import translated_errors
from ununennium.storage.open import check_exclusive, check_writable, open_storage


@pytest.fixture
def local_file(tmp_path: Path) -> Path:
    path = tmp_path / "local.bin"
    path.write_bytes(os.urandom(2000))
    return path


def test_what_is_put_is_read_back_listed_sized_and_deleted(folder: str, local_file: Path) -> None:
    storage = open_storage(folder)
    assert storage.list() == []
    storage.put_file(local_file, "a/b.bin")
    storage.create("c.json", b"{}")
    assert storage.list() == ["a/b.bin", "c.json"]
    assert storage.list("a/") == ["a/b.bin"]
    assert storage.list("a/b") == ["a/b.bin"]
    assert storage.list("z/") == []
    assert [storage.first(prefix) for prefix in ("", "a/b", "c", "z/")] == ["a/b.bin", "a/b.bin", "c.json", None]
    assert storage.read_bytes("a/b.bin") == local_file.read_bytes()
    assert storage.size("a/b.bin") == 2000
    assert storage.exists("c.json")
    storage.delete("c.json")
    storage.delete("c.json")  # gone already
    assert not storage.exists("c.json")
    assert not storage.exists("a")  # a folder is no object
    for read in (storage.read_bytes, storage.size, lambda key: list(storage.chunks(key))):
        with pytest.raises(FileNotFoundError):
            read("c.json")


def test_a_listing_does_not_follow_a_link_in_a_circle(tmp_path: Path) -> None:
    storage = open_storage(tmp_path)
    storage.create("a/x.json", b"{}")
    (tmp_path / "a" / "again").symlink_to(tmp_path / "a", target_is_directory=True)
    assert storage.list() == ["a/x.json"]
    (tmp_path / "a" / "itself").symlink_to(tmp_path / "a" / "itself")
    assert storage.first() == "a/itself", "a link that leads nowhere is a file that cannot be read, as it always was"


def test_a_large_object_comes_in_pieces(folder: str, tmp_path: Path) -> None:
    storage = open_storage(folder)
    contents = os.urandom(CHUNK_BYTES + 5)
    (tmp_path / "large").write_bytes(contents)
    storage.put_file(tmp_path / "large", "large")
    pieces = list(storage.chunks("large"))
    assert [len(piece) for piece in pieces] == [CHUNK_BYTES, 5]
    assert b"".join(pieces) == contents


def test_create_refuses_an_object_that_exists_and_leaves_it(folder: str) -> None:
    storage = open_storage(folder)
    storage.create("champion.json", b"first")
    with pytest.raises(FileExistsError):
        storage.create("champion.json", b"second")
    assert storage.read_bytes("champion.json") == b"first"


def test_of_many_writers_that_create_one_object_one_wins(folder: str) -> None:
    won: list[int] = []
    barrier = threading.Barrier(8)

    def write(number: int) -> None:
        storage = open_storage(folder)
        barrier.wait()
        try:
            storage.create("one.json", str(number).encode() * 100)
        except FileExistsError:
            return
        won.append(number)

    threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert open_storage(folder).read_bytes("one.json") == str(won[0]).encode() * 100


def test_what_another_writer_wrote_is_seen_at_once(folder: str) -> None:
    """correctness 55: a listing, a size or an existence is never remembered."""
    mine, theirs = open_storage(folder), open_storage(folder)
    assert mine.list() == []
    assert not mine.exists("new.json")
    theirs.create("new.json", b"12345")
    assert mine.list() == ["new.json"]
    assert mine.exists("new.json")
    assert mine.size("new.json") == 5
    theirs.delete("new.json")
    assert mine.list() == []
    assert not mine.exists("new.json")


def test_remote_filesystems_are_opened_without_a_listing_cache_and_unshared(monkeypatch: pytest.MonkeyPatch) -> None:
    """correctness 55: s3fs remembers listings for ever unless told not to, and shares instances."""
    pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    one, other = open_storage("s3://bucket/prefix"), open_storage("s3://bucket/prefix")
    assert one._fs is not other._fs  # type: ignore[attr-defined]
    assert one._fs.dircache.use_listings_cache is False  # type: ignore[attr-defined]
    assert one.creates_exclusively


def test_another_process_sees_what_this_one_wrote_on_disk(tmp_path: Path) -> None:
    """correctness 55: across processes."""
    storage = open_storage(str(tmp_path / "shared"))
    assert storage.list() == []
    script = (
        "import sys; from ununennium.storage.open import open_storage;"
        "open_storage(sys.argv[1]).create('theirs.json', b'{}')"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "shared")], check=True, timeout=200)
    assert storage.list() == ["theirs.json"]


def test_urls_never_pass_through_pathlib() -> None:
    """correctness 54: ``pathlib`` would make ``memory:/x`` of ``memory://x``."""
    assert open_storage("memory://name/sub/").url("a.pt") == "memory://name/sub/a.pt"
    assert open_storage("file:///data/runs/").url("a.pt") == "file:///data/runs/a.pt"
    assert open_storage("/data/runs/").url("a.pt") == "/data/runs/a.pt"
    assert open_storage("runs").url("a.pt") == os.path.join(os.getcwd(), "runs", "a.pt")
    with fsspec.open(open_storage("memory://name/sub").url("x"), "wb") as file:
        file.write(b"seen by fsspec")
    assert open_storage("memory://name/sub").read_bytes("x") == b"seen by fsspec"


@pytest.mark.parametrize("key", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "a\\..\\b", "./a"])
def test_no_key_leads_out_of_the_folder(folder: str, key: str) -> None:
    """correctness 52: nothing outside dirpath can even be named."""
    storage = open_storage(folder)
    for attempt in (storage.delete, storage.read_bytes, storage.size, lambda key: storage.create(key, b"x")):
        with pytest.raises(StorageError, match="is no key"):
            attempt(key)


def test_a_scheme_that_fsspec_does_not_know_is_refused_with_those_it_knows() -> None:
    with pytest.raises(ConfigError, match=r"storage = 's4://bucket': .*fsspec knows .*s3"):
        open_storage("s4://bucket")
    with pytest.raises(ConfigError, match="give a folder or a URL"):
        open_storage(" ")


def test_an_interrupted_put_leaves_the_old_object_and_nothing_else(folder: str, local_file: Path) -> None:
    """correctness 51: replacing an object is one step, which a failure before it does not begin."""
    storage = open_storage(folder)
    storage.put_file(local_file, "x.bin")
    with pytest.raises(FileNotFoundError):
        storage.put_file(local_file.with_name("missing"), "x.bin")
    assert storage.read_bytes("x.bin") == local_file.read_bytes()
    assert storage.list() == ["x.bin"]


def test_a_reader_never_sees_a_half_written_object_on_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """correctness 50: a write that fails on the way to the disk leaves neither the object nor a temporary file."""
    storage = open_storage(str(tmp_path / "runs"))
    storage.create("old.json", b"old")

    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=r"new\.json could not be created: OSError: .*Input/output error"):
        storage.create("new.json", b"new")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["old.json"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_called_a_full_disk(code: int) -> None:
    with pytest.raises(StorageError, match=r"no space left to write memory://x/y .*saved before is intact"):
        with translated_errors("written", "memory://x/y"):
            raise OSError(code, os.strerror(code))


def test_whatever_a_client_raises_becomes_a_storage_error_that_names_the_object() -> None:
    class ConnectionClosedError(Exception):  # botocore's is no OSError either
        pass

    with pytest.raises(StorageError, match=r"s3://b/k could not be written: ConnectionClosedError: gone"):
        with translated_errors("written", "s3://b/k"):
            raise ConnectionClosedError("gone")


@pytest.mark.parametrize("status", [409, 412])
def test_a_refused_condition_is_an_object_that_exists_whatever_the_error_code(status: int) -> None:
    answer = RuntimeError("PreconditionFailed")
    answer.response = {"ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
    translated = OSError(errno.EINVAL, "invalid")  # what s3fs makes of it with some servers
    translated.__cause__ = answer
    with pytest.raises(FileExistsError), translated_errors("created", "s3://b/k"):
        raise translated


@pytest.mark.parametrize(
    ("status", "code", "expected", "words"),
    [
        (404, "NoSuchBucket", StorageError, "there is no such bucket; create it"),
        (404, "NoSuchKey", FileNotFoundError, "s3://b/k"),
        (403, "SignatureDoesNotMatch", CredentialsError, "set AWS_ACCESS_KEY_ID"),
        (503, "ServiceUnavailable", StorageUnavailable, "for now"),
        (500, "InternalError", StorageUnavailable, "for now"),
        (400, "BadDigest", StorageUnavailable, "for now"),
        (400, "InvalidRequest", StorageError, "could not be written"),
    ],
)
def test_what_the_server_answered_decides_what_is_said(status: int, code: str, expected: type, words: str) -> None:
    answer = RuntimeError(code)
    answer.response = {"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
    translated = FileNotFoundError("gone") if status == 404 else OSError(errno.EINVAL, "invalid")
    translated.__cause__ = answer
    with pytest.raises(expected, match=words) as raised, translated_errors("written", "s3://b/k"):
        raise translated
    assert raised.type is expected


def test_a_folder_that_is_a_file_is_an_error_and_no_conflict(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="is a file, not a folder"):
        check_writable(open_storage(str(tmp_path / "file")))


def test_the_probes_leave_nothing_behind(folder: str) -> None:
    storage = open_storage(folder)
    check_writable(storage)
    check_exclusive(storage)
    assert storage.list() == []


def test_a_store_that_ignores_exclusive_creation_is_refused(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = open_storage(folder)
    monkeypatch.setattr(type(storage), "create", lambda self, key, data: None)
    with pytest.raises(StorageError, match="ignores conditional writes"):
        check_exclusive(storage)


def test_a_filesystem_without_exclusive_creation_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec.implementations.memory import MemoryFileSystem
    from fsspec.spec import AbstractFileSystem

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", AbstractFileSystem.pipe_file)  # looks, then writes
    with pytest.raises(StorageError, match="cannot create an object exclusively"):
        check_exclusive(open_storage("memory://plain"))


def test_what_killed_writers_left_is_removed_after_a_day_and_never_listed(tmp_path: Path) -> None:
    old, fresh = tmp_path / ".tmp-old", tmp_path / ".tmp-fresh"
    for path in (old, fresh):
        path.write_bytes(b"half")
    day_before = time.time() - 25 * 3600
    os.utime(old, (day_before, day_before))
    storage = open_storage(str(tmp_path))
    storage.create("x.json", b"{}")
    assert storage.list() == ["x.json"]
    assert not old.exists()
    assert fresh.exists()


def test_a_draft_is_put_whole_and_seen_by_nobody_before(folder: str) -> None:
    """correctness 51: whether it is moved, as on a local disk, or sent."""
    storage = open_storage(folder)
    with storage.draft() as (path, file):
        file.write(b"whole")
        file.flush()
        assert storage.list() == []
        storage.put_file(path, "a/x.bin")
    assert storage.list() == ["a/x.bin"]
    assert storage.read_bytes("a/x.bin") == b"whole"
    with storage.draft() as (path, file):
        file.write(b"given up")
    assert not path.exists()
    assert storage.list() == ["a/x.bin"]
    assert list(storage.leftovers()) == []


def test_a_draft_in_a_local_folder_is_moved_not_copied(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path / "made" / "when needed"))
    with storage.draft() as (path, file):
        file.write(b"whole")
        file.flush()
        inode = path.stat().st_ino
        storage.put_file(path, "x.bin")
        assert not path.exists()
    assert (tmp_path / "made" / "when needed" / "x.bin").stat().st_ino == inode


def test_a_folder_that_cannot_be_written_is_named_before_anything_is_serialised(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    storage = open_storage(str(tmp_path / "file"))
    with pytest.raises(StorageError, match=f"{tmp_path / 'file'} could not be written"), storage.draft():
        raise AssertionError("no draft can be there")


def test_a_draft_does_not_take_a_file_in_the_way_for_an_object_that_exists(tmp_path: Path) -> None:
    storage = open_storage(str(tmp_path))
    (tmp_path / "a").write_text("in the way")
    with storage.draft() as (path, _), pytest.raises(StorageError, match="is a file, not a folder"):
        storage.put_file(path, "a/x.bin")

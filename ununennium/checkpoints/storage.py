"""The storage seam: one folder of immutable objects, on a local disk, in memory, or on any fsspec filesystem.

Every method either does all of its work or none of it: no reader ever sees half an object. ``create`` is the one
exclusive operation, and everything that must happen at most once (a checkpoint's commit, a promotion) hangs on it.

URLs stay strings from end to end, since ``pathlib`` turns ``s3://bucket`` into ``s3:/bucket``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from ununennium.errors import ConfigError, StorageError

CHUNK_BYTES = 8 << 20
"""Bytes per part. Larger ones make s3fs hold up to ten of them at a time, and are not faster."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class Storage(Protocol):
    """A folder of objects. Keys are relative, with ``/`` between folders; nothing outside the folder can be named.

    Whatever goes wrong is a ``StorageError`` that names the object, except for the two answers that callers
    act on: ``FileExistsError`` from ``create`` and ``FileNotFoundError`` from the methods that read.
    """

    @property
    def root(self) -> str:
        """The folder's URL, or its absolute path if it was given as a plain path; no ``/`` at the end."""

    @property
    def creates_exclusively(self) -> bool:
        """Whether ``create`` can be exclusive here at all; ``check_exclusive`` finds out whether it is."""

    def put_file(self, local: Path, key: str) -> None:
        """Store a copy of the file ``local``; an object of that key is replaced in one step."""

    def create(self, key: str, data: bytes) -> None:
        """Store ``data`` only if there is no such object.

        Raises:
            FileExistsError: there is one already; it is left as it is.
        """

    def read_bytes(self, key: str) -> bytes:
        """The whole of a small object. Raises ``FileNotFoundError`` if there is none."""

    def chunks(self, key: str) -> Iterator[bytes]:
        """An object's bytes in order, in pieces of at most ``CHUNK_BYTES``. Raises ``FileNotFoundError``."""

    def list(self, prefix: str = "") -> list[str]:
        """The keys that begin with ``prefix``, sorted; never from a cache."""

    def exists(self, key: str) -> bool:
        """Whether there is such an object now."""

    def size(self, key: str) -> int:
        """Length in bytes. Raises ``FileNotFoundError`` if there is no such object."""

    def delete(self, key: str) -> None:
        """Remove an object; it is no error if it is gone already."""

    def url(self, key: str) -> str:
        """Where an object lies, for people and for ``fsspec.open``."""


def open_storage(url: str | os.PathLike[str]) -> Storage:
    """Open the folder at ``url``; it need not exist yet.

    Args:
        url: ``s3://bucket/prefix``, ``memory://name``, ``file:///data/runs`` or any other URL that fsspec knows; text
            without ``://`` is a path on the local disk. Credentials and endpoints come from the environment
            (``AWS_*``) or from fsspec's own configuration.

    Raises:
        ConfigError: fsspec does not know the URL's scheme, or the package for it is not installed.
    """
    text = os.fspath(url)
    if not text.strip():
        raise ConfigError("storage", text, "give a folder or a URL such as 's3://bucket/prefix'")
    scheme, separator, rest = text.partition("://")
    from ununennium.checkpoints.local_storage import LocalStorage
    from ununennium.checkpoints.object_storage import MemoryStorage, ObjectStorage

    if not separator:
        return LocalStorage(os.path.expanduser(text))
    if scheme in ("file", "local"):
        return LocalStorage(rest, scheme=f"{scheme}://")
    return MemoryStorage(text) if scheme == "memory" else ObjectStorage(text)


def check_key(key: str) -> str:
    """``key`` if it names something inside the folder.

    Raises:
        StorageError: it is empty, absolute, or climbs out of the folder.
    """
    parts = key.split("/")
    if not key or "\\" in key or "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise StorageError(f"{key!r} is no key: give a name below the folder, without '..' or '/' at its ends")
    return key


def check_writable(storage: Storage) -> None:
    """Write and remove a small object, so that a folder nobody may write to shows itself before the work.

    Raises:
        StorageError: the storage refuses.
    """
    key = f"probe-{uuid.uuid4().hex}"
    storage.create(key, b"may this folder be written to?\n")
    storage.delete(key)


def check_exclusive(storage: Storage) -> None:
    """Make sure that ``create`` refuses an object that exists: some servers accept the condition and ignore it.

    Raises:
        StorageError: the second ``create`` of one key went through, or the storage refuses altogether.
    """
    if not storage.creates_exclusively:
        raise StorageError(
            f"{storage.root}: this kind of storage cannot create an object exclusively, so two promotions could "
            "overwrite each other; use a local folder or an object store with conditional writes"
        )
    key = f"probe-{uuid.uuid4().hex}"
    storage.create(key, b"first\n")
    try:
        storage.create(key, b"second\n")
    except FileExistsError:
        return
    finally:
        storage.delete(key)
    raise StorageError(
        f"{storage.root}: this store ignores conditional writes (If-None-Match), so two promotions could overwrite "
        "each other; use a local folder or an object store with conditional writes"
    )


@contextlib.contextmanager
def translated_full_disk(place: str) -> Iterator[None]:
    """Turn the errors of a full disk at ``place`` into a ``StorageError`` that says so."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise StorageError(
                f"no space left to write {place} ({error.strerror}): free some or choose another place; "
                "everything saved before is intact"
            ) from error
        raise


@contextlib.contextmanager
def translated_errors(verb: str, url: str) -> Iterator[None]:
    """Let ``FileExistsError`` and ``FileNotFoundError`` through; make all else a ``StorageError`` naming ``url``.

    Clients raise what they like: botocore's connection errors, for one, are no ``OSError``.
    """
    try:
        with translated_full_disk(url):
            yield
    except (FileNotFoundError, StorageError):
        raise
    except FileExistsError as error:
        raise FileExistsError(errno.EEXIST, "exists already", url) from error
    except Exception as error:
        if _is_conflict(error):
            raise FileExistsError(errno.EEXIST, "exists already", url) from error
        detail = f"{type(error).__name__}: {error}"
        raise StorageError(f"{url} could not be {verb}: {detail}") from error


def _is_conflict(error: BaseException) -> bool:
    """Whether an HTTP 409 or 412 is behind ``error``: servers differ in the error code, not in the status."""
    seen: BaseException | None = error
    while seen is not None:
        response = getattr(seen, "response", None)
        if isinstance(response, dict):
            return response.get("ResponseMetadata", {}).get("HTTPStatusCode") in (409, 412)
        seen = seen.__cause__
    return False


def folder_of(prefix: str) -> str:
    """The folder that all keys with ``prefix`` lie in; listing starts there."""
    folder = prefix.rpartition("/")[0]
    return check_key(folder) if folder else ""

"""The storage seam: one folder of immutable objects, on a local disk, in memory, or on any fsspec filesystem.

Every method either does all of its work or none of it: no reader ever sees half an object. ``create`` is the one
exclusive operation, and everything that must happen at most once (a checkpoint's commit, a promotion) hangs on it.

URLs stay strings from end to end, since ``pathlib`` turns ``s3://bucket`` into ``s3:/bucket``.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from ununennium.checkpoints.patience import patiently
from ununennium.errors import ConfigError, StorageError

logger = logging.getLogger(__name__)

CHUNK_BYTES = 8 << 20
"""Bytes per part. Larger ones make s3fs hold up to ten of them at a time, and are not faster."""

_ONE_SLASH = re.compile(r"(s3a?|gs|gcs|az|abfss?|adl|memory|file|https?|ftp|sftp|hdfs):/", re.IGNORECASE)
"""A URL that went through ``pathlib``, which makes one slash of two."""

UNSAFE_SINGLE_WRITER = "UNUNENNIUM_UNSAFE_SINGLE_WRITER"
"""Environment variable that allows storage without exclusive creation, if set to ``1``."""


@dataclass(frozen=True)
class Entry:
    """An object in a listing.

    Attributes:
        key: its name.
        size_bytes: its length.
        modified: when it was written, in seconds since the epoch; None if the storage does not tell.
    """

    key: str
    size_bytes: int
    modified: float | None


@dataclass(frozen=True)
class Leftover:
    """What a writer that was killed left, and no listing shows: a temporary file, or an unfinished upload.

    Attributes:
        key: what it was going to be, or its own name.
        what: in words.
        modified: when it was begun, in seconds since the epoch; None if the storage does not tell.
        token: by which the storage knows it.
    """

    key: str
    what: str
    modified: float | None
    token: str


class Storage(Protocol):
    """A folder of objects. Keys are relative, with ``/`` between folders; nothing outside the folder can be named.

    Whatever goes wrong is a ``StorageError`` that names the object (``CredentialsError`` if it was refused,
    ``StorageUnavailable`` if trying again may help), except for the two answers that callers act on:
    ``FileExistsError`` from ``create`` and ``FileNotFoundError`` from the methods that read. No call waits for ever.
    """

    @property
    def root(self) -> str:
        """The folder's URL, or its absolute path if it was given as a plain path; no ``/`` at the end."""

    @property
    def is_remote(self) -> bool:
        """Whether writing may take long enough to be done in the background."""

    @property
    def creates_exclusively(self) -> bool:
        """Whether ``create`` can be exclusive here at all; ``check_exclusive`` finds out whether it is."""

    def draft(self) -> AbstractContextManager[tuple[Path, IO[bytes]]]:
        """A new local file to write into, gone afterwards: where it lies on the same disk, ``put_file`` moves it."""

    def put_file(self, local: Path, key: str) -> None:
        """Store a copy of the file ``local``, or a ``draft`` itself; an object of that key is replaced in one step."""

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
        """The keys that begin with ``prefix``, sorted; never from a cache. One that ends in ``/`` is a folder's."""

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """The same, with length and age."""

    def first(self, prefix: str = "") -> str | None:
        """The first of these keys, None if there is none: of a log whose newest record comes first, the newest."""

    def leftovers(self) -> Iterator[Leftover]:
        """What killed writers left behind, of all processes."""

    def discard(self, leftover: Leftover) -> None:
        """Remove a leftover; it is no error if it is gone already."""

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
        ConfigError: the URL names no bucket, fsspec does not know its scheme or cannot open it, or the package for it
            is not installed.
    """
    text = os.fspath(url)
    if not text.strip():
        raise ConfigError("storage", text, "give a folder or a URL such as 's3://bucket/prefix'")
    scheme, separator, rest = text.partition("://")
    from ununennium.checkpoints.local_storage import LocalStorage
    from ununennium.checkpoints.object_storage import MemoryStorage, ObjectStorage

    if not separator:
        mangled = _ONE_SLASH.match(text)
        if mangled:
            right = f"{mangled[1]}://{text[mangled.end() :].lstrip('/')}"
            raise ConfigError("storage", text, f"is neither a path nor a URL; write {right!r}")
        return LocalStorage(os.path.expanduser(text))
    if not scheme:
        raise ConfigError("storage", text, "names no scheme; give a folder or a URL such as 's3://bucket/prefix'")
    if scheme != "memory" and not rest.strip("/"):
        raise ConfigError("storage", text, f"names no bucket or folder; write '{scheme}://bucket/prefix'")
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


def check_writable(storage: Storage, *, patience_s: float | None = None) -> None:
    """Write and remove a small object, so that a folder nobody may write to shows itself before the work.

    Args:
        storage: what to try.
        patience_s: how long storage that cannot answer now is waited for, see ``patiently``.

    Raises:
        StorageError: the storage refuses.
    """
    with _probe(storage, b"may this folder be written to?\n", patience_s):
        pass


def check_exclusive(
    storage: Storage, *, unsafe_single_writer: bool | None = None, patience_s: float | None = None
) -> bool:
    """Make sure that ``create`` refuses an object that exists: some servers accept the condition and ignore it.

    Args:
        storage: what to try.
        unsafe_single_writer: warn instead of raising; None takes it from ``UNUNENNIUM_UNSAFE_SINGLE_WRITER``.
        patience_s: how long storage that cannot answer now is waited for, see ``patiently``.

    Returns:
        Whether it does.

    Raises:
        StorageError: the second ``create`` of one key went through, or the storage refuses altogether.
    """
    problem = _not_exclusive(storage, patience_s)
    if problem is None:
        return True
    problem = f"{storage.root}: {problem}, so two promotions could overwrite each other"
    if unsafe_single_writer is None:
        unsafe_single_writer = os.environ.get(UNSAFE_SINGLE_WRITER) == "1"
    if not unsafe_single_writer:
        raise StorageError(
            f"{problem}; use a local folder or an object store with conditional writes (or set "
            f"{UNSAFE_SINGLE_WRITER}=1 if never more than one process writes here)"
        )
    logger.warning("UNSAFE: %s. It is used because you vouch that one process alone writes here", problem)
    return False


def _not_exclusive(storage: Storage, patience_s: float | None) -> str | None:
    """What is wrong with exclusive creation here; None if it works. Writes, and so finds refusals, in any case."""
    with _probe(storage, b"first\n", patience_s) as key:
        if not storage.creates_exclusively:
            return "this kind of storage cannot create an object exclusively"
        try:
            patiently(lambda: storage.create(key, b"second\n"), patience_s=patience_s)
        except FileExistsError:
            return None
    return "this store ignores conditional writes (If-None-Match)"


@contextlib.contextmanager
def _probe(storage: Storage, data: bytes, patience_s: float | None) -> Iterator[str]:
    """The key of a new object with ``data``, which is removed afterwards, also if nobody knows that it was created."""
    key = f"probe-{uuid.uuid4().hex}"

    def create() -> None:
        try:
            storage.create(key, data)
        except FileExistsError:  # nobody else has this key: an answer was lost on its way
            if storage.read_bytes(key) != data:
                raise StorageError(f"{storage.url(key)} was stored with other contents than were sent") from None

    try:
        patiently(create, patience_s=patience_s)
        yield key
    except BaseException:
        with contextlib.suppress(StorageError):
            storage.delete(key)
        raise
    patiently(lambda: storage.delete(key), patience_s=patience_s)


def folder_of(prefix: str) -> str:
    """The folder that all keys with ``prefix`` lie in; listing starts there."""
    folder = prefix.rpartition("/")[0]
    return check_key(folder) if folder else ""

"""The storage seam: one folder of immutable objects, on a local disk, in memory, or on any fsspec filesystem.

Every method either does all of its work or none of it: no reader ever sees half an object. ``create`` is the one
exclusive operation, and everything that must happen at most once (a checkpoint's commit, a promotion) hangs on it.

URLs stay strings from end to end, since ``pathlib`` turns ``s3://bucket`` into ``s3:/bucket``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from ununennium.errors import StorageError

CHUNK_BYTES = 8 << 20
"""Bytes per part. Larger ones make s3fs hold up to ten of them at a time, and are not faster."""


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
    """Leftover of a writer that was killed, which no listing shows: a temporary file, or an unfinished upload.

    Attributes:
        key: key of the intended object, or its own name.
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
        """True if writing may take long enough to be done in the background."""

    @property
    def creates_exclusively(self) -> bool:
        """True if ``create`` can be exclusive here at all; ``check_exclusive`` finds out whether it is."""

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
        """Leftovers of killed writers, of all processes."""

    def discard(self, leftover: Leftover) -> None:
        """Remove a leftover; it is no error if it is gone already."""

    def exists(self, key: str) -> bool:
        """Tell whether there is such an object now."""

    def size(self, key: str) -> int:
        """Length in bytes. Raises ``FileNotFoundError`` if there is no such object."""

    def delete(self, key: str) -> None:
        """Remove an object; it is no error if it is gone already."""

    def url(self, key: str) -> str:
        """URL of an object, for people and for ``fsspec.open``."""


def check_key(key: str) -> str:
    """``key`` if it names something inside the folder.

    Raises:
        StorageError: it is empty, absolute, or climbs out of the folder.
    """
    parts = key.split("/")
    if not key or "\\" in key or "\0" in key or any(part in ("", ".", "..") for part in parts):
        raise StorageError(f"{key!r} is no key: give a name below the folder, without '..' or '/' at its ends")
    return key


def folder_of(prefix: str) -> str:
    """The folder that all keys with ``prefix`` lie in; listing starts there."""
    folder = prefix.rpartition("/")[0]
    return check_key(folder) if folder else ""

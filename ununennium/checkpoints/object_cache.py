"""Local copies of checkpoints and models that lie in remote storage, kept by the hash of their contents.

A copy is read in full and compared with its hash before each use, as what comes over the network is: a hit costs what
SHA-256 costs (a fifth of a second for 300 MB), and a disk that lies is noticed. Copies not used for longest go first
when there are more than ``UNUNENNIUM_LOAD_CACHE_GB`` (10 by default; 0 keeps none).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import math
import os
import re
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ununennium.errors import CheckpointError, ConfigError
from ununennium.files import cache_folder
from ununennium.storage.base import Storage
from ununennium.storage.errors import DiskFull, translated_full_disk

logger = logging.getLogger(__name__)

LIMIT_GB = "UNUNENNIUM_LOAD_CACHE_GB"
_DEFAULT_GB = 10.0
_TEMPORARY = ".ununennium-"
_COPY = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class ExpectedObject:
    """Length and hash that an object has to have.

    Attributes:
        sha256: its hash, 64 hexadecimal digits.
        size_bytes: its length; None where only the hash is on record.
        said_by: source of the expectation, for the error message, such as "its manifest".
        remedy: advice if it is something else, for the error message.
    """

    sha256: str
    size_bytes: int | None
    said_by: str
    remedy: str

    def accepts(self, size_bytes: int, sha256: str) -> bool:
        """Tell whether an object of this length and hash is the one."""
        return sha256 == self.sha256 and self.size_bytes in (None, size_bytes)


def copies_folder() -> Path:
    """Folder of the copies, in the folder of all caches (``UNUNENNIUM_CACHE``)."""
    return cache_folder() / "objects"


@contextlib.contextmanager
def open_verified(
    storage: Storage, key: str, expected: ExpectedObject, *, scratch: Path | None = None, cached: bool = True
) -> Iterator[Path]:
    """A local file with the whole of an object, whose hash has been checked; gone, or not to be relied on, afterwards.

    Args:
        storage: storage of the object; copies are kept of remote storage alone.
        key: key of the object.
        expected: expected size and hash.
        scratch: folder for a copy that is not kept; the system's temporary folder if not given.
        cached: False looks at the object itself, and keeps nothing.

    Raises:
        FileNotFoundError: there is no such object.
        CheckpointError: it is not what is expected, in two attempts; the message names both hashes.
        StorageError: the storage does not answer, or the disk is full.
    """
    limit_bytes = limit()
    folder = _usable(copies_folder()) if cached and storage.is_remote and limit_bytes else None
    with contextlib.ExitStack() as stack:
        path = None if folder is None else _through_cache(stack, folder, storage, key, expected, limit_bytes)
        if path is None:
            path = stack.enter_context(_private(scratch))
            _download(storage, key, path, expected)
        yield path


def limit() -> int:
    """The most bytes that all copies may have together.

    Raises:
        ConfigError: ``UNUNENNIUM_LOAD_CACHE_GB`` is no number >= 0.
    """
    text = os.environ.get(LIMIT_GB) or str(_DEFAULT_GB)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0.0 <= gigabytes < math.inf:
        raise ConfigError(LIMIT_GB, text, "give how many GB of downloaded models to keep, such as 10, or 0 for none")
    return int(gigabytes * 1e9)


def copies(folder: Path) -> list[Path]:
    """The copies in ``folder``, those not used for longest first."""
    found: list[tuple[float, Path]] = []
    with contextlib.suppress(FileNotFoundError):
        for path in folder.iterdir():
            with contextlib.suppress(FileNotFoundError):  # another process made room
                if _COPY.fullmatch(path.name):
                    found.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(found)]


def superfluous(folder: Path, limit_bytes: int) -> list[Path]:
    """The copies that have to go so that the rest fits into ``limit_bytes``."""
    there = copies(folder)
    total = 0
    for position, path in enumerate(reversed(there)):  # those used last stay
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
        if total > limit_bytes:
            return there[: len(there) - position]
    return []


def unfinished(folder: Path) -> list[Path]:
    """Files that processes killed while downloading or reading left in ``folder``."""
    return sorted(folder.glob(f"{_TEMPORARY}*"))


def _through_cache(
    stack: contextlib.ExitStack, folder: Path, storage: Storage, key: str, expected: ExpectedObject, limit_bytes: int
) -> Path | None:
    """A file from the cache, or downloaded into it; None if its disk is full, when what was begun there is gone."""
    with contextlib.ExitStack() as begun:
        path = begun.enter_context(_private(folder))
        if not _from_cache(folder / expected.sha256, path, expected):
            try:
                _download(storage, key, path, expected)
            except DiskFull as error:
                logger.warning("downloaded models are not kept in %s: %s", folder, error)
                return None
            _keep(folder, path, expected, limit_bytes)
        stack.push(begun.pop_all())
        return path


def _from_cache(copy: Path, path: Path, expected: ExpectedObject) -> bool:
    """Tell whether the copy is there and whole: then ``path`` is another name of it, which nobody else removes."""
    try:
        os.link(copy, path)
    except OSError:
        return False
    with path.open("rb") as file:
        found = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
    if expected.accepts(*found):
        with contextlib.suppress(OSError):
            os.utime(path)
        return True
    logger.warning("the copy %s is damaged: it is removed, and downloaded again", copy)
    path.unlink()
    copy.unlink(missing_ok=True)
    return False


def _download(storage: Storage, key: str, path: Path, expected: ExpectedObject) -> None:
    problem = ""
    for _ in range(2):
        with translated_full_disk(str(path)), path.open("wb") as file:
            found = _copied(storage, key, file)
        if expected.accepts(*found):
            return
        known = "" if expected.size_bytes is None else f"{expected.size_bytes} bytes with "
        problem = (
            f"{storage.url(key)} is damaged: {found[0]} bytes with SHA-256 {found[1]}, but {expected.said_by} says "
            f"{known}SHA-256 {expected.sha256}"
        )
        logger.warning("%s", problem)
    raise CheckpointError(f"{problem}; {expected.remedy}")


def _copied(storage: Storage, key: str, file: IO[bytes]) -> tuple[int, str]:
    size_bytes, digest = 0, hashlib.sha256()
    for chunk in storage.chunks(key):
        digest.update(chunk)
        size_bytes += file.write(chunk)
    return size_bytes, digest.hexdigest()


def _keep(folder: Path, path: Path, expected: ExpectedObject, limit_bytes: int) -> None:
    """Give the file its name in the cache too, and make room; a cache that cannot be written costs only time."""
    try:
        if path.stat().st_size > limit_bytes:
            return
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(path, folder / expected.sha256)
        for copy in superfluous(folder, limit_bytes):
            copy.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("downloaded models are not kept in %s: %s", folder, error)


def _usable(folder: Path) -> Path | None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        logger.warning("downloaded models are not kept in %s: %s", folder, error)
        return None


@contextlib.contextmanager
def _private(folder: Path | None) -> Iterator[Path]:
    """A name in ``folder`` that nobody else has; what it names is removed afterwards."""
    parent = folder or Path(tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    path = parent / f"{_TEMPORARY}{uuid.uuid4().hex}"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)

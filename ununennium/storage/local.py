"""A folder on a local disk as storage."""

from __future__ import annotations

import contextlib
import errno
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ununennium.storage.base import CHUNK_BYTES, Entry, Leftover, check_key, folder_of
from ununennium.storage.errors import translated_errors

_TEMPORARY = ".tmp-"
_STALE_S = 24 * 3600.0


class LocalStorage:
    """A folder on a local disk (or a network filesystem that has hard links).

    A new object is written beside its final name, forced to the disk, then renamed (``put_file``) or hard-linked
    (``create``, because ``link`` refuses a name that exists and ``rename`` does not), and the folder is forced too.
    """

    def __init__(self, path: str, *, scheme: str = "") -> None:
        self._folder = os.path.abspath(path)
        self._scheme = scheme
        self._swept = False
        self._drafts: set[str] = set()

    @property
    def root(self) -> str:
        return f"{self._scheme}{self._folder}"

    @property
    def is_remote(self) -> bool:
        return False

    @property
    def creates_exclusively(self) -> bool:
        return True

    @contextlib.contextmanager
    def draft(self) -> Iterator[tuple[Path, IO[bytes]]]:
        with contextlib.ExitStack() as stack:
            with translated_errors("written", self.root):
                path, file = stack.enter_context(self._temporary(self._path("draft")))
            self._drafts.add(path)
            stack.callback(self._drafts.discard, path)
            yield Path(path), file

    def put_file(self, local: Path, key: str) -> None:
        target = self._path(key)
        if str(local) in self._drafts:
            with translated_errors("written", self.url(key)):
                force_path(local)
                _make_folder(os.path.dirname(target))
                os.replace(local, target)
                _force_folder(target)
            return
        with translated_errors("written", self.url(key)), self._temporary(target) as (temporary, file):
            with open(local, "rb") as source:
                while chunk := source.read(CHUNK_BYTES):
                    file.write(chunk)
            _force(file)
            os.replace(temporary, target)
            _force_folder(target)

    def create(self, key: str, data: bytes) -> None:
        target = self._path(key)
        with translated_errors("created", self.url(key)), self._temporary(target) as (temporary, file):
            file.write(data)
            _force(file)
            os.link(temporary, target)
            _force_folder(target)

    def read_bytes(self, key: str) -> bytes:
        return b"".join(self.chunks(key))

    def chunks(self, key: str) -> Iterator[bytes]:
        path = self._path(key)
        if os.path.isdir(path):  # a folder is no object, whatever its name
            raise FileNotFoundError(errno.ENOENT, "no such object", self.url(key))
        with translated_errors("read", self.url(key)), open(path, "rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def list(self, prefix: str = "") -> list[str]:
        return sorted(self._keys(prefix))

    def first(self, prefix: str = "") -> str | None:
        return min(self._keys(prefix), default=None)

    def _keys(self, prefix: str) -> Iterator[str]:
        found = _walk(self._folder, folder_of(prefix), temporary=False, prefix=prefix)
        return (key for key in found if key.startswith(prefix))

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        for key in self.list(prefix):
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(self._path(key))
                yield Entry(key, status.st_size, status.st_mtime)

    def leftovers(self) -> Iterator[Leftover]:
        """Files that were begun and not ended."""
        for key in sorted(_walk(self._folder, "", temporary=True)):
            with contextlib.suppress(FileNotFoundError):
                yield Leftover(key, "a file that was never finished", os.stat(self._path(key)).st_mtime, key)

    def discard(self, leftover: Leftover) -> None:
        self.delete(leftover.key)

    def exists(self, key: str) -> bool:
        return os.path.isfile(self._path(key))

    def size(self, key: str) -> int:
        with translated_errors("read", self.url(key)):
            return os.stat(self._path(key)).st_size

    def delete(self, key: str) -> None:
        path = self._path(key)
        with translated_errors("deleted", self.url(key)), contextlib.suppress(FileNotFoundError):
            os.unlink(path)
            _force_folder(path)

    def url(self, key: str) -> str:
        return f"{self.root}/{key}"

    def _path(self, key: str) -> str:
        return os.path.join(self._folder, *check_key(key).split("/"))

    @contextlib.contextmanager
    def _temporary(self, target: str) -> Iterator[tuple[str, IO[bytes]]]:
        """A new file beside ``target``, gone afterwards unless it was renamed."""
        folder = os.path.dirname(target)
        _make_folder(folder)
        self._sweep(folder)
        temporary = os.path.join(folder, f"{_TEMPORARY}{uuid.uuid4().hex}")
        try:
            with open(temporary, "xb") as file:
                yield temporary, file
        finally:
            with contextlib.suppress(OSError):
                os.unlink(temporary)

    def _sweep(self, folder: str) -> None:
        """Once per instance, remove what processes that were killed while writing left a day ago or earlier."""
        if self._swept:
            return
        self._swept = True
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(_TEMPORARY) and entry.stat().st_mtime < time.time() - _STALE_S:
                    os.unlink(entry.path)


def _walk(root: str, inside: str, *, temporary: bool, prefix: str = "") -> Iterator[str]:
    """The files below the folder ``inside`` of ``root``, in no order: those that are being written, or all others.

    Folders in which nothing can begin with ``prefix`` are left out.
    """
    folders = [f"{inside}/" if inside else ""]
    with translated_errors("listed", root):
        while folders:
            folder = folders.pop()
            try:
                entries = os.scandir(os.path.join(root, folder))
            except FileNotFoundError:
                continue
            with entries:
                for entry in entries:
                    if _is_folder(entry):
                        below = f"{folder}{entry.name}/"
                        if not entry.is_symlink() and (below.startswith(prefix) or prefix.startswith(below)):
                            folders.append(below)  # a link may lead back here
                    elif entry.name.startswith(_TEMPORARY) is temporary:
                        yield folder + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to what nobody may see
        return False


def _make_folder(folder: str) -> None:
    """Make ``folder`` and what is above it, each one's entry forced to the disk like a file's."""
    new: list[str] = []
    above = folder
    while not os.path.isdir(above) and above not in new:
        new.append(above)
        above = os.path.dirname(above)
    try:
        os.makedirs(folder, exist_ok=True)
    except FileExistsError as error:  # not to be taken for "this object exists"
        raise NotADirectoryError(errno.ENOTDIR, "is a file, not a folder", folder) from error
    for each in new:
        _force_folder(each)


def _force(file: IO[bytes]) -> None:
    file.flush()
    os.fsync(file.fileno())


def force_path(path: str | Path) -> None:
    """Wait until the file or the folder at ``path``, which nobody needs to have open, is on the disk itself."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _force_folder(path: str) -> None:
    """Force the entry of ``path`` in its folder to the disk; some filesystems cannot, and do not need it."""
    with contextlib.suppress(OSError):
        force_path(os.path.dirname(path))

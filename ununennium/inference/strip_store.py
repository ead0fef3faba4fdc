"""Predicted strips of a scene on the local disk, from which a killed run goes on.

A strip is a file that appears when it is whole. The folder's name says which scene, model and settings it is of, so
that nothing else can be taken for it; a lock keeps two processes out of one folder. A folder that nobody came back to
for a week is removed by the next run.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from ununennium.errors import StorageError
from ununennium.files import replaced

Layers = Mapping[str, npt.NDArray[Any]]
"""Layers of a strip that are kept: arrays whose last two axes are its rows and columns, by name."""

_LEASE = "lease"
_KEPT_S = 7 * 86_400.0


class StripStore:
    """The strips of one scene.

    Args:
        folder: folder of the strips; made if it is not there.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with _named(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def put(self, number: int, layers: Layers) -> None:
        """Keep a strip.

        Raises:
            StorageError: the disk is full, or refuses.
        """
        file = self._file(number)
        with _named(file), replaced(file) as part, part.open("wb") as target:
            np.savez(target, **dict(layers))  # type: ignore[arg-type]

    def get(self, number: int, *names: str) -> list[npt.NDArray[Any]]:
        """Layers of a strip that is kept, in the order of ``names``.

        Raises:
            StorageError: it is not there, or damaged.
        """
        try:
            with np.load(self._file(number)) as strip:
                return [strip[name] for name in names]
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise StorageError(f"{self._file(number)} cannot be read back ({error}); map the scene again") from error

    def has(self, number: int) -> bool:
        """Tell whether a strip is kept."""
        return self._file(number).exists()

    def missing(self, count: int) -> list[int]:
        """Numbers of the ``count`` strips that are not kept, after those that a crash damaged are removed."""
        for number in range(count):
            if self.has(number) and not self._is_whole(number):
                self._file(number).unlink()
        return [number for number in range(count) if not self.has(number)]

    def agreed(self, name: str, choose: Callable[[], int]) -> int:
        """A number that was chosen when the first strip was made, by whichever process; else ``choose`` chooses it."""
        file = self.folder / name
        with _named(file):
            if not file.exists():
                part = file.with_name(f".{name}.{os.getpid()}.tmp")
                part.write_text(str(choose()), encoding="utf-8")
                with contextlib.suppress(FileExistsError):
                    os.link(part, file)
                part.unlink()
            return int(file.read_text(encoding="utf-8"))

    def _is_whole(self, number: int) -> bool:
        try:
            with zipfile.ZipFile(self._file(number)) as strip:
                return strip.testzip() is None
        except (OSError, zipfile.BadZipFile):
            return False

    def _file(self, number: int) -> Path:
        return self.folder / f"band-{number:05d}.npz"


@contextlib.contextmanager
def strip_store(root: Path, name: str, settings: Mapping[str, Any]) -> Iterator[StripStore]:
    """The strips of a scene, as far as they are made; gone when the block ends well, or with an error of the scene.

    Args:
        root: folder of all such folders.
        name: of the scene.
        settings: all that decides a pixel, JSON-ready.

    Raises:
        StorageError: the folder cannot be made or locked.
    """
    _remove_old(root)
    key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]
    folder = root / f"{name}-{key}"
    store = StripStore(folder)
    lease = _lease(folder)
    if lease is None:  # another process maps the very same scene: it keeps its strips, and this one makes its own
        store = StripStore(Path(tempfile.mkdtemp(prefix=f"{name}-", dir=root)))
        lease = _lease(store.folder)
    keep = True
    try:
        yield store
        keep = False
    except (StorageError, OSError):
        raise
    except Exception:
        keep = False  # the scene's own fault, which going on would meet again
        raise
    finally:
        if not keep:
            shutil.rmtree(store.folder, ignore_errors=True)
            with contextlib.suppress(OSError):
                root.rmdir()
        if lease is not None:
            lease.close()


def _lease(folder: Path) -> IO[str] | None:
    """The right to work in a folder, until it is closed or this process ends; None if another has it."""
    with _named(folder / _LEASE):
        file = (folder / _LEASE).open("a", encoding="utf-8")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            return None
        os.utime(folder)
    return file


def _remove_old(root: Path) -> None:
    """Remove what nobody came back to."""
    for folder in root.glob("*-*"):
        with contextlib.suppress(OSError):
            if time.time() - folder.stat().st_mtime > _KEPT_S and (lease := _lease(folder)) is not None:
                shutil.rmtree(folder, ignore_errors=True)
                lease.close()


@contextlib.contextmanager
def _named(file: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise StorageError(f"{file} cannot be written ({reason}); is there space left? Set UNUNENNIUM_WORK") from error

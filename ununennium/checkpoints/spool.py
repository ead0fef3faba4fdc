"""Checkpoints on the local disk that wait for their upload, and outlive the process that wrote them.

Each destination has a folder of its own, in which a checkpoint is a pair of files: the checkpoint, and the manifest
that will commit it once it is uploaded. The manifest is written last, so a pair is complete if it is there. After a
power cut only its hash tells, which is compared before what another process left is uploaded.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

from ununennium.checkpoints.manifest import Manifest, is_manifest_key
from ununennium.checkpoints.serialise import hash_of, spill_state
from ununennium.errors import CheckpointError, StorageError
from ununennium.storage.errors import translated_full_disk
from ununennium.storage.local import force_path

logger = logging.getLogger(__name__)

DESTINATION = "destination.txt"
TEMPORARY = ".tmp-"
_LOCK = ".lock"
_SPARE = f"{TEMPORARY}spare"
_MANY = 64
_held: set[Path] = set()  # a lock of the process does not keep two of its own threads apart


def spool_root() -> Path:
    """Folder of all spools: ``UNUNENNIUM_SPOOL``; else beside the runs' work folders, in the working directory."""
    return Path(os.environ.get("UNUNENNIUM_SPOOL") or ".ununennium/spool").expanduser().absolute()


def spools(url: str = "") -> list[Spool]:
    """The spools of this machine that lead to ``url``; of every destination if none is given."""
    found = [
        Spool(file.read_text(encoding="utf-8").strip(), file.parent)
        for file in sorted(spool_root().glob(f"*/{DESTINATION}"))
    ]
    return [spool for spool in found if url in ("", spool.url)]


class Spool:
    """A folder of checkpoints that wait for their upload to one destination.

    Args:
        url: the destination, as its storage names itself (``Storage.root``).
        folder: folder of the waiting checkpoints.

    Attributes:
        url: the destination.
        folder: folder of the waiting checkpoints.
    """

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self._lock: IO[bytes] | None = None

    @classmethod
    def claim(cls, url: str) -> Spool:
        """The first spool for ``url`` that no other process has; it is held.

        Raises:
            StorageError: its folder cannot be made.
        """
        name = hashlib.sha256(url.encode()).hexdigest()[:16]
        for number in range(_MANY):
            spool = cls(url, spool_root() / (f"{name}-{number}" if number else name))
            if spool.hold():
                return spool
        raise StorageError(f"{_MANY} processes on this machine save to {url} at once; give each a folder of its own")

    def hold(self) -> bool:
        """Claim the spool for this process, until ``release`` or its end; False if it is held already.

        Raises:
            StorageError: the folder cannot be made.
        """
        if self.folder in _held:
            return False
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            destination = self.folder / DESTINATION
            if not destination.exists():
                destination.write_text(f"{self.url}\n", encoding="utf-8")
            lock = (self.folder / _LOCK).open("ab")
        except OSError as error:
            raise StorageError(
                f"checkpoints for {self.url} cannot wait in {self.folder} ({error.strerror}); set UNUNENNIUM_SPOOL to "
                "a folder that can be written"
            ) from error
        try:
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a lock of the process: no forked child keeps it alive
        except OSError:
            lock.close()
            return False
        self._lock = lock
        _held.add(self.folder)
        self._sweep()
        return True

    def release(self) -> None:
        """Let another process have the spool."""
        if self._lock is not None:
            with contextlib.suppress(OSError):
                (self.folder / _SPARE).unlink(missing_ok=True)
            _held.discard(self.folder)
            self._lock.close()
            self._lock = None

    @contextlib.contextmanager
    def new(self, *, recycled: bool = False) -> Iterator[tuple[Path, IO[bytes]]]:
        """A new file in the spool, gone afterwards unless ``keep`` took it.

        Args:
            recycled: overwrite a file that was uploaded, if there is one: what the system still has of it in memory is
                written many times faster than memory that it has to find. It may be longer than what is written.

        Raises:
            StorageError: the disk is full, or cannot be written.
        """
        path = self.folder / f"{TEMPORARY}{uuid.uuid4().hex}"
        mode = "xb"
        if recycled:
            with contextlib.suppress(OSError):
                os.replace(self.folder / _SPARE, path)
                mode = "r+b"
        try:
            with translated_full_disk(str(path)), open(path, mode) as file:
                yield path, file
        except OSError as error:
            raise StorageError(f"no checkpoint can wait in {self.folder}: {type(error).__name__}: {error}") from error
        finally:
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)

    def spill(self, state: Mapping[str, Any]) -> Path:
        """Write what ``sanitise`` returned into a new file, which is the caller's to ``keep`` or to remove.

        Raises:
            CheckpointError: it cannot be serialised.
            StorageError: the disk is full, or cannot be written.
        """
        with self.new(recycled=True) as (path, file):
            spill_state(state, path, file)
            file.truncate()
            return path.rename(path.with_name(f"{path.name}-spilled"))

    def keep(self, path: Path, manifest: Manifest) -> None:
        """Take the file at ``path`` as the checkpoint of ``manifest``: from here on it outlives this process.

        Raises:
            StorageError: the disk is full.
        """
        with self.new() as (note, file):
            file.write(manifest.to_json())
            file.flush()
            os.replace(path, self.file(manifest))
            os.replace(note, self.folder / manifest.manifest_key)

    def force(self, manifest: Manifest) -> None:
        """Wait until the pair is on the disk itself: from here on it outlives the machine's power, too.

        Raises:
            FileNotFoundError: it is not there any more.
            StorageError: the disk is full.
        """
        with translated_full_disk(str(self.file(manifest))):
            for path in (self.file(manifest), self.folder / manifest.manifest_key, self.folder):
                force_path(path)

    def file(self, manifest: Manifest) -> Path:
        """File in which the checkpoint of ``manifest`` waits."""
        return self.folder / manifest.key

    def waiting(self) -> list[Manifest]:
        """Manifests that wait, oldest first; one that cannot be read is warned of and left out."""
        found: list[Manifest] = []
        for path in sorted(self.folder.glob("*.json")):
            if not is_manifest_key(path.name):
                continue
            try:
                manifest = Manifest.from_json(path.read_bytes())
                found.append(replace(manifest, url=f"{self.url}/{manifest.key}"))
            except FileNotFoundError:
                continue
            except CheckpointError as error:
                logger.warning("%s is left out: %s", path, error)
        return sorted(found, key=lambda manifest: manifest.age_order)

    def is_whole(self, manifest: Manifest) -> bool:
        """Tell whether the file still has the length and hash that it was written with."""
        return hash_of(self.file(manifest)) == (manifest.size_bytes, manifest.sha256)

    def remove(self, manifest: Manifest) -> None:
        """Let go of a checkpoint that is uploaded, or that nobody wants any more: manifest first.

        Its file is kept, nameless, until ``release``: the next one is written over it.
        """
        with contextlib.suppress(OSError):
            (self.folder / manifest.manifest_key).unlink(missing_ok=True)
            os.replace(self.file(manifest), self.folder / _SPARE)

    def _sweep(self) -> None:
        """Remove what a process that was killed while writing left; this one has the spool to itself."""
        for path in self.folder.iterdir():
            lacks_manifest = path.suffix == ".pt" and not path.with_suffix(".json").exists()
            if path.name.startswith(TEMPORARY) or lacks_manifest:
                path.unlink(missing_ok=True)

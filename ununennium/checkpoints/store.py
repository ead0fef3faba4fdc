"""Checkpoints in one folder of any storage: complete or absent, checked when read, never lost by being replaced.

A save goes in this order, and stopping anywhere leaves every earlier checkpoint as it was::

    serialise into a local spool file, hashing; force it to the disk
    upload it under a name that holds its hash             (no object is ever changed; within a disk it is renamed)
    ask for its length, create its manifest, exclusively   (this is the commit)
    read it back: length, SHA-256                          (now an older one may be deleted)

and a deletion goes the other way round: manifest first. Reading back takes as long as uploading did, and the commit
does not wait for it: object stores refuse what arrives damaged (each part is sent with its checksum), and readers check
the hash. What turns out damaged all the same is taken back, while everything older is still there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Literal

import torch

from ununennium.checkpoints.manifest import (
    PREFIX,
    Manifest,
    SavePoint,
    best_first,
    checkpoint_key,
    is_manifest_key,
    manifest_key,
    retained,
)
from ununennium.checkpoints.object_cache import ExpectedObject, open_verified
from ununennium.checkpoints.read_back import check_length, read_back
from ununennium.checkpoints.sanitise import sanitise
from ununennium.checkpoints.serialise import read_state, write_state
from ununennium.errors import CheckpointError, StorageError, StorageUnavailable
from ununennium.storage.base import Storage
from ununennium.storage.open import open_storage
from ununennium.storage.patience import patiently
from ununennium.version import __version__

__all__ = ["CheckpointStore", "Manifest", "retained", "sanitise"]

logger = logging.getLogger(__name__)


class CheckpointStore:
    """The checkpoints in the folder at ``dirpath``.

    Args:
        dirpath: a folder or any fsspec URL; it need not exist yet.
        spool: local folder for the one file being written or read; if not given, a file is written where it is going to
            stay, if that is a local folder, and in the system's temporary folder otherwise. What remote storage gave
            may be kept: see ``load_cache``.

    Attributes:
        storage: the folder.
        writer: token in the manifests that this object writes, by which it knows its own.

    Raises:
        ConfigError: fsspec does not know the URL's scheme.
    """

    def __init__(self, dirpath: str | os.PathLike[str], *, spool: Path | None = None) -> None:
        self.storage: Storage = open_storage(dirpath)
        self.writer = uuid.uuid4().hex
        self._spool = spool
        self._undeleted: dict[str, list[str]] = {}
        self._unproven: dict[str, Manifest] = {}
        self._seen: set[str] = set()
        self._newest_generation = 0

    # ------------------------------------------------------------------ write

    def save(
        self,
        state: Mapping[str, Any],
        *,
        epoch: int,
        step: int,
        batches_done: int = 0,
        metrics: Mapping[str, float] | None = None,
        monitor: str = "",
        mode: Literal["min", "max"] = "min",
        score: float | None = None,
    ) -> Manifest:
        """Write a checkpoint; when this returns, it is complete and has been read back.

        Args:
            state: state to save; see ``sanitise`` for the types that it may hold.
            epoch: completed epochs.
            step: optimizer steps that ran.
            batches_done: micro-batches consumed in the running epoch.
            metrics: the epoch's metrics, for people.
            monitor: metric that ranks checkpoints.
            mode: whether a smaller or a larger score is better.
            score: the monitored value, or None.

        Returns:
            The manifest of the checkpoint; an older one's if the very same state was saved before.

        Raises:
            CheckpointError: ``state`` holds something that cannot be saved.
            StorageError: the storage failed, or the disk is full; nothing that was saved before is lost.
        """
        return self.save_at(state, SavePoint(epoch, step, batches_done, metrics, monitor, mode, score))

    def save_at(self, state: Mapping[str, Any], point: SavePoint) -> Manifest:
        """Write a checkpoint, as ``save`` does."""
        self.look_for_generations()
        with self._temporary() as (path, file):
            manifest = self.serialise(sanitise(state), path, file, point)
            try:
                return self.publish(manifest, path)
            except Exception:
                self._discard(manifest)
                raise

    def serialise(self, state: Mapping[str, Any], path: Path, file: IO[bytes], point: SavePoint) -> Manifest:
        """The first half of ``save``: write what ``sanitise`` returned into the local ``file``, which lies at ``path``.

        Args:
            state: the state.
            path: of the file.
            file: open for writing.
            point: position of training.

        Returns:
            The manifest that commits it, once ``publish`` has uploaded it.

        Raises:
            CheckpointError: ``state`` holds something that cannot be saved.
            StorageError: the disk is full.
        """
        return self.describe(*write_state(state, path, file), point)

    def describe(self, size_bytes: int, sha256: str, point: SavePoint) -> Manifest:
        """The manifest of a file of this length and hash, written now: newer than all that this object knows of."""
        key = checkpoint_key(epoch=point.epoch, step=point.step, sha256=sha256)
        self._newest_generation += 1
        return Manifest(
            key=key,
            epoch=point.epoch,
            step=point.step,
            batches_done=point.batches_done,
            size_bytes=size_bytes,
            sha256=sha256,
            created=datetime.now(UTC).isoformat(timespec="microseconds"),
            writer=self.writer,
            generation=self._newest_generation,
            monitor=point.monitor,
            mode=point.mode,
            score=None if point.score is None else float(point.score),
            metrics={name: float(value) for name, value in (point.metrics or {}).items()},
            versions={"ununennium": __version__, "torch": str(torch.__version__)},
            url=self.storage.url(key),
        )

    def publish(self, manifest: Manifest, path: Path) -> Manifest:
        """The second half: upload the file at ``path``, commit it, and read it back. It may be done again.

        Raises:
            FileNotFoundError: there is no such local file.
            StorageUnavailable: the storage does not answer, or holds something else, which is taken back; trying again
                may help, and does not upload again what only could not be read back.
            StorageError: the storage refused.
        """
        committed = self._unproven.get(manifest.key)
        if committed is None:
            self.storage.put_file(path, manifest.key)
            check_length(self.storage, manifest.key, manifest.size_bytes)
            committed = self._unproven[manifest.key] = self._commit(manifest)
        self._prove(manifest)
        del self._unproven[manifest.key]
        self._undeleted.pop(manifest.key, None)  # saved again: it is wanted after all
        self._retry_deletions()
        return committed

    def is_whole(self, manifest: Manifest) -> bool:
        """Tell whether what is stored has the length and the hash that its manifest says; all of it is read."""
        return read_back(self.storage, manifest.key) == (manifest.size_bytes, manifest.sha256)

    def is_unproven(self, manifest: Manifest) -> bool:
        """Tell whether ``publish`` committed it and could not read it back yet."""
        return manifest.key in self._unproven

    def delete(self, manifest: Manifest) -> None:
        """Remove a checkpoint. A failure is logged, and tried again after the next save; it is never fatal."""
        self._unproven.pop(manifest.key, None)
        self._undeleted[manifest.key] = [manifest.manifest_key, manifest.key]
        self._retry_deletions()

    # ------------------------------------------------------------------ read

    def manifests(self) -> list[Manifest]:
        """The checkpoints that exist now, oldest first; a manifest that cannot be read is warned of and left out."""
        found: list[Manifest] = []
        for key in filter(is_manifest_key, patiently(lambda: self.storage.list(PREFIX))):
            manifest = self._listed(key)
            if manifest is not None:
                found.append(manifest)
        self.count_from(found)
        return sorted(found, key=lambda manifest: manifest.age_order)

    def count_from(self, manifests: Iterable[Manifest]) -> None:
        """Make what is written from now on newer than ``manifests``, wherever they lie."""
        for manifest in manifests:
            self._newest_generation = max(self._newest_generation, manifest.generation)

    def latest(self) -> Manifest | None:
        """The newest checkpoint: that of the highest write generation, whatever the clocks of its writers said."""
        manifests = self.manifests()
        return manifests[-1] if manifests else None

    def best(self) -> Manifest | None:
        """The checkpoint with the best finite score; of two equal ones the older."""
        ranking = best_first(self.manifests())
        return ranking[0] if ranking else None

    def load(self, manifest: Manifest) -> dict[str, Any]:
        """Read a checkpoint onto the CPU, after its length and hash have been checked; see ``load_cache`` for copies.

        Raises:
            CheckpointError: it is missing, or damaged, in two attempts; the message names both hashes.
        """
        remedy = "resume from another checkpoint of the folder"
        expected = ExpectedObject(manifest.sha256, manifest.size_bytes, "its manifest", remedy)

        def read() -> dict[str, Any]:
            with open_verified(self.storage, manifest.key, expected, scratch=self._spool) as path:
                return read_state(path, manifest.url)

        try:
            return patiently(read)
        except FileNotFoundError as error:
            raise CheckpointError(f"{manifest.url} is missing, though its manifest is there") from error

    @classmethod
    def at(cls, url: str | os.PathLike[str]) -> tuple[CheckpointStore, list[Manifest]]:
        """The store that ``url`` lies in, and the checkpoints that it names.

        Args:
            url: a folder (all its checkpoints, oldest first), or one checkpoint (``….pt``) or its manifest.

        Raises:
            CheckpointError: there is no such checkpoint, or it was never committed.
        """
        text = os.fspath(url)
        if not text.endswith((".pt", ".json")):
            store = cls(text)
            return store, store.manifests()
        folder, slash, name = text.rpartition("/")
        store = cls(folder if slash else ".")
        key = name if name.endswith(".json") else manifest_key(name)
        try:
            return store, [patiently(lambda: store._read_manifest(key))]
        except CheckpointError as error:
            raise CheckpointError(f"{store.storage.url(key)} is {error}") from error
        except FileNotFoundError as error:
            inside = cls(text)
            with contextlib.suppress(StorageError):  # a file, no folder, though a folder may have such a name, too
                if manifests := inside.manifests():
                    return inside, manifests
            raise CheckpointError(
                f"{text} is no checkpoint: there is no manifest {key} beside it, so it was never committed, and no "
                "folder of that name holds checkpoints; give a folder to take its newest checkpoint"
            ) from error

    @classmethod
    def read(cls, url: str | os.PathLike[str]) -> dict[str, Any]:
        """The checkpoint at ``url``; of a folder the newest that is whole.

        Raises:
            CheckpointError: there is none, or none that is whole.
        """
        store, manifests = cls.at(url)
        if not manifests:
            raise CheckpointError(f"there is no checkpoint in {store.storage.root}")
        first_error: CheckpointError | None = None
        for manifest in reversed(manifests):
            try:
                return store.load(manifest)
            except CheckpointError as error:
                first_error = first_error or error
                logger.warning("%s", error)
        raise first_error or CheckpointError(f"there is no whole checkpoint in {store.storage.root}")

    # ------------------------------------------------------------------ the steps of a save

    def _prove(self, manifest: Manifest) -> None:
        """Read the upload back, twice if need be: what replaces older checkpoints has to be proven whole."""
        for _ in range(2):
            found = read_back(self.storage, manifest.key)
            if found == (manifest.size_bytes, manifest.sha256):
                return
        self._take_back(manifest)
        raise StorageUnavailable(
            f"{manifest.url} was stored with {found[0]} bytes and SHA-256 {found[1]} instead of {manifest.size_bytes} "
            f"bytes and SHA-256 {manifest.sha256}; it is taken back"
        )

    def _take_back(self, manifest: Manifest) -> None:
        """Undo the commit of a damaged upload; where that fails, the next try replaces the upload."""
        self._unproven.pop(manifest.key, None)
        for key in (manifest.manifest_key, manifest.key):
            try:
                self.storage.delete(key)
            except StorageError as error:
                logger.warning("%s is damaged and could not be taken back: %s", self.storage.url(key), error)
                return

    def _commit(self, manifest: Manifest) -> Manifest:
        """Create the manifest. It may be there: from an earlier save of the same state, or from a lost answer."""
        try:
            self.storage.create(manifest.manifest_key, manifest.to_json())
            return manifest
        except (FileExistsError, StorageError) as error:
            try:
                existing = self._read_manifest(manifest.manifest_key)
            except FileNotFoundError:
                if isinstance(error, StorageError):
                    raise error from None
                raise StorageUnavailable(f"{manifest.url} could not be committed, for now: {error}") from error
            if existing.sha256 != manifest.sha256:
                raise CheckpointError(f"{manifest.url} is the name of another checkpoint already") from error
            return self._renewed(existing, manifest.generation)

    def _renewed(self, existing: Manifest, generation: int) -> Manifest:
        """``existing``, whose state was saved again, as the newest: with ``generation``, if others came after it."""
        if all(existing.generation >= other.generation for other in self.manifests()):
            return existing
        renewed = replace(existing, generation=generation)
        with self.storage.draft() as (path, file):
            file.write(renewed.to_json())
            file.flush()
            self.storage.put_file(path, existing.manifest_key)
        return renewed

    def _discard(self, manifest: Manifest) -> None:
        """Remove the upload of a save that failed, unless it is committed or nobody can tell."""
        with contextlib.suppress(StorageError):
            if not self.storage.exists(manifest.manifest_key):
                self.storage.delete(manifest.key)

    def _retry_deletions(self) -> None:
        for key, remaining in list(self._undeleted.items()):
            try:
                while remaining:
                    self.storage.delete(remaining[0])
                    remaining.pop(0)
            except StorageError as error:
                logger.warning("not deleted yet, tried again after the next save: %s", error)
            else:
                del self._undeleted[key]

    def _read_manifest(self, key: str) -> Manifest:
        manifest = Manifest.from_json(self.storage.read_bytes(key))
        if manifest.manifest_key != key:
            raise CheckpointError(f"the manifest {key} speaks of {manifest.key}")
        return replace(manifest, url=self.storage.url(manifest.key))

    @contextlib.contextmanager
    def _temporary(self) -> Iterator[tuple[Path, IO[bytes]]]:
        """A new local file, removed afterwards unless it became the checkpoint."""
        if self._spool is None:
            with self.storage.draft() as draft:
                yield draft
            return
        self._spool.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(prefix="ununennium-save-", suffix=".pt", dir=self._spool) as file:
            yield Path(file.name), file

    # ------------------------------------------------------------------ generations

    def look_for_generations(self) -> None:
        """Learn of what others wrote since: one listing, and the manifests that were not read before."""
        for key in filter(is_manifest_key, patiently(lambda: self.storage.list(PREFIX))):
            if key not in self._seen and (manifest := self._listed(key)) is not None:
                self.count_from([manifest])

    def _listed(self, key: str) -> Manifest | None:
        """The manifest at ``key``; None, with a warning unless it is gone, where there is none that can be read."""
        manifest: Manifest | None
        try:
            manifest = patiently(lambda: self._read_manifest(key))
        except FileNotFoundError:
            return None  # deleted since it was listed
        except CheckpointError as error:
            logger.warning("%s is left out: %s", self.storage.url(key), error)
            manifest = None
        self._seen.add(key)
        return manifest

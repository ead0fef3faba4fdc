"""Saving checkpoints in the background: through a spool on the local disk, and an upload that is tried again.

States of one checkpoint, and the thread that makes each step::

    held -------- written ------ waiting ------- committed ------ kept, or deleted
          writer          writer         uploader          uploader
    (a copy, or   (a file of     (its manifest   (its manifest is in the storage;
    a spill file)  the spool)     is spooled)     superfluous ones are deleted)

One condition, ``_changed``, guards all of it. The caller waits for the state before its own to be written, for nothing
else. What is superfluous before it was uploaded is dropped from the spool; what waits when the process ends is uploaded
by the next one (``upload_left``). Decisions are those of ``direct_saver``.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ununennium.checkpoints.direct_saver import DirectSaver, Report, Retention, Saver
from ununennium.checkpoints.manifest import Manifest, SavePoint, retained
from ununennium.checkpoints.sanitise import sanitise
from ununennium.checkpoints.serialise import Snapshots, hash_of
from ununennium.checkpoints.spool import Spool, spools
from ununennium.checkpoints.store import CheckpointStore
from ununennium.errors import CheckpointError, StorageError, StorageUnavailable, UnunenniumError
from ununennium.storage.patience import patiently

__all__ = ["BackgroundSaver", "DirectSaver", "Report", "Saver", "upload_left"]

logger = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_HURRY_S = 1.0
_JOIN_S = 5.0
_WRITE_S = 600.0


class BackgroundSaver:
    """Saves into a spool on the local disk; a thread uploads what lies there, one checkpoint after another.

    The storage may be slow or away: whatever fails is tried again for as long as this object lives, each checkpoint
    that a newer and better one makes superfluous is dropped, and the rest is still in the spool when the process ends,
    for ``upload_left`` to find. So no more wait than are to be kept, and one is on its way at any time.

    Args:
        store: destination.
        save_top_k: see ``retained``.
        kept: checkpoints kept before, oldest first.
        protected: URLs that are never deleted.
        snapshot: copy the state, and write the copy to the disk in a thread: the caller waits for the copy alone, and
            the memory of a second state is taken. Without, the caller waits until the state is in a file, which the
            system need not have on the disk yet; a thread hashes it.

    Raises:
        StorageError: the spool cannot be written.
    """

    def __init__(
        self,
        store: CheckpointStore,
        save_top_k: int,
        kept: list[Manifest],
        protected: set[str],
        *,
        snapshot: bool = False,
    ) -> None:
        self._store = store
        self._keeper = Retention(store, save_top_k, kept, protected)
        self._spool = Spool.claim(store.storage.root)
        self._changed = threading.Condition()
        self._waiting = self._spool.waiting()
        store.count_from(self._waiting)
        self._left_by_another = {manifest.key for manifest in self._waiting}
        self._uploading: Manifest | None = None
        self._committed: list[Manifest] = []
        self._warnings: list[str] = []
        self._trouble = False
        self._hopeless = False
        self._hurry = False
        self._deleting = False
        self._closing = False
        self._snapshots = Snapshots() if snapshot else None
        self._to_write: tuple[dict[str, Any] | Path, SavePoint] | None = None
        self._not_written: Exception | None = None
        self._threads = [
            threading.Thread(target=self._upload_all, name="checkpoint-upload", daemon=True),
            threading.Thread(target=self._write_all, name="checkpoint-write", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # ------------------------------------------------------------------ in the caller's thread

    def save(self, state: Mapping[str, Any], point: SavePoint) -> Report:
        """Put ``state`` into the spool.

        Raises:
            CheckpointError: this state, or with ``snapshot`` the one before, holds something that cannot be saved.
            StorageError: the local disk is full or gone, now or after the save before; storage that does not answer is
                no error here.
        """
        plain = sanitise(state)
        self._wait_until_written(_WRITE_S)
        held = self._spool.spill(plain) if self._snapshots is None else self._snapshots.copy(plain)
        with self._changed:
            self._to_write = (held, point)
            self._changed.notify_all()
        return self._report()

    def expected(self) -> list[Manifest]:
        with self._changed:
            self._changed.wait_for(lambda: self._to_write is None, _WRITE_S)
            return retained([*self._keeper.kept, *self._ours()], self._keeper.save_top_k)

    def warnings(self) -> list[str]:
        if not self._warnings:  # asked after every step: no lock where there is nothing
            return []
        with self._changed:
            told, self._warnings = self._warnings, []
        return told

    def flush(self, timeout_s: float) -> Report:
        """Wait until everything is committed, or nothing more can be hoped for, or ``timeout_s`` seconds are over.

        Raises:
            CheckpointError: the last snapshot holds something that cannot be saved.
            StorageError: the local disk is full.
        """
        deadline = time.monotonic() + timeout_s
        self._wait_until_written(timeout_s)
        with self._changed:
            self._hurry, self._hopeless = True, False
            self._changed.notify_all()
            self._changed.wait_for(
                lambda: self._hopeless or not (self._waiting or self._deleting),
                timeout=max(0.0, deadline - time.monotonic()),
            )
            self._hurry = False
        return self._report()

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(_JOIN_S)  # one that a server keeps waiting ends with the process
        self._spool.release()

    @property
    def kept(self) -> list[Manifest]:
        """Checkpoints that are committed and kept at this moment, oldest first."""
        return self._keeper.kept

    @property
    def folder(self) -> str:
        """Folder in which checkpoints wait."""
        return str(self._spool.folder)

    def _report(self) -> Report:
        with self._changed:
            committed, self._committed = self._committed, []
            return Report(self._keeper.kept, committed, [manifest.url for manifest in self._waiting])

    def _wait_until_written(self, timeout_s: float) -> None:
        """Until the last snapshot is in the spool; raises what kept it from there."""
        with self._changed:
            written = self._changed.wait_for(lambda: self._to_write is None, timeout_s)
            failure, self._not_written = self._not_written, None
        if failure is not None:
            raise failure
        if not written:
            raise StorageError(f"the last checkpoint was not written to {self._spool.folder} within {timeout_s:.0f} s")

    def _drop_superfluous(self) -> None:
        """Forget what a newer one in the spool would have replaced anyway, unless it is on its way already."""
        ours = self._ours()
        wanted = retained([*self._keeper.kept, *ours], self._keeper.save_top_k)
        for manifest in ours:
            begun = manifest is self._uploading or self._store.is_unproven(manifest)
            if manifest not in wanted and not begun:
                self._waiting.remove(manifest)
                self._spool.remove(manifest)

    def _ours(self) -> list[Manifest]:
        """Checkpoints that this object wrote and has not uploaded."""
        return [manifest for manifest in self._waiting if manifest.key not in self._left_by_another]

    # ------------------------------------------------------------------ in threads of their own

    def _write_all(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closing or self._to_write is not None)
                if self._to_write is None:
                    return
                held, point = self._to_write
            failure: Exception | None = None
            try:
                self._write(held, point)
            except Exception as error:
                failure = error if isinstance(error, UnunenniumError) else StorageError(f"the spool failed: {error!r}")
            with self._changed:
                self._to_write, self._not_written = None, failure
                self._changed.notify_all()

    def _write(self, held: dict[str, Any] | Path, point: SavePoint) -> None:
        """Make a checkpoint that waits of a copied state, or of the file that a state is in."""
        if isinstance(held, Path):
            try:
                self._take(held, self._store.describe(*hash_of(held), point))
            finally:
                held.unlink(missing_ok=True)
            return
        with self._spool.new() as (path, file):
            self._take(path, self._store.serialise(held, path, file, point))

    def _take(self, path: Path, manifest: Manifest) -> None:
        with self._changed:
            self._left_by_another.discard(manifest.key)
            if any(manifest.key == other.key for other in (*self._waiting, *self._keeper.kept)):
                return  # the very same state
            self._spool.keep(path, manifest)
            self._waiting.append(manifest)
            self._drop_superfluous()
            self._changed.notify_all()

    def _upload_all(self) -> None:
        attempts = 0
        while (manifest := self._next(attempts)) is not None:
            try:
                if attempts and not self._spool.is_whole(manifest):
                    raise CheckpointError(f"{self._spool.file(manifest)} is damaged; it is not uploaded")
                self._spool.force(manifest)  # here, and not in the caller's thread, which it would keep waiting
                committed = self._store.publish(manifest, self._spool.file(manifest))
            except Exception as error:
                attempts += 1
                self._failed(manifest, error)
            else:
                attempts = 0
                self._done(manifest, committed)

    def _next(self, attempts: int) -> Manifest | None:
        """Next checkpoint to upload, after a pause if it failed before; None at the end."""
        pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** (attempts - 1)) if attempts else 0.0
        resume = time.monotonic() + pause
        with self._changed:
            self._uploading = None
            while not self._closing:
                left = resume - time.monotonic()
                if self._hurry:
                    left = min(left, resume - pause + _HURRY_S - time.monotonic())
                if left <= 0 and self._waiting:
                    self._uploading = self._waiting[0]
                    return self._uploading
                self._changed.wait(left if left > 0 else None)
        return None

    def _done(self, manifest: Manifest, committed: Manifest) -> None:
        old: list[Manifest] = []
        with self._changed:
            if manifest.key not in self._left_by_another:
                old = self._keeper.add(committed)
                self._committed.append(committed)
            self._deleting = True
            self._waiting = [other for other in self._waiting if other is not manifest]
            if self._trouble:
                self._trouble = False
                self._warnings.append(f"{self._store.storage.root} can be written again")
        for each in old:
            self._store.delete(each)
        self._spool.remove(manifest)
        with self._changed:
            self._deleting = False
            self._changed.notify_all()

    def _failed(self, manifest: Manifest, error: Exception) -> None:
        with self._changed:
            gone = isinstance(error, FileNotFoundError) or not self._spool.file(manifest).exists()
            if gone or isinstance(error, CheckpointError):  # trying again cannot help
                self._waiting = [other for other in self._waiting if other is not manifest]
                self._warnings.append(f"the checkpoint {manifest.key} is lost: {error}")
            elif not self._trouble:
                self._trouble = True
                self._warnings.append(
                    f"a checkpoint could not be uploaded and is tried again; training goes on, and what is not "
                    f"uploaded waits in {self._spool.folder}: {error}"
                )
            if self._hurry and not isinstance(error, StorageUnavailable):
                self._hopeless = True
            self._changed.notify_all()


def upload_left(url: str | os.PathLike[str]) -> list[Manifest]:
    """Upload what an earlier process on this machine could not, to the folder or checkpoint at ``url``.

    A failure is warned of, and leaves the rest where it is; so is a spool that a living process has.

    Returns:
        What was uploaded, oldest first.

    Raises:
        ConfigError: fsspec does not know the URL's scheme.
    """
    text = os.fspath(url)
    folders = [text]
    if text.endswith((".pt", ".json")):  # one checkpoint, or a folder that has such a name
        folders.append(text.rpartition("/")[0] or ".")
    return [manifest for folder in folders for manifest in _upload_left(CheckpointStore(folder))]


def _upload_left(store: CheckpointStore) -> list[Manifest]:
    done: list[Manifest] = []
    for spool in spools(store.storage.root):
        if not spool.hold():
            continue
        try:
            for manifest in spool.waiting():
                if not spool.is_whole(manifest):
                    raise CheckpointError(f"{spool.file(manifest)} is damaged; it is not uploaded")
                done.append(patiently(functools.partial(store.publish, manifest, spool.file(manifest))))
                spool.remove(manifest)
        except (UnunenniumError, OSError) as error:
            logger.warning("checkpoints left in %s are not uploaded: %s", spool.folder, error)
        finally:
            spool.release()
    return done

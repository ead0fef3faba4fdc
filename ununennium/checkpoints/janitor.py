"""Leftovers in storage and in spools that nobody will use again, with the reason for each.

Only what a writer that was killed can leave is ever taken: a checkpoint or a version without the manifest or contract
that would have committed it, an upload in parts that never ended, a probe, a file in a spool that is in storage as
well, a local copy that nobody uses. What has a manifest, what a champion ever was, and anything young or of unknown
age stays.
"""

from __future__ import annotations

import contextlib
import functools
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ununennium.checkpoints import object_cache as load_cache
from ununennium.checkpoints.contract import CONTRACT, WEIGHTS
from ununennium.checkpoints.manifest import Manifest, manifest_key
from ununennium.checkpoints.spool import DESTINATION, TEMPORARY, Spool, spools
from ununennium.checkpoints.store import CheckpointStore
from ununennium.errors import ConfigError, UnunenniumError
from ununennium.storage.base import Storage

SAFE_HOURS = 24.0
_LEAST_HOURS = 1.0
_UNUSED_DAYS = 30.0
_BLOB = re.compile(r"(?:.*/)?epoch=\d{4,}-step=\d{8,}-[0-9a-f]{12}\.pt")
_WEIGHTS = re.compile(rf"(?:.*/)?models/[^/]+/versions/[^/]+/{re.escape(WEIGHTS)}")
_PROBE = re.compile(r"(?:.*/)?probe-[0-9a-f]{32}")


@dataclass(frozen=True)
class Finding:
    """Something that looks left behind.

    Attributes:
        place: URL or path.
        what: description, in words.
        size_bytes: its length; None if unknown.
        age_hours: how old it is; None if unknown.
        reason: why it can go, or why it stays.
        remove: takes it away; None if it stays.
    """

    place: str
    what: str
    size_bytes: int | None
    age_hours: float | None
    reason: str
    remove: Callable[[], None] | None = None


def find_leftovers(
    storage: Storage, *, older_than_hours: float = SAFE_HOURS, now: float | None = None
) -> Iterator[Finding]:
    """Look through ``storage``, and through the spools of this machine that lead into it.

    Args:
        storage: the folder that holds runs and the registry.
        older_than_hours: leave younger objects alone: they may belong to a save in progress.
        now: seconds since the epoch; the present if not given.

    Raises:
        ConfigError: ``older_than_hours`` is less than an hour.
        StorageError: the storage cannot be listed.
    """
    if not older_than_hours >= _LEAST_HOURS:
        raise ConfigError("older_than_hours", older_than_hours, f"a save may take long: give {_LEAST_HOURS:g} or more")
    clock = time.time() if now is None else now

    def judged(
        place: str, what: str, size: int | None, modified: float | None, reason: str, remove: Callable[[], None]
    ) -> Finding:
        if modified is None:
            return Finding(place, what, size, None, "stays: the storage does not tell its age")
        age = (clock - modified) / 3600.0
        if age < older_than_hours:
            return Finding(place, what, size, age, f"stays: younger than {older_than_hours:g} h, it may be in use")
        return Finding(place, what, size, age, reason, remove)

    entries = list(storage.entries())
    keys = {entry.key for entry in entries}
    for entry in entries:
        committed_by, what = _committed_by(entry.key)
        if what and committed_by not in keys:
            reason = f"there is no {committed_by.rpartition('/')[2]}, so it was never committed"
            if not committed_by:
                reason = "whoever tried this storage was killed before removing it"
            remove = _unless_committed(storage, entry.key, committed_by)
            yield judged(storage.url(entry.key), what, entry.size_bytes, entry.modified, reason, remove)
    for left in storage.leftovers():
        reason = "whoever began it is gone"
        yield judged(
            storage.url(left.key), left.what, None, left.modified, reason, functools.partial(storage.discard, left)
        )
    yield from _in_spools(storage, judged)
    yield from _in_load_cache(judged, clock)


def _committed_by(key: str) -> tuple[str, str]:
    """The object whose existence commits ``key``, and what ``key`` is; nothing for what is no concern of ours."""
    if _BLOB.fullmatch(key):
        return manifest_key(key), "a checkpoint without a manifest"
    if _WEIGHTS.fullmatch(key):
        return f"{key.rpartition('/')[0]}/{CONTRACT}", "a version without a contract"
    if _PROBE.fullmatch(key):
        return "", "a probe"
    return "", ""


def _unless_committed(storage: Storage, key: str, committed_by: str) -> Callable[[], None]:
    """Deletes ``key``, unless a save that was slow has committed it since it was listed."""

    def remove() -> None:
        if not committed_by or not storage.exists(committed_by):
            storage.delete(key)

    return remove


def _in_spools(storage: Storage, judged: Callable[..., Finding]) -> Iterator[Finding]:
    for spool in spools():
        if spool.url != storage.root and not spool.url.startswith(f"{storage.root}/"):
            continue
        waiting = {manifest.key: manifest for manifest in spool.waiting()}
        for path in sorted(spool.folder.iterdir()):
            if path.name == DESTINATION or path.suffix == ".json" or path.name == ".lock":
                continue
            status = path.stat()
            size, modified = status.st_size, status.st_mtime
            manifest = waiting.get(path.name)
            if manifest is None:
                what = "a file being written" if path.name.startswith(TEMPORARY) else "a checkpoint without a manifest"
                yield judged(str(path), f"{what}, in a spool", size, modified, "whoever wrote it is gone", path.unlink)
                continue
            what = "a checkpoint that waits for its upload"
            try:
                store = CheckpointStore(spool.url)
                committed = store.storage.exists(manifest.manifest_key)
            except UnunenniumError as error:
                yield Finding(str(path), what, size, None, f"stays: {error}")
                continue
            if committed:
                reason = f"it has been uploaded to {manifest.url}"
                remove = functools.partial(_remove_if_stored_whole, store, spool, manifest)
                yield judged(str(path), what, size, modified, reason, remove)
            else:
                reason = f"stays: it is nowhere else; the next run that saves to {spool.url} uploads it"
                yield Finding(str(path), what, size, None, reason)


def _in_load_cache(judged: Callable[..., Finding], clock: float) -> Iterator[Finding]:
    """Local copies of any storage: what is removed is downloaded again if need be."""
    folder, limit_bytes = load_cache.copies_folder(), load_cache.limit()
    for path in load_cache.unfinished(folder):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            what, reason = "a download that never ended", "whoever began it is gone"
            yield judged(str(path), what, status.st_size, status.st_mtime, reason, path.unlink)
    too_many = load_cache.superfluous(folder, limit_bytes)
    for path in load_cache.copies(folder):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            unused_days = (clock - status.st_mtime) / 86400.0
            if path in too_many:
                reason = f"all copies together have more than {limit_bytes / 1e9:g} GB"
            elif unused_days >= _UNUSED_DAYS:
                reason = f"nobody has used it for {unused_days:.0f} days"
            else:
                continue
            what = "a local copy of what is in storage"
            yield judged(str(path), what, status.st_size, status.st_mtime, reason, path.unlink)


def _remove_if_stored_whole(store: CheckpointStore, spool: Spool, manifest: Manifest) -> None:
    """Its uploader may have been killed before reading it back; else the spool has the only whole copy."""
    if store.is_whole(manifest):
        spool.remove(manifest)

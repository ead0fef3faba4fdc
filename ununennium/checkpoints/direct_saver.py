"""Saving checkpoints while the caller waits, and retention of the best, which every way of saving shares.

An old checkpoint is deleted after a new one was committed, only if the same object wrote it, and never if it is
protected.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from ununennium.checkpoints.manifest import Manifest, SavePoint, retained
from ununennium.checkpoints.store import CheckpointStore


@dataclass
class Report:
    """Fate of the checkpoints.

    Attributes:
        kept: those that are committed and kept, oldest first.
        committed: those that have been committed since the last report, oldest first.
        waiting: URLs of those that have not been uploaded yet.
    """

    kept: list[Manifest] = field(default_factory=list)
    committed: list[Manifest] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)


class Saver(Protocol):
    """Saves states, and deletes what is no longer among those to keep."""

    def save(self, state: Mapping[str, Any], point: SavePoint) -> Report:
        """Save ``state``; see ``CheckpointStore.save`` for what it raises."""

    def expected(self) -> list[Manifest]:
        """Checkpoints to be kept, oldest first, if everything that waits is uploaded."""

    def warnings(self) -> list[str]:
        """Failures since the last call, which are being tried again."""

    def flush(self, timeout_s: float) -> Report:
        """Wait until everything is committed, or no hope is left, or the time is up."""

    def close(self) -> None:
        """End; what has not been uploaded stays in its spool."""


class Retention:
    """Retention of checkpoints: which are kept, and which have to go.

    Args:
        store: store of the checkpoints; only what it wrote itself may be deleted.
        save_top_k: see ``retained``.
        kept: checkpoints kept before, oldest first.
        protected: URLs that are never deleted.
    """

    def __init__(self, store: CheckpointStore, save_top_k: int, kept: list[Manifest], protected: set[str]) -> None:
        self.store = store
        self.save_top_k = save_top_k
        self.kept = kept
        self._protected = protected
        store.count_from(kept)

    def add(self, manifest: Manifest) -> list[Manifest]:
        """Count ``manifest`` among those kept; returns what has to be deleted for it."""
        all_of_them = [*(old for old in self.kept if old.url != manifest.url), manifest]
        self.kept = retained(all_of_them, self.save_top_k)
        return [
            old
            for old in all_of_them
            if old not in self.kept and old.writer == self.store.writer and old.url not in self._protected
        ]


class DirectSaver:
    """Saves while the caller waits.

    Args:
        store: destination.
        save_top_k: see ``retained``.
        kept: checkpoints kept before, oldest first.
        protected: URLs that are never deleted.
    """

    def __init__(self, store: CheckpointStore, save_top_k: int, kept: list[Manifest], protected: set[str]) -> None:
        self._keeper = Retention(store, save_top_k, kept, protected)

    def save(self, state: Mapping[str, Any], point: SavePoint) -> Report:
        store = self._keeper.store
        manifest = store.save_at(state, point)
        for old in self._keeper.add(manifest):
            store.delete(old)
        return Report(self._keeper.kept, [manifest])

    @property
    def kept(self) -> list[Manifest]:
        """Checkpoints that are committed and kept, oldest first."""
        return self._keeper.kept

    def expected(self) -> list[Manifest]:
        return self._keeper.kept

    def warnings(self) -> list[str]:
        return []

    def flush(self, timeout_s: float) -> Report:
        return Report(self._keeper.kept)

    def close(self) -> None:
        pass

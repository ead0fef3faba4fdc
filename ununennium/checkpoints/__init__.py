"""Checkpoints on any storage, the artefact that is promoted, and the registry of champions.

``store`` writes and reads checkpoints, ``artifact`` is a model with its contract, ``registry`` says which version is
the champion. ``registry`` works without torch, so the names below are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ununennium.importing import lazy_names

if TYPE_CHECKING:
    from ununennium.checkpoints.artifact import load_artifact, write_artifact
    from ununennium.checkpoints.manifest import Manifest, retained
    from ununennium.checkpoints.registry import Promotion, Registry
    from ununennium.checkpoints.store import CheckpointStore
    from ununennium.storage.base import Storage
    from ununennium.storage.open import open_storage

__all__ = [
    "CheckpointStore",
    "Manifest",
    "Promotion",
    "Registry",
    "Storage",
    "load_artifact",
    "open_storage",
    "retained",
    "write_artifact",
]

_HOMES = {
    "CheckpointStore": ".store",
    "Manifest": ".manifest",
    "Promotion": ".registry",
    "Registry": ".registry",
    "Storage": "..storage.base",
    "load_artifact": ".artifact",
    "open_storage": "..storage.open",
    "retained": ".manifest",
    "write_artifact": ".artifact",
}

__getattr__, __dir__ = lazy_names(__name__, _HOMES)

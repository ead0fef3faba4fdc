"""Checkpoints on any storage, the artefact that is promoted, and the registry of champions.

``store`` writes and reads checkpoints, ``artifact`` is a model
with its contract, ``registry`` says which version is the champion. ``registry`` works without torch,
so the names below are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
    "CheckpointStore": "ununennium.checkpoints.store",
    "Manifest": "ununennium.checkpoints.manifest",
    "Promotion": "ununennium.checkpoints.registry",
    "Registry": "ununennium.checkpoints.registry",
    "Storage": "ununennium.storage.base",
    "load_artifact": "ununennium.checkpoints.artifact",
    "open_storage": "ununennium.storage.open",
    "retained": "ununennium.checkpoints.manifest",
    "write_artifact": "ununennium.checkpoints.artifact",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)

"""Checkpoints on any storage, the artefact that is promoted, and the registry of champions.

``storage`` is the seam to disks and object stores, ``store`` writes and reads checkpoints, ``artifact`` is a model
with its contract, ``registry`` says which version is the champion. ``storage`` and ``registry`` work without torch,
so the names below are imported when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ununennium.checkpoints.artifact import load_artifact, write_artifact
    from ununennium.checkpoints.manifest import Manifest, retained
    from ununennium.checkpoints.registry import Promotion, Registry
    from ununennium.checkpoints.storage import Storage, open_storage
    from ununennium.checkpoints.store import CheckpointStore

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
    "CheckpointStore": "store",
    "Manifest": "manifest",
    "Promotion": "registry",
    "Registry": "registry",
    "Storage": "storage",
    "load_artifact": "artifact",
    "open_storage": "storage",
    "retained": "manifest",
    "write_artifact": "artifact",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)

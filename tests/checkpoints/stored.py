"""Contents of a folder of checkpoints, as a reader finds them."""

from __future__ import annotations

from ununennium.checkpoints.store import CheckpointStore


def look(url: str) -> dict[str, list]:
    """Numbers of the checkpoints that can be read, and keys of the manifests whose checkpoint cannot."""
    store = CheckpointStore(url)
    complete, dangling = [], []
    for manifest in store.manifests():
        try:
            complete.append(store.load(manifest)["number"])
        except Exception:
            dangling.append(manifest.key)
    return {"complete": complete, "dangling": dangling}

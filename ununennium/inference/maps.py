"""One scene's map with all that belongs to it: the raster, a picture, and the STAC item that says what it is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ununennium.checkpoints.storage import open_storage
from ununennium.evaluation.pictures import class_map_picture, presence_map_picture, value_map_picture
from ununennium.inference.scene import MappedScene, map_scene
from ununennium.inference.stac_item import stac_item
from ununennium.mapping import ITEM, MapJob

_COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def make_map(
    job: MapJob,
    network: nn.Module,
    contract: Mapping[str, Any],
    name: str,
    images: list[str],
    folder: Path,
    *,
    device: str,
) -> dict[str, Any]:
    """Map one scene into ``folder``, and move what was made to the job's output.

    Returns:
        The STAC item.

    Raises:
        DataError: the scene cannot be read, or does not fit the model.
        StorageError: the output cannot be written; nothing of this scene counts as made.
    """
    fingerprint = job.fingerprint(images)  # before it is read: what changes meanwhile is made again
    mapped = map_scene(network, contract, images, folder / "map.tif", device=device, tta=job.tta)
    quicklook(mapped, contract, folder / "quicklook.png")
    assets = {
        "map": {"href": "./map.tif", "type": _COG, "roles": ["data"], "title": job.model},
        "quicklook": {"href": "./quicklook.png", "type": "image/png", "roles": ["overview"]},
    }
    about = {
        "ununennium:model": job.model,
        "ununennium:version": job.version,
        "ununennium:generation": job.generation,
        "ununennium:run_id": contract["run_id"],
        "ununennium:fingerprint": fingerprint,
    }
    item = stac_item(mapped, name, derived_from=images, assets=assets, properties=about)
    storage = open_storage(job.output)
    storage.delete(f"{name}/{ITEM}")  # while it is replaced, it is not there
    for file in ("map.tif", "quicklook.png"):
        storage.put_file(folder / file, f"{name}/{file}")
    (folder / ITEM).write_text(json.dumps(item, indent=1) + "\n", encoding="utf-8")
    storage.put_file(folder / ITEM, f"{name}/{ITEM}")
    return item


def quicklook(mapped: MappedScene, contract: Mapping[str, Any], path: Path) -> None:
    """Draw a map with a legend, as its task wants it."""
    classes = list(contract["classes"])
    if contract.get("task") == "multilabel":
        presence_map_picture(mapped.path, classes, path)
    elif contract.get("task") == "regression":
        value_map_picture(mapped.path, classes[0], path)
    else:
        class_map_picture(mapped.path, classes, path)

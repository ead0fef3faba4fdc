"""Change since the last map of an area: gain, loss and transitions of each class, and a picture.

The last map is the scene's own, or else the newest of another scene on the same grid, as scenes of one tile of a grid
are. Pixels that either map has no data for are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window

from ununennium.checkpoints.contract import ModelContract
from ununennium.data.scenes.align import same_crs
from ununennium.data.scenes.ground import pixel_areas
from ununennium.data.scenes.raster import bounded_cache, open_raster
from ununennium.data.scenes.scene import Scene
from ununennium.evaluation.pictures import change_picture
from ununennium.inference.jobs import ITEM
from ununennium.inference.outputs import MappedScene
from ununennium.prediction.writers import NODATA
from ununennium.storage.base import Storage
from ununennium.tasks import TASKS

_ROWS = 512
_SAME = 1e-6  # of a pixel
_PICTURE = 1600


@dataclass(frozen=True)
class Change:
    """Report of change between two maps.

    Attributes:
        files: ``change`` and ``change_picture``.
        summary: for the item.
        url: of the last map's item.
    """

    files: dict[str, Path]
    summary: dict[str, Any]
    url: str


class LastMaps:
    """The maps that an output has already.

    Args:
        storage: the output.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def find(self, name: str, scene: Scene, classes: Sequence[str]) -> tuple[str, dict[str, Any]] | None:
        """The last map on a scene's grid: its folder and item; the scene's own before all others.

        A map with other classes is no map to compare with.
        """
        own = self._item(name)
        if own is not None and _comparable(own, scene, classes):
            return name, own
        folders = [key.partition("/")[0] for key in self._storage.list() if key.count("/") == 1 and key.endswith(ITEM)]
        items = [(folder, item) for folder in folders if folder != name and (item := self._item(folder)) is not None]
        fitting = [(folder, item) for folder, item in items if _comparable(item, scene, classes)]
        days = [day for day in scene.dates if day is not None]
        if days:  # a scene that was taken before this one
            fitting = [found for found in fitting if found[1]["properties"]["datetime"][:10] <= days[-1][:10]]
        return max(fitting, key=lambda found: _age(found[1]), default=None)

    def fetch(self, name: str, path: Path) -> None:
        """Copy a map here."""
        with path.open("wb") as file:
            for chunk in self._storage.chunks(f"{name}/map.tif"):
                file.write(chunk)

    def url(self, name: str) -> str:
        """URL of a map's STAC item."""
        return self._storage.url(f"{name}/{ITEM}")

    def _item(self, name: str) -> dict[str, Any] | None:
        try:
            item: dict[str, Any] = json.loads(self._storage.read_bytes(f"{name}/{ITEM}"))
        except (FileNotFoundError, ValueError):
            return None
        return item


def write_change(
    last: LastMaps, mapped: MappedScene, name: str, contract: ModelContract, folder: Path
) -> Change | None:
    """Compare a map with the last one of its place.

    Args:
        last: the maps that there are.
        mapped: the new map.
        name: its name.
        contract: of the model.
        folder: for the files.

    Returns:
        None if there is no other map on its grid with the same classes, or classes are not what the model maps.
    """
    classes = list(contract.classes)
    if not TASKS[contract.task].is_exclusive:
        return None
    found = last.find(name, mapped.scene, classes)
    if found is None:
        return None
    before, item = found
    old = folder / "last-map.tif"
    last.fetch(before, old)
    try:
        matrix = transitions(old, mapped.path, mapped.scene, len(classes))
        about = {"since": item["id"], "version": item["properties"].get("ununennium:version")}
        report = {**about, "datetime": item["properties"]["datetime"], **summarise(matrix, classes)}
        picture, table = folder / "change.png", folder / "change.json"
        with open_raster(str(old), "last map") as dataset:
            earlier = _read(dataset)
        with open_raster(str(mapped.path), "map") as dataset:
            later = _read(dataset)
        change_picture(earlier, later, classes, picture)
    finally:
        old.unlink(missing_ok=True)
    table.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    summary = {**about, "share": report["share"], "classes": report["classes"]}
    return Change({"change": table, "change_picture": picture}, summary, last.url(before))


def transitions(old: Path, new: Path, scene: Scene, num_classes: int) -> npt.NDArray[np.float64]:
    """Pixels and square metres that went from one class to another: (2, K, K), rows by the old map, in memory for a
    few rows; square metres, on the ellipsoid, are NaN where pixels have no known size."""
    sizes = pixel_areas(scene)
    totals = np.zeros((2, num_classes, num_classes))
    with rasterio.open(old) as earlier, rasterio.open(new) as later, bounded_cache():
        for row in range(0, scene.height, _ROWS):
            window = Window(0, row, scene.width, min(_ROWS, scene.height - row))
            a, b = earlier.read(1, window=window), later.read(1, window=window)
            known = (a != NODATA) & (b != NODATA)
            pairs = a[known].astype(np.int64) * num_classes + b[known]
            shape = num_classes, num_classes
            totals[0] += np.bincount(pairs, minlength=num_classes**2).reshape(shape)
            if sizes is not None:
                weights = np.broadcast_to(sizes.window(row, 0, *a.shape), a.shape)[known]
                totals[1] += np.bincount(pairs, weights, minlength=num_classes**2).reshape(shape)
    if sizes is None:
        totals[1] = np.nan
    return totals


def summarise(matrix: npt.NDArray[np.float64], classes: Sequence[str]) -> dict[str, Any]:
    """The share that changed; what each class gained, lost and kept; and every change from one class to another."""
    pixels, m2 = matrix

    def area(value: Any, size: Any) -> dict[str, Any]:
        return {"pixels": int(value), "area_m2": None if np.isnan(size) else float(size)}

    of_classes = {
        name: {
            "gained": area(pixels[:, k].sum() - pixels[k, k], m2[:, k].sum() - m2[k, k]),
            "lost": area(pixels[k].sum() - pixels[k, k], m2[k].sum() - m2[k, k]),
            "kept": area(pixels[k, k], m2[k, k]),
        }
        for k, name in enumerate(classes)
    }
    moves = [
        {"from": classes[a], "to": classes[b], **area(pixels[a, b], m2[a, b])}
        for a in range(len(classes))
        for b in range(len(classes))
        if a != b and pixels[a, b]
    ]
    total = pixels.sum()
    changed = total - np.trace(pixels)
    return {
        "compared_pixels": int(total),
        "share": float(changed / total) if total else 0.0,
        "classes": of_classes,
        "moves": sorted(moves, key=lambda move: -move["pixels"]),
    }


def _read(dataset: Any) -> npt.NDArray[Any]:
    scale = min(1.0, _PICTURE / max(dataset.shape))
    values: npt.NDArray[Any] = dataset.read(1, out_shape=tuple(max(1, round(side * scale)) for side in dataset.shape))
    return values


def _comparable(item: Mapping[str, Any], scene: Scene, classes: Sequence[str]) -> bool:
    about = item["properties"]
    transform, shape = about.get("proj:transform"), about.get("proj:shape")
    if shape != [scene.height, scene.width] or transform is None or list(about["ununennium:areas"]) != list(classes):
        return False
    code, pixel = about.get("proj:code") or about.get("proj:wkt2"), max(scene.resolution)
    if code is not None and scene.crs is not None and not same_crs(code, scene.crs):
        return False
    return bool(np.allclose(transform, scene.transform, rtol=0, atol=_SAME * pixel))


def _age(item: Mapping[str, Any]) -> tuple[str, str]:
    about = item["properties"]
    return str(about["datetime"]), str(about["created"])

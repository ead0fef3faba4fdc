"""STAC item of a map: area, time, sources, model, and the share of each class.

STAC 1.0.0 with the projection extension (``proj:code``, ``proj:transform``, ``proj:shape``), the processing extension
(``processing:software``, ``processing:datetime``, ``processing:lineage``) and the raster extension (``raster:scale`` of
probabilities); what is ours begins with ``ununennium:``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import shapely

from ununennium.data.scenes.antimeridian import bbox_of, split, to_degrees
from ununennium.data.scenes.ground import straight_pixels
from ununennium.data.scenes.scene import Scene
from ununennium.inference.outputs import MappedScene
from ununennium.prediction.writers import PROBABILITY_STEP
from ununennium.version import __version__

_EXTENSIONS = [
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
]
_RASTER = "https://stac-extensions.github.io/raster/v2.0.0/schema.json"
_STRAYED = 1.0  # pixels that an edge of the footprint may lie beside the scene's
_MOST_EDGES = 64  # of a side
_DIGITS = 7  # of a degree: about a centimetre
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"


@dataclass(frozen=True)
class Asset:
    """A file of a map.

    Attributes:
        file: its name in the map's folder.
        media: its media type.
        role: in the item.
        title: in words.
    """

    file: str
    media: str
    role: str
    title: str


ASSETS = {
    "map": Asset("map.tif", _COG, "data", "classes or values"),
    "probabilities": Asset("probabilities.tif", _COG, "data", "probability of each class"),
    "confidence": Asset("confidence.tif", _COG, "data", "probability of the mapped class"),
    "geoparquet": Asset("polygons.parquet", "application/vnd.apache.parquet", "data", "polygons"),
    "geojson": Asset("polygons.geojson", "application/geo+json", "data", "polygons in WGS 84"),
    "areas": Asset("areas.csv", "text/csv", "metadata", "area of each class"),
    "quicklook": Asset("quicklook.png", "image/png", "overview", "the map to look at"),
    "change": Asset("change.json", "application/json", "metadata", "what changed since the last map"),
    "change_picture": Asset("change.png", "image/png", "overview", "where it changed"),
}
"""All files that a map can have."""


def stac_item(
    mapped: MappedScene,
    name: str,
    *,
    links: Sequence[Mapping[str, Any]],
    files: Mapping[str, Path],
    properties: Mapping[str, Any],
    title: str,
) -> dict[str, Any]:
    """The item of a map.

    Args:
        mapped: mapped scene.
        name: the item's id.
        links: to the images, the model and the last map.
        files: of the map, by their keys in ``ASSETS``.
        properties: added to those that the map has by itself.
        title: of the map.
    """
    scene = mapped.scene
    days = [day for day in scene.dates if day is not None]
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    geometry, bbox = _footprint(scene)
    scaled = {"probabilities", "confidence"} & files.keys()
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [*_EXTENSIONS, *([_RASTER] if scaled else [])],
        "id": name,
        "geometry": geometry,
        "properties": {
            "title": title,
            "datetime": f"{days[-1][:10]}T00:00:00Z" if days else now,
            "created": now,
            "proj:code": _code(scene),
            "proj:shape": [scene.height, scene.width],
            "proj:transform": list(scene.transform),
            "processing:software": {"ununennium": __version__},
            "processing:datetime": now,
            "processing:lineage": f"mapped by the model {title} from the images that this item is derived from",
            "ununennium:areas": mapped.areas,
            "ununennium:unmapped_pixels": mapped.unmapped,
            **properties,
        },
        "links": [dict(link) for link in links],
        "assets": {kind: _asset(kind) for kind in ASSETS if kind in files},
    }
    if mapped.num_polygons is not None:
        item["properties"]["ununennium:polygons"] = mapped.num_polygons
    if bbox is not None:
        item["bbox"] = bbox
    if scene.crs is not None and item["properties"]["proj:code"] is None:
        item["properties"]["proj:wkt2"] = pyproj.CRS.from_wkt(scene.crs).to_wkt()
    return item


def _asset(kind: str) -> dict[str, Any]:
    about = ASSETS[kind]
    asset: dict[str, Any] = {"href": f"./{about.file}", "type": about.media, "roles": [about.role]}
    asset["title"] = about.title
    if kind in ("probabilities", "confidence"):
        asset["raster:scale"] = PROBABILITY_STEP
    return asset


def _footprint(scene: Scene) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Outline in WGS 84 (longitude, latitude), in parts where it crosses the antimeridian (RFC 7946, 3.1.9), and its
    bounds, west > east if it does (5.2); neither without a CRS."""
    if scene.crs is None:
        return None, None
    a, b, c, d, e, f = scene.transform
    outline = shapely.box(0, 0, scene.width, scene.height)
    longest = max(straight_pixels(scene, _STRAYED), max(scene.width, scene.height) / _MOST_EDGES)
    if longest < max(scene.width, scene.height):
        outline = shapely.segmentize(outline, longest)
    placed = shapely.affinity.affine_transform(outline, [a, b, d, e, c, f])
    there = shapely.transform(split(to_degrees(placed, scene.crs)), lambda points: np.round(points, _DIGITS))
    geometry = shapely.geometry.mapping(shapely.orient_polygons(there))
    return json.loads(json.dumps(geometry)), bbox_of(there)


def _code(scene: Scene) -> str | None:
    if scene.crs is None:
        return None
    authority = pyproj.CRS.from_wkt(scene.crs).to_authority()
    return None if authority is None else ":".join(authority)

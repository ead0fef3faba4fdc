"""What a map is, as a STAC item: where, when, from what, by which model, and how much of each class.

STAC 1.0.0 with the projection extension (``proj:code``, ``proj:transform``, ``proj:shape``) and the processing
extension (``processing:software``); what is ours begins with ``ununennium:``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import pyproj
import rasterio
from rasterio.warp import transform_geom

from ununennium.data.catalog import Scene
from ununennium.inference.scene import MappedScene
from ununennium.version import __version__

_EXTENSIONS = [
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
    "https://stac-extensions.github.io/processing/v1.2.0/schema.json",
]


def stac_item(
    mapped: MappedScene, name: str, *, derived_from: list[str], assets: Mapping[str, Any], properties: Mapping[str, Any]
) -> dict[str, Any]:
    """The item of a map.

    Args:
        mapped: what was mapped.
        name: the item's id.
        derived_from: URLs of the images.
        assets: files of the map, by key.
        properties: added to those that the map has by itself.
    """
    scene = mapped.scene
    days = [day for day in scene.dates if day is not None]
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    geometry, bbox = _footprint(scene)
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": _EXTENSIONS,
        "id": name,
        "geometry": geometry,
        "properties": {
            "datetime": f"{days[-1][:10]}T00:00:00Z" if days else now,
            "created": now,
            "proj:code": _code(scene),
            "proj:shape": [scene.height, scene.width],
            "proj:transform": list(scene.transform),
            "processing:software": {"ununennium": __version__},
            "ununennium:areas": _areas(mapped),
            "ununennium:unmapped_pixels": mapped.unmapped,
            **properties,
        },
        "links": [{"rel": "derived_from", "href": url} for url in derived_from],
        "assets": dict(assets),
    }
    if bbox is not None:
        item["bbox"] = bbox
    return item


def _areas(mapped: MappedScene) -> dict[str, dict[str, Any]]:
    """Pixels of each class, and square metres where the CRS measures in a unit of length."""
    size = _pixel_m2(mapped.scene)
    return {
        name: {"pixels": pixels, "area_m2": None if size is None else pixels * size}
        for name, pixels in mapped.pixels.items()
    }


def _pixel_m2(scene: Scene) -> float | None:
    if scene.crs is None or not (crs := rasterio.CRS.from_wkt(scene.crs)).is_projected:
        return None
    _, metres = crs.linear_units_factor
    return float(abs(scene.affine.determinant) * metres**2)


def _footprint(scene: Scene) -> tuple[dict[str, Any] | None, list[float] | None]:
    """Outline in WGS 84 (longitude, latitude), and its bounds; neither without a CRS."""
    if scene.crs is None:
        return None, None
    corners = [(0, 0), (0, scene.height), (scene.width, scene.height), (scene.width, 0), (0, 0)]
    outline = {"type": "Polygon", "coordinates": [[scene.affine * corner for corner in corners]]}
    there = transform_geom(rasterio.CRS.from_wkt(scene.crs), "EPSG:4326", outline, precision=7)
    points = [(float(x), float(y)) for x, y in there["coordinates"][0]]
    east_west, north_south = zip(*points, strict=True)
    bbox = [min(east_west), min(north_south), max(east_west), max(north_south)]
    return {"type": "Polygon", "coordinates": [[list(point) for point in points]]}, bbox


def _code(scene: Scene) -> str | None:
    if scene.crs is None:
        return None
    authority = pyproj.CRS.from_wkt(scene.crs).to_authority()
    return None if authority is None else ":".join(authority)

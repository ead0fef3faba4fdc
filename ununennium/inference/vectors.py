"""Polygons as files: GeoParquet in the map's CRS and GeoJSON in WGS 84, written as they come, whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import shapely

from ununennium.config.predictor import PolygonsConfig
from ununennium.data.scenes.antimeridian import split, to_degrees
from ununennium.data.scenes.ground import area_of_outline, pixel_areas, straight_pixels
from ununennium.data.scenes.scene import Scene
from ununennium.errors import ConfigError, StorageError
from ununennium.files import replaced
from ununennium.inference.polygons import trace_map

_BATCH = 4096
_DIGITS = 7  # of a degree: about a centimetre
_ROUNDED = 5e-5  # of a pixel: largest rounding of its corners
_STRAYED = 1e-3  # of a pixel: largest distance of an edge from the straight line


@dataclass(frozen=True)
class Area:
    """A connected area of one class.

    Attributes:
        number: of the class.
        name: of the class.
        pixels: how many.
        area_m2: of its pixels on the ellipsoid, in square metres; None where the map has no CRS.
        outline: shapely Polygon in coordinates of the map's CRS, with vertices close enough that its edges are the same
            lines in longitude and latitude, and on the ellipsoid, to a thousandth of a pixel.
    """

    number: int
    name: str
    pixels: int
    area_m2: float | None
    outline: Any


def areas_of_map(path: Path, scene: Scene, classes: Sequence[str], settings: PolygonsConfig) -> Iterator[Area]:
    """The polygons of a class map.

    Raises:
        ConfigError: ``settings`` names a class that the model does not have.
    """
    if unknown := [name for name in settings.classes if name not in classes]:
        raise ConfigError("polygons.classes", unknown[0], f"the model knows {', '.join(classes)}")
    numbers = [number for number, name in enumerate(classes) if not settings.classes or name in settings.classes]
    sizes, straight = pixel_areas(scene), straight_pixels(scene, _STRAYED)
    for number, pixels in trace_map(path, numbers):
        size = None if sizes is None else area_of_outline(pixels, sizes)
        if size is not None and size < settings.min_area_m2:
            continue
        outline = pixels.simplify(settings.simplify, preserve_topology=True) if settings.simplify else pixels
        if straight < max(scene.height, scene.width):
            outline = shapely.segmentize(outline, straight)
        placed = shapely.transform(outline, _placing(scene))
        yield Area(number, classes[number], round(pixels.area), size, placed)


def write_areas(areas: Iterable[Area], scene: Scene, files: dict[str, Path]) -> int:
    """Write polygons to a file of each format.

    Args:
        areas: the polygons.
        scene: with the CRS.
        files: ``geoparquet`` and ``geojson``, or one of them.

    Returns:
        How many there were.

    Raises:
        ConfigError: GeoParquet without pyarrow.
        StorageError: a file cannot be written.
    """
    count = 0
    with contextlib.ExitStack() as stack:
        writers: list[Callable[[list[Area], int], None]] = []
        for kind, file in files.items():
            part = stack.enter_context(_whole(file))
            writers.append(stack.enter_context((_geoparquet if kind == "geoparquet" else _geojson)(part, scene)))
        for batch in _batches(areas):
            for write in writers:
                write(batch, count)
            count += len(batch)
    return count


@contextlib.contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """A path beside ``file`` that becomes it when the block ends well."""
    try:
        with replaced(file, durable=True) as part:
            yield part
    except OSError as error:
        raise StorageError(f"{file} cannot be written ({error.strerror or error}); is there space left?") from error


@contextlib.contextmanager
def _geoparquet(path: Path, scene: Scene) -> Iterator[Callable[[list[Area], int], None]]:
    """GeoParquet 1.1: geometries as WKB, the CRS as PROJJSON."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        remedy = "needs pyarrow: pip install 'ununennium-eo[parquet]', or leave it out"
        raise ConfigError("polygons.formats", "geoparquet", remedy) from error
    crs = None if scene.crs is None else pyproj.CRS.from_wkt(scene.crs).to_json_dict()
    column = {"encoding": "WKB", "geometry_types": ["Polygon"], "crs": crs}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}
    schema = pyarrow.schema(
        [
            ("id", pyarrow.int64()),
            ("class", pyarrow.int32()),
            ("name", pyarrow.string()),
            ("pixels", pyarrow.int64()),
            ("area_m2", pyarrow.float64()),
            ("geometry", pyarrow.binary()),
        ],
        metadata={"geo": json.dumps(geo)},
    )
    with parquet.ParquetWriter(path, schema, compression="zstd") as writer:

        def write(batch: list[Area], first: int) -> None:
            columns = {
                "id": range(first, first + len(batch)),
                "class": [area.number for area in batch],
                "name": [area.name for area in batch],
                "pixels": [area.pixels for area in batch],
                "area_m2": [area.area_m2 for area in batch],
                "geometry": list(shapely.to_wkb([area.outline for area in batch])),
            }
            writer.write_table(pyarrow.table(columns, schema=schema))

        yield write


@contextlib.contextmanager
def _geojson(path: Path, scene: Scene) -> Iterator[Callable[[list[Area], int], None]]:
    """GeoJSON (RFC 7946): longitude and latitude, outer rings counter-clockwise, split at the antimeridian; as they are
    without a CRS."""
    digits = None if scene.crs is None else _digits(scene)
    with path.open("w", encoding="utf-8") as file:
        file.write('{"type": "FeatureCollection", "features": [')

        def write(batch: list[Area], first: int) -> None:
            outlines = np.array([area.outline for area in batch], dtype=object)
            if scene.crs is not None and digits is not None:
                cut = [split(shape) for shape in to_degrees(outlines, scene.crs)]
                outlines = shapely.transform(np.array(cut, dtype=object), lambda points: np.round(points, digits))
            for number, (area, placed) in enumerate(zip(batch, outlines, strict=True), first):
                about = {"class": area.number, "name": area.name, "pixels": area.pixels, "area_m2": area.area_m2}
                geometry = shapely.geometry.mapping(shapely.orient_polygons(placed))
                feature = {"type": "Feature", "id": number, "properties": about, "geometry": geometry}
                file.write(("," if number else "") + "\n" + json.dumps(feature))

        yield write
        file.write("\n]}\n")


def _digits(scene: Scene) -> int:
    """Decimals of degrees that change the area of a pixel by less than 1e-4."""
    corners = np.array([[0, 1], [0, 0], [1, 0]]) + np.array([scene.width // 2, scene.height // 2])
    corner = shapely.transform(shapely.LineString(corners), _placing(scene))
    sides = np.diff(shapely.get_coordinates(to_degrees(corner, str(scene.crs))), axis=0)
    pixel = float(np.abs(sides).max(axis=1).min())
    return _DIGITS if not 0 < pixel < 1 else max(_DIGITS, math.ceil(-math.log10(_ROUNDED * pixel)))


def _placing(scene: Scene) -> Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]:
    """From columns and rows to coordinates."""
    a, b, c, d, e, f = scene.transform
    matrix, corner = np.array([[a, d], [b, e]]), np.array([c, f])
    return lambda points: points @ matrix + corner


def _batches(areas: Iterable[Area]) -> Iterator[list[Area]]:
    batch: list[Area] = []
    for area in areas:
        batch.append(area)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch

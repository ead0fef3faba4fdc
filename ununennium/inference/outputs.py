"""From the bands of a scene to its files: rasters, polygons, areas and a picture, each whole or not there."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ununennium.checkpoints.contract import ModelContract
from ununennium.config.predictor import PolygonsConfig
from ununennium.data.scenes.scene import Scene
from ununennium.evaluation.pictures import class_map_picture, presence_map_picture, value_map_picture
from ununennium.inference.areas import AreaTable, write_table
from ununennium.inference.input_check import CheckedScene
from ununennium.inference.layers import CONFIDENCE, MAP, PROBABILITIES, VALID
from ununennium.inference.strip_store import StripStore
from ununennium.inference.vectors import areas_of_map, write_areas
from ununennium.prediction.map_kinds import MapKind
from ununennium.prediction.writers import ProbabilityWriter
from ununennium.tasks import TASKS

_ENDINGS = {"geoparquet": ".parquet", "geojson": ".geojson"}


@dataclass(frozen=True)
class MappedScene:
    """Map of one scene.

    Attributes:
        scene: the image's metadata.
        path: the map.
        pixels: mapped pixels per class name; of a regression, of the one name.
        unmapped: pixels without data.
        areas: ``pixels`` and ``area_m2`` per name.
        files: all files by what they are: ``map``, ``probabilities``, ``confidence``, ``geoparquet``, ``geojson``,
            ``areas``, ``quicklook``.
        num_polygons: how many were drawn; None if none were asked for.
    """

    scene: Scene
    path: Path
    pixels: dict[str, int]
    unmapped: int
    areas: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, Path] = field(default_factory=dict)
    num_polygons: int | None = None


def paths_of_outputs(
    target: Path, outputs: Collection[str], polygons: PolygonsConfig, prefix: str | None = None
) -> dict[str, Path]:
    """The files of a scene by what they are.

    Args:
        target: the map.
        outputs: outputs to write; the map always is.
        polygons: with the formats.
        prefix: of the names of the other files, beside the map; its own name and a hyphen if not given.
    """
    prefix = f"{target.stem}-" if prefix is None else prefix
    files = {"map": target}
    files |= {
        layer: target.with_name(f"{prefix}{layer}.tif") for layer in (PROBABILITIES, CONFIDENCE) if layer in outputs
    }
    if "polygons" in outputs:
        files |= {kind: target.with_name(f"{prefix}polygons{_ENDINGS[kind]}") for kind in polygons.formats}
    if "areas" in outputs:
        files["areas"] = target.with_name(f"{prefix}areas.csv")
    if "quicklook" in outputs:
        files["quicklook"] = target.with_name(f"{prefix}quicklook.png")
    return files


def write_outputs(
    store: StripStore,
    rows: Sequence[int],
    opened: CheckedScene,
    outputs: Collection[str],
    kind: MapKind,
    contract: ModelContract,
    target: Path,
    polygons: PolygonsConfig,
    *,
    prefix: str | None = None,
) -> MappedScene:
    """Write the files of a scene.

    Args:
        store: with every band.
        rows: first row of each band.
        opened: the scene.
        outputs: outputs to write; the map always is.
        kind: of the map, by the model's task.
        contract: of the model.
        target: the map.
        polygons: how they are drawn.
        prefix: of the names of the other files, beside the map; its own name and a hyphen if not given.

    Raises:
        StorageError: a file cannot be written, or a band cannot be read back.
        ConfigError: ``polygons`` names a class that the model does not have, or a package is missing.
    """
    scene, classes = opened.scene, list(contract.classes)
    files = paths_of_outputs(target, outputs, polygons, prefix)
    table = AreaTable(scene, kind, classes)
    with contextlib.ExitStack() as stack:
        window = {"row": 0, "col": 0, "height": scene.height, "width": scene.width}
        writer = stack.enter_context(kind.writer(target, scene, **window))
        rasters: dict[str, ProbabilityWriter] = {}
        for layer, names in ((PROBABILITIES, classes), (CONFIDENCE, ["confidence"])):
            if layer in outputs:
                rasters[layer] = stack.enter_context(ProbabilityWriter(files[layer], scene, names))
        for number, row in enumerate(rows):
            predicted, valid, *layers = store.get(number, MAP, VALID, *rasters)
            writer.write(row, predicted, valid)
            table.add(row, predicted, valid)
            for raster, values in zip(rasters.values(), layers, strict=True):
                raster.write(row, values)
    num_polygons = None
    if "polygons" in outputs:
        vectors: dict[str, Path] = {kind: files[kind] for kind in polygons.formats}
        num_polygons = write_areas(areas_of_map(target, scene, classes, polygons), scene, vectors)
    if "areas" in outputs:
        write_table(table.areas, files["areas"])
    if "quicklook" in outputs:
        draw(target, contract, files["quicklook"])
    pixels = {name: area["pixels"] for name, area in table.areas.items()}
    return MappedScene(scene, target, pixels, table.unmapped, table.areas, files, num_polygons)


def draw(path_of_map: Path, contract: ModelContract, path: Path) -> None:
    """Draw a map with a legend, as its task wants it."""
    classes = list(contract.classes)
    kind = TASKS[contract.task].kind
    if kind == "presences":
        presence_map_picture(path_of_map, classes, path)
    elif kind == "values":
        value_map_picture(path_of_map, classes[0], path)
    else:
        class_map_picture(path_of_map, classes, path)

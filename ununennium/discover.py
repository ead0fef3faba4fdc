"""A first configuration from a folder of scenes: images paired with labels, bands and classes read from the files."""

from __future__ import annotations

import itertools
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from ununennium.config import Component, RunConfig, Section
from ununennium.config.yaml_text import write_yaml
from ununennium.data.vector_files import read_info, read_table
from ununennium.errors import DataError

RASTERS = {".tif", ".tiff", ".vrt", ".jp2", ".img"}
VECTORS = {".geojson", ".gpkg", ".shp", ".fgb"}
LABEL_WORDS = {"label", "labels", "mask", "masks", "gt", "truth", "lc", "landcover", "class", "classes", "target"}
LABEL_FIELDS = ("class", "classname", "class_name", "label", "landcover", "lc", "category", "name")
MAX_CLASSES = 64
_LOOK = 1024  # pixels a side of the decimated look at a raster


@dataclass(frozen=True)
class Raster:
    """A raster file, as far as pairing needs it."""

    path: Path
    grid: tuple[Any, ...]
    crs: str | None
    bounds: tuple[float, float, float, float]
    num_bands: int
    nodata: float | None
    values: frozenset[int] | None
    """Distinct values of a decimated look; None where they are not integers of one band, or more than a few."""
    zero_border: bool

    @property
    def words(self) -> set[str]:
        """The words of the file's name."""
        return set(re.split(r"[^a-z]+", self.path.stem.lower()))


@dataclass(frozen=True)
class Shapes:
    """A vector file of polygons.

    Attributes:
        path: the file.
        crs: its coordinate reference system.
        bounds: left, bottom, right, top in it.
        field: the attribute that looks like a class name, if there is one.
        values: that attribute's values.
    """

    path: Path
    crs: str | None
    bounds: tuple[float, float, float, float]
    field: str | None
    values: tuple[str, ...]


@dataclass
class Discovery:
    """What was found.

    Attributes:
        scenes: settings of ``data.scenes``.
        classes: class names, by value.
        nodata: value without data, where files carry no tag and have a border of zeros.
        notes: what was left out, and what was guessed.
    """

    scenes: list[dict[str, Any]] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    nodata: float | None = None
    notes: list[str] = field(default_factory=list)


def discover(folder: Path, *, relative_to: Path) -> Discovery:
    """Find images with labels below ``folder``.

    A label raster has one integer band with few values, on the grid of its image; vector labels go by their names.

    Args:
        folder: where to look, in sub-folders too.
        relative_to: folder of the configuration file; paths are written relative to it.

    Raises:
        DataError: there is no such folder, or no image with labels in it.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    found = Discovery()
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    rasters = [raster for path in files if path.suffix.lower() in RASTERS if (raster := _look_at(path, found.notes))]
    vectors = [
        vector
        for path in files
        if path.suffix.lower() in VECTORS and (vector := _look_at_shapes(path, found.notes)) is not None
    ]
    labels = [raster for raster in rasters if _is_label(raster)]
    images = [raster for raster in rasters if raster not in labels]
    chosen: list[Raster | Shapes] = []
    for image in images:
        label = _label_of(image, labels, vectors)
        if label is None:
            found.notes.append(f"{image.path} was left out: no label raster on its grid, no polygons over it")
            continue
        scene = {"image": _relative(image.path, relative_to), "label": _relative(label.path, relative_to)}
        if isinstance(label, Shapes) and label.field is not None:
            scene |= {"label_field": label.field, "outside": "unlabelled"}
            found.notes.append(
                f"{label.path}: what no polygon covers was taken to be unlabelled (data.scenes: outside)"
            )
        found.scenes.append(scene)
        chosen.append(label)
        if image.nodata is None and image.zero_border:
            found.nodata = 0.0
            found.notes.append(f"{image.path} has a border of zeros and no nodata tag: data.nodata was set to 0")
    if not found.scenes:
        raise DataError(
            f"{folder} holds no image with labels ({len(images)} images, {len(labels)} label rasters, {len(vectors)} "
            "vector files); a label is a one-band raster of whole numbers on the image's grid, or a vector file with "
            "polygons over it"
        )
    found.classes = _classes(chosen, found.notes)
    return found


def commented_yaml(config: RunConfig, *, header: str = "") -> str:
    """``config`` as YAML with every field's documentation above it; ``RunConfig.load`` reads it back."""
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    return "\n".join([*lines, *_section(config, indent=0)]) + "\n"


# Pairing -------------------------------------------------------------------------------------------------------------


def _look_at(path: Path, notes: list[str]) -> Raster | None:
    import numpy as np
    import rasterio
    from rasterio.errors import RasterioError

    try:
        with rasterio.open(path) as source:
            scale = max(1.0, max(source.width, source.height) / _LOOK)
            shape = (max(1, int(source.height / scale)), max(1, int(source.width / scale)))
            look = source.read(out_shape=(source.count, *shape))
            transform = tuple(round(value, 9) for value in source.transform[:6])
            grid = (source.width, source.height, str(source.crs), transform)
            crs = source.crs.to_wkt() if source.crs else None
            bounds, num_bands, nodata = tuple(source.bounds), source.count, source.nodata
    except (RasterioError, OSError) as error:
        notes.append(f"{path} was left out: it cannot be read ({error})")
        return None
    values: frozenset[int] | None = None
    if num_bands == 1 and np.issubdtype(look.dtype, np.integer):
        distinct = np.unique(look)
        values = frozenset(int(value) for value in distinct) if len(distinct) <= MAX_CLASSES else None
    zero = (look == 0).all(axis=0)
    border = np.concatenate([zero[0], zero[-1], zero[:, 0], zero[:, -1]])
    return Raster(path, grid, crs, bounds, num_bands, nodata, values, bool(border.mean() > 0.05))


def _is_label(raster: Raster) -> bool:
    return raster.values is not None and (len(raster.values) <= 32 or bool(raster.words & LABEL_WORDS))


def _look_at_shapes(path: Path, notes: list[str]) -> Shapes | None:
    try:
        info = read_info(path, force_total_bounds=True)
    except OSError as error:
        notes.append(f"{path} was left out: it cannot be read ({error})")
        return None
    if "Polygon" not in str(info["geometry_type"]) and info["geometry_type"] is not None:
        return None
    texts = [str(name) for name, dtype in zip(info["fields"], info["dtypes"], strict=True) if dtype == "object"]
    for name in sorted((name for name in texts if name.lower() in LABEL_FIELDS), key=str.lower):
        columns = read_table(path, columns=[name], read_geometry=False)[2]
        values = sorted({str(value) for value in columns[0] if value is not None})
        if 1 < len(values) <= MAX_CLASSES:
            return Shapes(path, info["crs"], info["total_bounds"], name, tuple(values))
    return Shapes(path, info["crs"], info["total_bounds"], None, ())


def _label_of(image: Raster, labels: list[Raster], vectors: list[Shapes]) -> Raster | Shapes | None:
    """The label raster on the image's grid, else the polygons over it; of several, the one named most alike."""
    on_grid = [label for label in labels if label.grid == image.grid]
    if on_grid:
        return max(on_grid, key=lambda label: _in_common(image.path, label.path))
    over_it = [vector for vector in vectors if _overlap(image, vector)]
    return max(over_it, key=lambda vector: _in_common(image.path, vector.path), default=None)


def _overlap(image: Raster, vector: Shapes) -> bool:
    """Whether polygons lie over an image; without coordinate systems their numbers are compared as they are."""
    from rasterio.warp import transform_bounds

    bounds = vector.bounds
    if image.crs and vector.crs:
        bounds = transform_bounds(vector.crs, image.crs, *bounds)
    left, bottom, right, top = image.bounds
    return bounds[0] < right and bounds[2] > left and bounds[1] < max(top, bottom) and bounds[3] > min(top, bottom)


def _in_common(one: Path, other: Path) -> int:
    """Letters with which both names begin."""
    pairs = zip(one.stem.lower(), other.stem.lower(), strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


def _relative(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path.resolve(), base.resolve())).as_posix()


# Classes -------------------------------------------------------------------------------------------------------------


def _classes(labels: list[Raster | Shapes], notes: list[str]) -> list[str]:
    """Class names by value: from the attribute of vector labels, else from the values of label rasters."""
    named = sorted({value for label in labels if isinstance(label, Shapes) for value in label.values})
    if named:
        return named
    values = {1}
    for label in labels:
        if isinstance(label, Raster):
            nodata = {255} if label.nodata is None else {255, int(label.nodata)}
            values |= {value for value in label.values or () if value not in nodata and value >= 0}
    if max(values) >= MAX_CLASSES:
        raise DataError(
            f"the labels hold values up to {max(values)}; renumber them from 0 to at most {MAX_CLASSES - 1} "
            "(255 is unlabelled)"
        )
    if max(values) == 1:
        word = re.split(r"[^a-z]+", labels[0].path.stem.lower())[-1]
        return ["background", word if word and word not in LABEL_WORDS | {"background"} else "object"]
    notes.append("the classes were named by their values: give them names in data.classes")
    return ["background", *(f"class_{value}" for value in range(1, max(values) + 1))]


# YAML ----------------------------------------------------------------------------------------------------------------


def _section(section: BaseModel, *, indent: int) -> list[str]:
    lines: list[str] = []
    pad = " " * indent
    for name, about in type(section).model_fields.items():
        value = getattr(section, name)
        if indent == 0:
            lines.append("")
        lines += [f"{pad}# {line}" for line in (about.description or "").splitlines()]
        if isinstance(value, Section) and not isinstance(value, Component):
            lines += [f"{pad}{name}:", *_section(value, indent=indent + 2)]
        elif isinstance(value, list) and value and all(isinstance(item, Section) for item in value):
            lines.append(f"{pad}{name}:")
            lines += [f"{pad}  - {_inline(item.model_dump(mode='json', exclude_defaults=True))}" for item in value]
        elif isinstance(value, BaseModel):
            lines.append(f"{pad}{name}: {_inline(value.model_dump(mode='json', exclude_defaults=True))}")
        else:
            lines.append(f"{pad}{name}: {_inline(value)}")
    return lines


def _inline(value: Any) -> str:
    text = write_yaml(value, default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").strip()

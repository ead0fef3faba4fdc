"""Facts of the rasters and vector files in a folder, as far as pairing them needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window

from ununennium.data.scenes.align import same_crs
from ununennium.data.scenes.raster import open_raster
from ununennium.data.scenes.vector_checks import VECTOR_ENDINGS
from ununennium.data.scenes.vector_files import layers_of, read_info, read_table
from ununennium.errors import DataError

RASTERS = {".tif", ".tiff", ".vrt", ".jp2", ".img"}
PICTURES = {".png", ".jpg", ".jpeg"}
VECTORS = set(VECTOR_ENDINGS) - {".json", ".parquet", ".kml", ".gml"}  # those are more often something else
CLASS_FIELDS = ("class", "classname", "class_name", "label", "landcover", "lc", "category", "type", "name")
NUMBER_FIELDS = ("class_id", "classid", "class_value", "label_id", "class", "label", "lc", "code", "value", "gridcode")
_OTHER_USES = {"type", "name"}  # often an attribute of each shape alone: classes repeat themselves
_FEW_NAMES = 8
MAX_CLASSES = 64
_LOOK = 1024  # pixels a side of the decimated look at a raster
_LOOK_BANDS = 4
_STRIP_PIXELS = 2**22


@dataclass(frozen=True)
class RasterFile:
    """One raster.

    Attributes:
        path: the file.
        size: (height, width) in pixels.
        transform: affine, from (column, row) to coordinates.
        crs: WKT of the coordinate reference system; None without one.
        bounds: left, bottom, right, top in it.
        is_georeferenced: whether it has a CRS, or a transform other than the identity.
        num_bands: without alpha bands.
        dtype: of the first band.
        nodata: the first band's tag.
        has_mask: whether a mask or alpha band says what is valid.
        values: distinct values of the valid pixels of one band of whole numbers; None of other rasters, and of more
            than a few.
        value_range: smallest and largest value of a decimated look.
        has_zero_border: whether zeros in all bands touch its edges.
    """

    path: Path
    size: tuple[int, int]
    transform: rasterio.Affine
    crs: str | None
    bounds: tuple[float, float, float, float]
    is_georeferenced: bool
    num_bands: int
    dtype: str
    nodata: float | None
    has_mask: bool
    values: frozenset[int] | None
    value_range: tuple[float, float]
    has_zero_border: bool

    @property
    def words(self) -> list[str]:
        """Lower-case words of the file's name, without digits."""
        return words_of(self.path.stem)

    def is_on_grid_of(self, other: RasterFile) -> bool:
        """Tell whether the pixels of both coincide, to a hundredth of one; a raster without CRS may have any."""
        if self.size != other.size or not (None in (self.crs, other.crs) or same_crs(self.crs, other.crs)):
            return False
        height, width = self.size
        pixel = max(abs(value) for value in other.transform[:2])
        corners = [(self.transform * corner, other.transform * corner) for corner in ((0, 0), (width, height))]
        return all(abs(x - u) <= 0.01 * pixel and abs(y - v) <= 0.01 * pixel for (x, y), (u, v) in corners)


@dataclass(frozen=True)
class VectorLayer:
    """One layer of a vector file.

    Attributes:
        path: the file.
        layer: its name; None in a file of one layer.
        kind: of its shapes.
        num_shapes: how many it has.
        crs: its coordinate reference system; None without one.
        bounds: left, bottom, right, top in it.
        field: the attribute that names classes; None if there is none.
        values: distinct values of that attribute: names, or whole numbers.
        num_unknown: shapes that have no value there.
    """

    path: Path
    layer: str | None
    kind: str
    num_shapes: int
    crs: str | None
    bounds: tuple[float, float, float, float]
    field: str | None
    values: tuple[str, ...] | tuple[int, ...]
    num_unknown: int

    @property
    def words(self) -> list[str]:
        """Lower-case words of the layer's name, else of the file's."""
        return words_of(self.layer or self.path.stem)


def words_of(text: str) -> list[str]:
    """Lower-case words of a name, without digits; ``cloudMask_2`` has cloud and mask."""
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])", text)]


def inspect_raster(path: Path) -> RasterFile:
    """Read the facts of a raster, and a decimated view of its pixels.

    Raises:
        DataError: it cannot be read.
    """
    what = f"raster {path.name}"
    with open_raster(str(path), what) as source:
        alpha = [number for number, color in enumerate(source.colorinterp, 1) if color.name == "alpha"]
        bands = [number for number in range(1, source.count + 1) if number not in alpha]
        if not bands or not source.width or not source.height:
            raise DataError(f"{what}: {path} has no pixels")
        scale = max(1.0, max(source.width, source.height) / _LOOK)
        shape = (max(1, int(source.height / scale)), max(1, int(source.width / scale)))
        look = source.read(bands[:_LOOK_BANDS], out_shape=(len(bands[:_LOOK_BANDS]), *shape))
        flags = [flag.name for band in source.mask_flag_enums for flag in band]
        values: frozenset[int] | None = None
        if len(bands) == 1 and len(np.unique(look)) <= MAX_CLASSES:
            values = _distinct_values(source, bands[0])
        return RasterFile(
            path=path,
            size=(source.height, source.width),
            transform=source.transform,
            crs=source.crs.to_wkt() if source.crs else None,
            bounds=tuple(source.bounds),
            is_georeferenced=bool(source.crs) or not source.transform.is_identity,
            num_bands=len(bands),
            dtype=source.dtypes[bands[0] - 1],
            nodata=source.nodatavals[bands[0] - 1],
            has_mask="per_dataset" in flags or bool(alpha),
            values=values,
            value_range=_range_of(look),
            has_zero_border=_has_zero_border(look),
        )


def _distinct_values(source: Any, band: int) -> frozenset[int] | None:
    """Distinct values of all valid pixels; None if more than ``MAX_CLASSES`` differ, or some are no whole numbers."""
    rows = max(1, _STRIP_PIXELS // source.width)
    found: set[float] = set()
    for row in range(0, source.height, rows):
        window = Window(0, row, source.width, min(rows, source.height - row))
        pixels = source.read(band, window=window)
        valid = (source.dataset_mask(window=window) != 0) & ~np.isnan(pixels)
        found |= set(np.unique(pixels[valid]).tolist())
        if len(found) > MAX_CLASSES or any(value % 1 for value in found):
            return None
    return frozenset(int(value) for value in found)


def _range_of(look: npt.NDArray[Any]) -> tuple[float, float]:
    finite = look[np.isfinite(look)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _has_zero_border(look: npt.NDArray[Any]) -> bool:
    zero = (look == 0).all(axis=0)
    border = np.concatenate([zero[0], zero[-1], zero[:, 0], zero[:, -1]])
    return bool(border.mean() > 0.05)


def inspect_vectors(path: Path) -> list[VectorLayer]:
    """Read the facts of every layer with shapes.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        names = layers_of(path)
        return [_inspect_layer(path, name if len(names) > 1 else None) for name in names]
    except OSError as error:
        raise DataError(f"it cannot be read ({error})") from error


def _inspect_layer(path: Path, layer: str | None) -> VectorLayer:
    chosen = {} if layer is None else {"layer": layer}
    info = read_info(path, force_total_bounds=True, force_feature_count=True, **chosen)
    field, values, num_unknown = _class_field(path, info, chosen)
    bounds = tuple(float(value) for value in info["total_bounds"]) if info["features"] else (np.nan,) * 4
    return VectorLayer(
        path=path,
        layer=layer,
        kind=_kind_of(info["geometry_type"]),
        num_shapes=int(info["features"]),
        crs=info["crs"],
        bounds=bounds,  # type: ignore[arg-type]
        field=field,
        values=values,
        num_unknown=num_unknown,
    )


def _kind_of(geometry_type: str | None) -> str:
    """``polygon``, ``line``, ``point``; ``shape`` where a layer mixes them or does not say."""
    text = str(geometry_type)
    for kind, words in (("polygon", ("Polygon", "Surface")), ("line", ("Line", "Curve")), ("point", ("Point",))):
        if any(word in text for word in words):
            return kind
    return "shape"


def _class_field(
    path: Path, info: dict[str, Any], chosen: dict[str, str]
) -> tuple[str | None, tuple[str, ...] | tuple[int, ...], int]:
    """The attribute that names classes, its distinct values, and how many shapes have none."""
    types = {str(name): str(dtype) for name, dtype in zip(info["fields"], info["dtypes"], strict=True)}
    texts = {name for name, dtype in types.items() if dtype == "object"}
    numbers = {name for name, dtype in types.items() if dtype.startswith(("int", "uint"))}
    for wanted, fields in ((texts, CLASS_FIELDS), (numbers, NUMBER_FIELDS)):
        order = [name for field in fields for name in sorted(wanted) if name.lower() == field]
        for name in order:
            column = read_table(path, columns=[name], read_geometry=False, **chosen)[2][0]
            if wanted is numbers:
                values = {int(value) for value in column if value is not None}
                if 1 < len(values) <= MAX_CLASSES:
                    return name, tuple(sorted(values)), 0
                continue
            known = [value for value in column if isinstance(value, str) and value.strip()]
            most = max(_FEW_NAMES, len(known) // 2) if name.lower() in _OTHER_USES else MAX_CLASSES
            if known and len(set(known)) <= min(most, MAX_CLASSES):
                return name, tuple(sorted(set(known))), len(column) - len(known)
    return None, (), 0

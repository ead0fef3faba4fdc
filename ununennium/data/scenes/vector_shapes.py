"""Shapes of vector files: the layer that is meant, its CRS, and geometries that can be used.

Labels, labelled areas and drawn folds are all read here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
import shapely

from ununennium.data.scenes.antimeridian import turn_of
from ununennium.data.scenes.remote import remedy
from ununennium.data.scenes.sources.files import filesystem
from ununennium.data.scenes.vector_files import layers_of, read_info, read_table
from ununennium.errors import ConfigError, DataError

_MOST_NAMED = 12
_HEAD_BYTES = 2**20
_NAMED_CRS = re.compile(rb'"crs"\s*:\s*\{[^{}]*"properties"\s*:\s*\{[^{}]*"name"\s*:\s*"([^"]*)"')
_SLACK = 1e-6  # of a turn: rounding beyond a pole


@dataclass(frozen=True, eq=False)
class Shapes:
    """Geometries of a layer, N of them, two-dimensional and none of them empty.

    Attributes:
        geometries: shapely geometries, (N,).
        numbers: int64 (N,), place of each in the file, from 1.
        columns: attribute name to values, (N,) each.
        crs: of the coordinates; None if the file names none.
    """

    geometries: npt.NDArray[Any]
    numbers: npt.NDArray[np.int64]
    columns: dict[str, npt.NDArray[Any]]
    crs: str | None

    @property
    def crs_name(self) -> str:
        """The CRS as messages show it."""
        return "no CRS" if self.crs is None else _short(self.crs)


def choose_layer(path: str, wanted: str | None, setting: str | None, what: str) -> str | None:
    """Name of the layer to read: the one that is wanted, else the only one with geometry.

    Args:
        path: path or URL.
        wanted: name of a layer.
        setting: dotted path of the setting that names a layer; None where there is none.
        what: names the file in messages, such as ``labels of scene 'a'``.

    Raises:
        DataError: the file cannot be read, holds no geometry, or several layers of which none is wanted.
        ConfigError: there is no layer of that name.
    """
    try:
        layers = layers_of(path)
        if wanted in layers or (wanted is None and len(layers) == 1):
            return wanted or layers[0]
        about = "; ".join(_in_words(path, layer) for layer in layers[:_MOST_NAMED])
    except OSError as error:
        raise DataError(f"{what}: {path} cannot be read ({error}); {remedy(path, error)}") from error
    if len(layers) > _MOST_NAMED:
        about += f"; and {len(layers) - _MOST_NAMED} more"
    if not layers:
        raise DataError(f"{what}: {path} has no layer with geometry; give a file with shapes")
    if wanted is not None and setting is not None:
        raise ConfigError(setting, wanted, f"{path} has no such layer; it has: {about}")
    choose = f"name one in {setting}" if setting else "write the one that is meant to a file of its own (ogr2ogr)"
    raise DataError(f"{what}: {path} has {len(layers)} layers with geometry: {about}; {choose}")


def _in_words(path: str, layer: str) -> str:
    info = read_info(path, layer=layer, force_feature_count=True)
    names = ", ".join(map(str, info["fields"])) or "none"
    return f"{layer!r} ({info['geometry_type']}, {info['features']} shapes, attributes: {names})"


def layer_info(path: str, layer: str | None, what: str) -> dict[str, Any]:
    """``pyogrio.read_info`` of a layer, whose CRS is one that is known.

    Raises:
        DataError: it cannot be read, or names a CRS that nobody knows.
    """
    try:
        info = read_info(path, layer=layer)
        named = _crs_member(path) if info["driver"] == "GeoJSON" and info["crs"] == "EPSG:4326" else None
    except OSError as error:
        raise DataError(f"{what}: {path} cannot be read ({error}); {remedy(path, error)}") from error
    # GDAL takes longitude and latitude in place of a name that it does not know, without a word.
    for crs in filter(None, (named, info["crs"])):
        try:
            known = pyproj.CRS.from_user_input(crs)
        except pyproj.exceptions.CRSError:
            known = None
        if known is None or (crs == named and turn_of(known.to_wkt()) is None):
            raise DataError(
                f"{what}: {path} is in a CRS that is not known, {_short(crs)}; write it with the one that its "
                "coordinates are in (ogr2ogr -a_srs EPSG:...)"
            )
    return info


def _crs_member(path: str) -> str | None:
    """Name that the member ``crs`` of a GeoJSON file has, at its beginning or its end; None without one."""
    if Path(path).is_file():
        with Path(path).open("rb") as file:
            text = file.read(_HEAD_BYTES)
            file.seek(max(len(text), Path(path).stat().st_size - _HEAD_BYTES))
            text += b"\n" + file.read()
    elif "://" in path:
        files, inside = filesystem(path, "label")
        text = files.cat_file(inside, 0, _HEAD_BYTES)
    else:
        return None
    found = _NAMED_CRS.search(text)
    return found[1].decode("utf-8", "replace") if found else None


def read_shapes(
    path: str, layer: str | None, columns: Sequence[str], what: str, *, may_hold_pixels: bool = False
) -> Shapes:
    """Geometries of a layer with the attributes that are needed.

    Args:
        path: path or URL.
        layer: its name, as ``choose_layer`` found it.
        columns: attributes to read.
        what: names the file in messages.
        may_hold_pixels: some shapes are in pixels of a scene, whatever the CRS of the file.

    Raises:
        DataError: the file cannot be read; a geometry is broken (an unclosed ring) or has no finite coordinates; or
            coordinates that are said to be longitude and latitude cannot be.
    """
    crs = layer_info(path, layer, what)["crs"]
    try:
        meta, stored, fields = read_table(path, layer=layer, columns=list(columns))
    except OSError as error:
        raise DataError(f"{what}: {path} cannot be read ({error}); {remedy(path, error)}") from error
    geometries = shapely.force_2d(shapely.from_wkb(stored, on_invalid="ignore"))
    broken = np.flatnonzero(shapely.is_missing(geometries) & np.array([wkb is not None for wkb in stored], np.bool_))
    if len(broken):
        raise DataError(f"{what}: {path}: {_broken(stored, broken)}")
    present = ~(shapely.is_missing(geometries) | shapely.is_empty(geometries))
    if len(geometries) and not present.any():
        raise DataError(f"{what}: {path} has {len(geometries)} features, none of them with a geometry; draw the shapes")
    found = Shapes(
        geometries[present],
        np.flatnonzero(present) + 1,
        {str(name): values[present] for name, values in zip(meta["fields"], fields, strict=True)},
        crs,
    )
    _check_finite(found, path, what)
    if not may_hold_pixels:
        _check_degrees(found, path, what)
    return found


def _broken(stored: npt.NDArray[Any], broken: npt.NDArray[np.intp]) -> str:
    first = int(broken[0])
    try:
        shapely.from_wkb(stored[first])
        why = "it cannot be read"
    except shapely.errors.GEOSException as error:
        why = str(error).partition(": ")[2] or str(error)
    unclosed = "closed" in why
    mend = "repeat the ring's first position as its last" if unclosed else "draw it anew, or remove it"
    return f"shape {first + 1} is no geometry ({why}), {len(broken)} of {len(stored)} are so; {mend}"


def _check_finite(shapes: Shapes, path: str, what: str) -> None:
    points, owners = shapely.get_coordinates(shapes.geometries, return_index=True)
    wrong = np.zeros(len(shapes.geometries), np.bool_)
    wrong[owners[~np.isfinite(points).all(1)]] = True
    if wrong.any():
        raise DataError(
            f"{what}: {path}: shape {shapes.numbers[wrong][0]} has a coordinate that is no finite number; correct it, "
            f"or remove it ({int(wrong.sum())} shapes are so)"
        )


def _check_degrees(shapes: Shapes, path: str, what: str) -> None:
    """Make sure that coordinates can be longitude and latitude where the file says so."""
    turn = None if shapes.crs is None else turn_of(shapes.crs)
    if turn is None:
        return
    bounds = shapely.bounds(shapes.geometries).reshape(-1, 4)
    slack, pole = turn * _SLACK, turn / 4
    # Longitudes go from -180 to 180, from 0 to 360, or on beyond 180 where shapes cross it.
    wrong = (np.abs(bounds[:, [1, 3]]) > pole + slack).any(1) | (np.abs(bounds[:, [0, 2]]) > 1.5 * turn + slack).any(1)
    if wrong.any():
        x, y = shapely.get_coordinates(shapes.geometries[wrong])[0]
        swapped = abs(x) <= pole and abs(y) <= turn
        hint = (
            "latitude and longitude seem to be swapped: write x = longitude, y = latitude"
            if swapped
            else "write it with the CRS that they are in (ogr2ogr -a_srs EPSG:...)"
        )
        raise DataError(
            f"{what}: {path} is said to be in {shapes.crs_name}, but the coordinates of {int(wrong.sum())} of "
            f"{len(bounds)} shapes cannot be longitude and latitude, such as x = {x:.10g}, y = {y:.10g} of shape "
            f"{shapes.numbers[wrong][0]}; {hint}"
        )


def to_crs(shapes: Any, source: str, target: str) -> Any:
    """An array of shapely geometries with their vertices in another CRS."""
    if rasterio.CRS.from_user_input(source) == rasterio.CRS.from_user_input(target):
        return shapes
    move = pyproj.Transformer.from_crs(source, target, always_xy=True)

    def moved(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.column_stack(move.transform(points[:, 0], points[:, 1]))

    return shapely.transform(shapes, moved)


def _short(crs: str) -> str:
    return crs if len(crs) < 60 else str(pyproj.CRS.from_user_input(crs).name)

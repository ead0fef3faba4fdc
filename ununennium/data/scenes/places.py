"""Places in words: coordinate reference systems, sizes, pixels and windows, as reports and messages show them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyproj

from ununennium.data.scenes.scene import Scene

_GEOD = pyproj.Geod(ellps="WGS84")
_UNITS = {"metre": "m", "degree": "°", "foot": "ft", "US survey foot": "US ft", "grad": "gon", "kilometre": "km"}
_SURE, _MAYBE = 90, 25  # of 100: how well a CRS matches one that has a code; the latter are compared


@lru_cache(maxsize=256)
def crs_text(crs: str | None) -> str:
    """A coordinate reference system: its name and code, or its method and parameters where it has no code.

    Args:
        crs: anything that pyproj reads; None is no CRS.
    """
    if crs is None:
        return "none"
    known = pyproj.CRS.from_user_input(crs)
    if known.is_bound and known.source_crs is not None:
        known = known.source_crs
    if (same := _registered(known)) is not None:
        return f"{same.name} ({':'.join(same.to_authority() or ('code', 'unknown'))})"
    name = "custom" if known.name.casefold() in ("", "unknown", "unnamed", "custom") else known.name
    if known.is_compound:
        return " + ".join(crs_text(part.to_wkt()) for part in known.sub_crs_list)
    operation = known.coordinate_operation
    if operation is None:
        kind = "longitude and latitude" if known.is_geographic else known.type_name
        return f"{name} ({kind}{_on(known)})"
    values = [f"{each.name} {_value(each)}" for each in operation.params if not _is_idle(each)]
    unit = _unit_of(known)
    return f"{name} ({operation.method_name}: {', '.join([*values, f'in {unit}'])}{_on(known)})"


def _registered(crs: pyproj.CRS) -> pyproj.CRS | None:
    """The CRS of a register that a CRS is, whatever its name."""
    authority = crs.to_authority(min_confidence=_SURE)
    if (code := crs.to_epsg(min_confidence=_SURE)) is not None or authority is not None:
        return pyproj.CRS.from_user_input(code if code is not None else ":".join(authority or ()))
    for code in (crs.to_epsg(min_confidence=_MAYBE), 4326):
        if code is not None and crs.equals(found := pyproj.CRS.from_epsg(code), ignore_axis_order=True):
            return found
    return None


def size_text(height: int, width: int) -> str:
    """A size in pixels; says which number is the width."""
    return f"{width:,} wide x {height:,} high"


def window_text(row: int, col: int, height: int, width: int) -> str:
    """A window by its first and last rows and columns, counted from 0."""
    return f"rows {row:,} to {row + height - 1:,}, columns {col:,} to {col + width - 1:,}"


def pixel_text(scene: Scene) -> str:
    """Size of a pixel with its unit; of a scene in degrees, in metres at its middle too."""
    return resolution_text(scene.crs, scene.resolution, _middle_latitude(scene))


def resolution_text(crs: str | None, resolution: Sequence[float] | None, latitude: float | None = None) -> str:
    """Size of a pixel with its unit; in degrees, in metres too.

    Args:
        crs: anything that pyproj reads; None is no CRS.
        resolution: (x, y) in units of the CRS; None where it is unknown.
        latitude: latitude of the measurement, in degrees; the equator if not given.
    """
    if resolution is None:
        return "unknown"
    if crs is None:
        return "1 pixel"
    known = pyproj.CRS.from_user_input(crs)
    x, y = (abs(float(each)) for each in resolution)
    text = _pair(x, y, _unit_of(known))
    if not known.is_geographic:
        return text
    where = "at the equator" if latitude is None else f"at {abs(latitude):.1f}° {'S' if latitude < 0 else 'N'}"
    return f"{text} ({_pair(*_metres(known, x, y, latitude or 0.0), 'm', digits=3)} {where})"


def length_text(scene: Scene, pixels: int) -> str:
    """So many pixels in units of the CRS, of degrees in metres too; empty without a CRS."""
    if scene.crs is None:
        return ""
    known = pyproj.CRS.from_user_input(scene.crs)
    text = f"{pixels * scene.resolution[0]:g} {_unit_of(known)}"
    if not known.is_geographic:
        return text
    across, _ = _metres(known, *scene.resolution, _middle_latitude(scene) or 0.0)
    return f"{text}, about {pixels * across:,.3g} m"


def _pair(x: float, y: float, unit: str, digits: int = 6) -> str:
    one, other = (f"{each:.{digits}g}" for each in (x, y))
    return f"{one} {unit}" if one == other or np.isclose(x, y, rtol=1e-6) else f"{one} {unit} wide, {other} {unit} high"


def _metres(crs: pyproj.CRS, x: float, y: float, latitude: float) -> tuple[float, float]:
    """Metres along a parallel and a meridian of the ellipsoid at a latitude in degrees."""
    radians = crs.axis_info[0].unit_conversion_factor
    curved = 1 - _GEOD.es * math.sin(math.radians(latitude)) ** 2
    across = _GEOD.a / curved**0.5 * math.cos(math.radians(latitude))
    return x * radians * across, y * radians * _GEOD.a * (1 - _GEOD.es) / curved**1.5


def _middle_latitude(scene: Scene) -> float | None:
    """Latitude in degrees of the middle of a scene in degrees."""
    if scene.crs is None:
        return None
    known = pyproj.CRS.from_user_input(scene.crs)
    if not known.is_geographic:
        return None
    _, _, _, d, e, f = scene.transform
    y = d * scene.width / 2 + e * scene.height / 2 + f
    return max(-90.0, min(90.0, math.degrees(y * known.axis_info[0].unit_conversion_factor)))


def _unit_of(crs: pyproj.CRS) -> str:
    name = crs.axis_info[0].unit_name if crs.axis_info else "metre"
    return _UNITS.get(name, name)


def _on(crs: pyproj.CRS) -> str:
    return f", on {crs.ellipsoid.name}" if crs.ellipsoid is not None else ""


def _value(parameter: Any) -> str:
    unit = _UNITS.get(parameter.unit_name, "" if parameter.unit_name == "unity" else parameter.unit_name)
    return f"{parameter.value:.10g}{'' if unit == '°' or not unit else ' '}{unit}"


def _is_idle(parameter: Any) -> bool:
    """Tell whether a parameter leaves things as they are: no false easting, a scale of 1."""
    name = parameter.name.casefold()
    return (parameter.value == 0 and ("easting" in name or "northing" in name)) or (
        parameter.value == 1 and "scale" in name
    )

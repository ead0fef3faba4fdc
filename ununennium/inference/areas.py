"""How much of each class a map has, in pixels and square metres."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyproj

from ununennium.data.catalog import Scene
from ununennium.evaluation.scores import Scores


class AreaTable:
    """Counts what is mapped, rows at a time.

    Args:
        scene: whose pixels are mapped.
        scores: of the model's task.
        names: of the map's legend.
    """

    def __init__(self, scene: Scene, scores: Scores, names: list[str]) -> None:
        self._scores = scores
        self._names = names
        self._sizes = pixel_areas_m2(scene)
        self._pixels = np.zeros(len(names), np.int64)
        self._m2 = np.zeros(len(names))
        self.unmapped = 0

    def add(self, row: int, predicted: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
        """Count rows from ``row`` on: what ``scores.predict`` gave, and which of it is valid."""
        self._pixels += self._scores.tally(predicted, valid)
        self.unmapped += int((~valid).sum())
        if self._sizes is None:
            return
        sizes = self._sizes[row : row + len(valid)]
        if (sizes == sizes[0]).all():
            self._m2 += sizes[0] * self._scores.tally(predicted, valid)
            return
        for place, size in enumerate(sizes):
            part = (..., slice(place, place + 1), slice(None))
            self._m2 += size * self._scores.tally(predicted[part], valid[part])

    @property
    def areas(self) -> dict[str, dict[str, Any]]:
        """``pixels`` and ``area_m2`` of each name; the latter None without a CRS."""
        known = self._sizes is not None
        return {
            name: {"pixels": int(pixels), "area_m2": float(size) if known else None}
            for name, pixels, size in zip(self._names, self._pixels, self._m2, strict=True)
        }


def write_table(areas: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Areas as CSV, each with its share of all mapped pixels."""
    total = sum(area["pixels"] for area in areas.values()) or 1
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["name", "pixels", "area_m2", "share"])
        for name, area in areas.items():
            size = "" if area["area_m2"] is None else round(area["area_m2"], 3)
            table.writerow([name, area["pixels"], size, round(area["pixels"] / total, 6)])


def pixel_areas_m2(scene: Scene) -> npt.NDArray[np.float64] | None:
    """Area of a pixel of each row, in square metres: in the plane of a projected CRS, and on the ellipsoid where the
    CRS is in degrees (J. P. Snyder, Map Projections: A Working Manual, 1987, equation 3-12). None where unknown:
    without a CRS, or in degrees and turned.
    """
    if scene.crs is None:
        return None
    crs = pyproj.CRS.from_wkt(scene.crs)
    a, b, _, d, e, top = scene.transform
    if not crs.is_geographic:
        unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        return np.full(scene.height, abs(a * e - b * d) * unit**2)
    ellipsoid = crs.ellipsoid
    if b or d or ellipsoid is None:
        return None
    radians = crs.axis_info[0].unit_conversion_factor
    sine = np.sin(np.clip((top + e * np.arange(scene.height + 1)) * radians, -np.pi / 2, np.pi / 2))
    minor = ellipsoid.semi_minor_metre
    eccentricity = float(np.sqrt(1 - (minor / ellipsoid.semi_major_metre) ** 2))
    term = sine / (1 - (eccentricity * sine) ** 2)
    term = term + (np.arctanh(eccentricity * sine) / eccentricity if eccentricity else sine)
    areas: npt.NDArray[np.float64] = np.abs(np.diff(term)) * minor**2 / 2 * abs(a) * radians
    return areas

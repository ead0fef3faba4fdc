"""Pixels and square metres of each class of a map."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.data.scenes.ground import GroundTally
from ununennium.data.scenes.scene import Scene
from ununennium.prediction.map_kinds import MapKind


class AreaTable:
    """Counts what is mapped, rows at a time.

    Args:
        scene: scene of the mapped pixels.
        kind: of the map, by the model's task.
        names: of the map's legend.
    """

    def __init__(self, scene: Scene, kind: MapKind, names: list[str]) -> None:
        self._names = names
        self._tally = GroundTally(scene, kind.tally, len(names))
        self.unmapped = 0

    def add(self, row: int, predicted: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
        """Count rows from ``row`` on: what ``kind.predict`` gave, and which of it is valid."""
        self._tally.add(row, 0, predicted, valid)
        self.unmapped += int((~valid).sum())

    @property
    def areas(self) -> dict[str, dict[str, Any]]:
        """``pixels`` and ``area_m2`` of each name; the latter, on the ellipsoid, None without a CRS."""
        pixels, m2 = self._tally.pixels, self._tally.m2
        sizes = [None] * len(pixels) if m2 is None else m2.tolist()
        return {
            name: {"pixels": int(count), "area_m2": size}
            for name, count, size in zip(self._names, pixels, sizes, strict=True)
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

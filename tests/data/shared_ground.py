"""Folds of scenes that share ground, compared by an independent reference: the centres of their pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import rasterio
from rasterio.warp import transform

from ununennium.data import ChipIndex, Scene

ORIGIN = 500000, 5000000


def at(col: float, row: float, pixel: float = 10.0, crs: str = "EPSG:32633") -> dict[str, Any]:
    """A profile whose first pixel lies so many pixels of 10 m east and south of the first scene's."""
    return {"crs": crs, "transform": rasterio.Affine(pixel, 0, ORIGIN[0] + col * 10, 0, -pixel, ORIGIN[1] - row * 10)}


def folds_of_scene(index: ChipIndex, scene: Scene) -> np.ndarray:
    """Fold of each pixel of a scene."""
    return index.split.folds(scene, 0, 0, scene.height, scene.width)


def seen_from_scene(
    index: ChipIndex, scene: Scene, other: Scene, shift: tuple[int, int] = (0, 0)
) -> tuple[np.ndarray, np.ndarray]:
    """Folds of ``scene``, and of ``other`` at the centres of its pixels moved by (rows, columns); 0 outside."""
    folds, its_folds = folds_of_scene(index, scene), folds_of_scene(index, other)
    rows, cols = np.indices(folds.shape)
    x, y = scene.affine * (cols + 0.5 + shift[1], rows + 0.5 + shift[0])
    x, y = (np.array(c) for c in transform(scene.crs, other.crs, x.ravel(), y.ravel()))
    col, row = (np.floor(c).astype(int).reshape(folds.shape) for c in ~other.affine * (x, y))
    inside = (row >= 0) & (row < other.height) & (col >= 0) & (col < other.width)
    seen = np.zeros(folds.shape, np.uint8)
    seen[inside] = its_folds[row[inside], col[inside]]
    return folds, seen

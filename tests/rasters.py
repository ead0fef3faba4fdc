"""Small real GeoTIFFs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import rasterio

UTM = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 5000000)}


def write_raster(path: str | Path, pixels: np.ndarray, *, names: tuple[str, ...] = (), **profile: Any) -> str:
    """Write a GeoTIFF and return its path.

    Args:
        path: the file; its folder is made.
        pixels: (bands, rows, columns), or (rows, columns) of one band.
        names: descriptions of the bands.
        profile: of rasterio; pixels of 10 m in UTM if it says nothing else.
    """
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    bands, height, width = pixels.shape
    size = {"driver": "GTiff", "count": bands, "height": height, "width": width, "dtype": pixels.dtype}
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(path, "w", **{**size, **UTM, **profile}) as file:
        file.write(pixels)
        if names:
            file.descriptions = names
    return str(path)

"""Bands of a label raster: the one that holds labels, and alpha bands, which say where it holds none."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import ColorInterp

from ununennium.config import DataConfig
from ununennium.errors import DataError
from ununennium.tasks import TASKS


def label_bands(dataset: Any, what: str) -> tuple[int, tuple[int, ...]]:
    """Number of the one band with labels, and those of the alpha bands, which say where it holds none.

    Args:
        dataset: an open rasterio dataset.
        what: names it in the message.

    Raises:
        DataError: it has no band beside alpha bands, or several.
    """
    alphas = tuple(band for band, color in enumerate(dataset.colorinterp, 1) if color == ColorInterp.alpha)
    bands = [band for band in range(1, dataset.count + 1) if band not in alphas]
    if len(bands) != 1:
        raise DataError(f"{what} has {len(bands)} bands; give one with classes (gdal_translate -b ...)")
    return bands[0], alphas


def write_labels_alone(
    dataset: Any, copy: Path, bands: tuple[int, tuple[int, ...]], declared: float, dtype: np.dtype[Any]
) -> None:
    """Write the band with labels as a GeoTIFF of one band, with the nodata value where an alpha band is 0.

    Args:
        dataset: an open rasterio dataset.
        copy: the file to write.
        bands: as ``label_bands`` found them.
        declared: the nodata value.
        dtype: of the file, which has room for it.
    """
    band, alphas = bands
    profile = {
        "driver": "GTiff", "count": 1, "dtype": dtype, "crs": dataset.crs, "transform": dataset.transform,
        "height": dataset.height, "width": dataset.width, "nodata": declared, "compress": "zstd",
        "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    with rasterio.open(copy, "w", **profile) as out:
        out.scales, out.offsets = (dataset.scales[band - 1],), (dataset.offsets[band - 1],)
        for _, window in dataset.block_windows(band):
            values = dataset.read(band, window=window).astype(dtype)
            values[(dataset.read(list(alphas), window=window) == 0).any(0)] = declared
            out.write(values, 1, window=window)


def unlabelled_value(config: DataConfig) -> float:
    """Value of unlabelled pixels in warped label rasters without a nodata tag, which no class has."""
    if not TASKS[config.task].has_classes:
        return math.nan
    if config.ignore_index in config.class_values:
        return float(min(-1, *config.class_values) - 1)
    return float(config.ignore_index)

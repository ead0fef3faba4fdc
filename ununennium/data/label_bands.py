"""Bands of a label raster: the one that holds labels, and alpha bands, which say where it holds none."""

from __future__ import annotations

from typing import Any

from rasterio.enums import ColorInterp

from ununennium.errors import DataError


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

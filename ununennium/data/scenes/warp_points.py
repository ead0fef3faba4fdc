"""Warping of images that control points or rational polynomials place, which GDAL's warped datasets leave aside."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.warp import reproject

from ununennium.data.scenes.bands import ImageBands
from ununennium.data.scenes.georeference import Georeference
from ununennium.data.scenes.label_bands import label_bands
from ununennium.data.scenes.nan_copy import write_nan_copy
from ununennium.data.scenes.raster import bounded_cache, open_raster
from ununennium.files import replaced


def warp_image(dataset: Any, placed: Georeference, path: Path, profile: dict[str, Any], nodata: float | None) -> None:
    """Write an image on another grid, as floats with NaN where there is no data.

    Args:
        dataset: the open image.
        placed: its georeference, with control points or polynomials.
        path: the GeoTIFF to write.
        profile: of that file: its grid and its layout.
        nodata: value without data in all bands, instead of the file's tags.
    """
    assert placed.source is not None
    copy = path.with_name(f"{path.stem}.{os.getpid()}.copy.tif")
    numbers = ImageBands.of(dataset).inputs
    try:
        write_nan_copy(dataset, copy, nodata)
        with rasterio.open(copy, "r+") as marked:
            if "rpcs" in placed.source:
                marked.rpcs = placed.source["rpcs"]
            else:
                marked.gcps = placed.source["gcps"], placed.source["src_crs"]
        with open_raster(str(copy), path.name) as marked, bounded_cache(), replaced(path) as part:
            with rasterio.open(
                part, "w", **profile, count=len(numbers), dtype=marked.dtypes[0], nodata=math.nan
            ) as out:
                for position, number in enumerate(numbers, 1):
                    reproject(
                        rasterio.band(marked, number), rasterio.band(out, position), src_nodata=math.nan,
                        dst_nodata=math.nan, resampling=Resampling.bilinear, **placed.source,
                    )  # fmt: skip
                out.descriptions = tuple(dataset.descriptions[number - 1] for number in numbers)
                out.scales = tuple(dataset.scales[number - 1] for number in numbers)
                out.offsets = tuple(dataset.offsets[number - 1] for number in numbers)
    finally:
        copy.unlink(missing_ok=True)


def warp_label(dataset: Any, placed: Georeference, path: Path, profile: dict[str, Any], unlabelled: float) -> None:
    """Write a label raster on another grid: the nearest pixel's value, ``unlabelled`` where there is none.

    Args:
        dataset: the open label raster, on the pixels of the image.
        placed: the image's georeference.
        path: the GeoTIFF to write.
        profile: of that file: its grid and its layout.
        unlabelled: value of unlabelled pixels.
    """
    assert placed.source is not None
    band, alphas = label_bands(dataset, dataset.name)
    values = dataset.read(band)
    kept = np.float64 if values.dtype.itemsize > 2 or math.isnan(unlabelled) else np.int32
    labels = values.astype(kept)
    labels[dataset.read_masks(band) == 0] = unlabelled
    for alpha in alphas:
        labels[dataset.read(alpha) == 0] = unlabelled
    found = np.full((profile["height"], profile["width"]), unlabelled, kept)
    reproject(
        labels, found, dst_transform=profile["transform"], dst_crs=profile["crs"], src_nodata=unlabelled,
        dst_nodata=unlabelled, resampling=Resampling.nearest, **placed.source,
    )  # fmt: skip
    with (
        replaced(path) as part,
        rasterio.open(part, "w", **profile, count=1, dtype=kept, nodata=unlabelled) as out,
    ):
        out.write(found, 1)

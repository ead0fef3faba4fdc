"""A copy of an image in which NaN marks what is invalid, band by band, whatever said so in the image's own file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import MaskFlags

from ununennium.data.scenes.bands import BandSet, ImageBands, ImagePlan
from ununennium.data.scenes.raster import bounded_cache, read_with_masks


def has_one_validity(dataset: Any, nodata: float | None) -> bool:
    """Tell whether one nodata value, one mask or a last alpha band alone say what is invalid, as the warper assumes.

    Args:
        dataset: the open image.
        nodata: value without data in all bands, instead of the file's tags.
    """
    bands = ImageBands.of(dataset)
    positions = [number - 1 for number in bands.inputs]
    declared = {str(bands.nodata[position] if nodata is None else nodata) for position in positions}
    masks = {bands.masks[position] for position in positions}
    if not len(declared) == len(masks) == len({bands.dtypes[position] for position in positions}) == 1:
        return False
    if declared != {"None"} and (masks != {0} or bands.alpha):
        return False
    if bands.alpha:  # the warper takes it for shares of the largest number, where it is the last band
        return bands.alpha == (dataset.count,) and dataset.dtypes[-1] == "uint8"
    return masks == {0} or MaskFlags.per_dataset in dataset.mask_flag_enums[0]


def write_nan_copy(dataset: Any, path: Path, nodata: float | None) -> None:
    """Write the image as floats, in blocks; alpha bands keep their place.

    Args:
        dataset: the open image.
        path: the GeoTIFF to write.
        nodata: value without data in all bands, instead of the file's tags.
    """
    bands = ImageBands.of(dataset)
    numbers = range(1, len(bands.names) + 1)
    plans = {
        number: ImagePlan.of(bands, BandSet((number,), alpha=bands.alpha), dataset.name, nodata)
        for number in bands.inputs
    }
    dtype = np.result_type(*bands.dtypes, np.float32)
    profile = {
        "driver": "GTiff", "count": len(numbers), "dtype": dtype, "crs": dataset.crs, "transform": dataset.transform,
        "height": dataset.height, "width": dataset.width, "nodata": math.nan, "tiled": True, "compress": "zstd",
        "interleave": "band", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    with bounded_cache(), rasterio.open(path, "w", **profile) as out:
        out.descriptions = dataset.descriptions
        out.scales, out.offsets = dataset.scales, dataset.offsets
        for _, window in out.block_windows(1):
            for number in numbers:
                plan = plans.get(number)
                if plan is None:
                    out.write(dataset.read(number, window=window).astype(dtype), number, window=window)
                    continue
                pixels, mask = read_with_masks(dataset, plan.numbers, window, plan.masks, plan.alpha)
                marked = pixels[0].astype(dtype)
                marked[~plan.valid(pixels, mask)] = np.nan
                out.write(marked, number, window=window)

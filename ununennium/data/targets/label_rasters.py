"""Rasters of labels or target values: what they hold, and where they hold something, read in one place."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.windows import Window

from ununennium.data.scenes.label_bands import label_bands
from ununennium.data.scenes.raster import LazyRaster
from ununennium.data.scenes.reader import BoolArray, raster_of
from ununennium.data.scenes.scene import Scene


class LabelRaster:
    """Reads windows of a scene's label raster.

    A pixel is unlabelled where its file says so by any means: its nodata tag, a mask, inside the file or beside it
    (.msk), an alpha band that is 0, or NaN. Like ``SceneReader``, it opens its file when first read, and again in each
    process.

    Args:
        scene: a scene whose labels are a raster.
    """

    def __init__(self, scene: Scene) -> None:
        assert scene.label is not None
        self._raster = raster_of(scene, scene.label, "labels")
        self._bands: tuple[int, tuple[int, ...]] | None = None

    @property
    def path(self) -> str:
        """Path or URL of the raster."""
        return self._raster.path

    @property
    def what(self) -> str:
        """Names it in messages."""
        return self._raster.what

    @property
    def unit(self) -> tuple[float, float]:
        """Scale and offset by the file's tags: a pixel stands for value * scale + offset."""
        band, _ = self._band_numbers()
        scale, offset = self._raster.ask(lambda dataset: (dataset.scales[band - 1], dataset.offsets[band - 1]))
        return float(scale), float(offset)

    def _band_numbers(self) -> tuple[int, tuple[int, ...]]:
        raster: LazyRaster = self._raster
        if self._bands is None:
            self._bands = raster.ask(lambda dataset: label_bands(dataset, f"{raster.what}: {raster.path}"))
        return self._bands

    def read(self, row: int, col: int, height: int, width: int) -> tuple[npt.NDArray[Any], BoolArray]:
        """Values of a window inside the scene, in the file's dtype, and where it holds any, bool; (height, width) both.

        Raises:
            DataError: the file cannot be read there.
        """
        raster: LazyRaster = self._raster
        band, alphas = self._band_numbers()
        pixels, mask = raster.read([band, *alphas], Window(col, row, width, height), with_mask=True)
        values, nodata = pixels[0], raster.nodata
        labelled: BoolArray = (pixels[1:] != 0).all(0)
        if mask is not None:
            labelled &= mask != 0
        if nodata is not None:
            labelled &= values != nodata
        if np.issubdtype(values.dtype, np.floating):
            labelled &= ~np.isnan(values)
        return values, labelled

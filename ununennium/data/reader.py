"""Reading windows of scenes: pixels with what is valid among them.

Windows are ``(row, col, height, width)`` in pixels of the scene, and may reach outside it: what lies there is 0 and
invalid (GDAL's own boundless reads build a virtual raster each time, a hundred times slower).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.windows import Window

from ununennium.data.catalog import Scene
from ununennium.data.memory import DECODED, Decoded, DecodedCache
from ununennium.data.raster import LazyRaster, file_signature

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

_STRIP_VALUES = 2**22


class SceneReader:
    """Reads windows of one scene.

    Files are opened when first read, and again in each process that reads, so a reader may be pickled or forked.
    Scenes that fit into the budget of ``cache`` are decoded once and kept.

    Args:
        scene: what to read.
        bands: bands to read in this order, by name or from 1; None reads all.
        nodata: pixel value without data, instead of the file's tag.
        cache: where decoded scenes are kept.
    """

    def __init__(
        self,
        scene: Scene,
        bands: Sequence[int | str] | None = None,
        nodata: float | None = None,
        *,
        cache: DecodedCache = DECODED,
    ) -> None:
        self.scene = scene
        self.bands = scene.band_numbers(bands or range(1, scene.num_bands + 1))
        self.num_channels = scene.num_dates * len(self.bands)
        self.nodata = scene.nodata if nodata is None else nodata
        shape = scene.height, scene.width
        self._rasters = [LazyRaster(image, f"image of scene {scene.name!r}", shape) for image in scene.images]
        self._cache = cache
        self._decoded: Decoded | None = None
        self._fits = True

    def __getstate__(self) -> dict[str, Any]:
        # Pixels are decoded again where the reader goes; another process has a budget of its own.
        return {**self.__dict__, "_decoded": None, "_fits": True, "_cache": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._cache = DECODED

    def read(self, row: int, col: int, height: int, width: int) -> tuple[FloatArray, BoolArray]:
        """Pixels of a window.

        Returns:
            Image, float32 (channels, height, width), 0 where invalid: the bands of the first date, then those of the
            next; and valid, bool (height, width): inside the scene, at every date and in every band neither nodata
            nor NaN, and not masked.

        Raises:
            DataError: the file cannot be read there.
        """
        image = np.zeros((self.num_channels, height, width), np.float32)
        valid = np.zeros((height, width), np.bool_)
        inside = clip(row, col, height, width, self.scene)
        if inside is not None:
            here, window = inside
            image[(slice(None), *here)], valid[here] = self._read_inside(*window)
            image[:, ~valid] = 0.0
        return image, valid

    def read_valid(self, row: int, col: int, height: int, width: int) -> BoolArray:
        """What is valid in a window, bool (height, width).

        Raises:
            DataError: the file cannot be read there.
        """
        valid = np.zeros((height, width), np.bool_)
        inside = clip(row, col, height, width, self.scene)
        if inside is not None:
            here, window = inside
            valid[here] = self._read_inside(*window)[1]
        return valid

    def strips(self) -> Iterator[tuple[int, int]]:
        """(first row, height) of strips that cover the scene, along the file's blocks and of bounded size."""
        rows = max(1, _STRIP_VALUES // (self.scene.width * self.num_channels))
        block = self.scene.block_shape[0]
        if rows > block:
            rows -= rows % block
        for row in range(0, self.scene.height, rows):
            yield row, min(rows, self.scene.height - row)

    def _read_inside(self, row: int, col: int, height: int, width: int) -> tuple[npt.NDArray[Any], BoolArray]:
        if self._decoded is None and self._fits:
            self._decoded = self._decode_whole()
            self._fits = self._decoded is not None
        if self._decoded is None:
            return self._decode(row, col, height, width)
        pixels, valid = self._decoded.arrays
        window = slice(row, row + height), slice(col, col + width)
        return pixels[(slice(None), *window)], valid[window]

    def _decode_whole(self) -> Decoded | None:
        height, width = self.scene.height, self.scene.width
        key = (*map(file_signature, self.scene.files), self.scene, self.bands, self.nodata)
        num_bytes = height * width * (self.num_channels * np.dtype(self.scene.dtype).itemsize + 1)
        decoded = self._cache.get(key, num_bytes, lambda: self._decode(0, 0, height, width))
        if decoded is not None:
            for raster in self._rasters:
                raster.close()
        return decoded

    def _decode(self, row: int, col: int, height: int, width: int) -> tuple[npt.NDArray[Any], BoolArray]:
        dates = [self._decode_date(raster, Window(col, row, width, height)) for raster in self._rasters]
        if len(dates) == 1:
            return dates[0]
        return np.concatenate([pixels for pixels, _ in dates]), np.logical_and.reduce([valid for _, valid in dates])

    def _decode_date(self, raster: LazyRaster, window: Window) -> tuple[npt.NDArray[Any], BoolArray]:
        pixels, mask = raster.read(self.bands, window, with_mask=self.scene.has_mask)
        valid: BoolArray = np.ones(pixels.shape[1:], np.bool_)
        if self.nodata is not None and not np.isnan(self.nodata):
            valid &= (pixels != self.nodata).all(0)
        if np.issubdtype(pixels.dtype, np.floating):
            valid &= np.isfinite(pixels).all(0)
        if mask is not None:
            valid &= mask != 0
        return pixels, valid


def clip(
    row: int, col: int, height: int, width: int, scene: Scene
) -> tuple[tuple[slice, slice], tuple[int, int, int, int]] | None:
    """The part of a window that lies inside the scene: as slices of the window, and as a window of the scene.

    Returns:
        None if nothing of it does.
    """
    top, left = max(row, 0), max(col, 0)
    bottom, right = min(row + height, scene.height), min(col + width, scene.width)
    if top >= bottom or left >= right:
        return None
    here = slice(top - row, bottom - row), slice(left - col, right - col)
    return here, (top, left, bottom - top, right - left)

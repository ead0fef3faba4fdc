"""Reading windows of scenes: pixels with what is valid among them.

Windows are ``(row, col, height, width)`` in pixels of the scene, and may reach outside it: what lies there is 0 and
invalid (GDAL's own boundless reads build a virtual raster each time, a hundred times slower).
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.windows import Window

from ununennium.data.catalog import Scene
from ununennium.errors import DataError

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

# GDAL's block cache is 5 % of the machine's memory by default, in every process; as an environment variable it is MB.
GDAL_CACHE_MB = 64
# Scenes whose pixels fit are decoded once and kept, per process; more is read window by window.
KEEP_DECODED_BYTES = 256 * 2**20


class SceneReader:
    """Reads windows of one scene.

    Files are opened when first read, and again in each process that reads, so a reader may be pickled or forked.

    Args:
        scene: what to read.
        bands: bands to read, from 1, in this order; None reads all.
        nodata: pixel value without data, instead of the file's tag.
        keep_decoded_bytes: keep the whole scene in memory if its pixels take no more than this.
    """

    def __init__(
        self,
        scene: Scene,
        bands: list[int] | None = None,
        nodata: float | None = None,
        *,
        keep_decoded_bytes: int = KEEP_DECODED_BYTES,
    ) -> None:
        self.scene = scene
        self.bands = list(bands or range(1, scene.num_bands + 1))
        self.nodata = scene.nodata if nodata is None else nodata
        size = scene.width * scene.height * len(self.bands) * np.dtype(scene.dtype).itemsize
        self._keep = size <= keep_decoded_bytes
        self._pid = -1
        self._dataset: Any = None
        self._pixels: npt.NDArray[Any] | None = None
        self._valid: BoolArray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pid": -1, "_dataset": None, "_pixels": None, "_valid": None}

    def read(self, row: int, col: int, height: int, width: int) -> tuple[FloatArray, BoolArray]:
        """Pixels of a window.

        Returns:
            Image, float32 (bands, height, width), 0 where invalid; and valid, bool (height, width): inside the scene,
            in every band neither nodata nor NaN, and not masked.

        Raises:
            DataError: the file cannot be read there.
        """
        image = np.zeros((len(self.bands), height, width), np.float32)
        valid = np.zeros((height, width), np.bool_)
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, self.scene.height), min(col + width, self.scene.width)
        if top >= bottom or left >= right:
            return image, valid
        inside = slice(top - row, bottom - row), slice(left - col, right - col)
        pixels, its_valid = self._read_inside(top, left, bottom - top, right - left)
        image[(slice(None), *inside)] = pixels
        valid[inside] = its_valid
        image[:, ~valid] = 0.0
        return image, valid

    def _read_inside(self, row: int, col: int, height: int, width: int) -> tuple[npt.NDArray[Any], BoolArray]:
        if not self._keep:
            return self._decode(Window(col, row, width, height))
        if self._pixels is None or self._valid is None or self._pid != os.getpid():
            self._pixels, self._valid = self._decode(Window(0, 0, self.scene.width, self.scene.height))
            self._dataset.close()
        window = slice(row, row + height), slice(col, col + width)
        return self._pixels[(slice(None), *window)], self._valid[window]

    def _decode(self, window: Window) -> tuple[npt.NDArray[Any], BoolArray]:
        dataset = self._open()
        try:
            pixels = dataset.read(self.bands, window=window)
            masked = dataset.dataset_mask(window=window) == 0 if self.scene.has_mask else None
        except (RasterioIOError, OSError) as error:
            raise DataError(
                f"scene {self.scene.name!r}: {self.scene.image} cannot be read at row {window.row_off}, column "
                f"{window.col_off} ({error}); is the file damaged?"
            ) from error
        valid: BoolArray = np.ones(pixels.shape[1:], np.bool_)
        if self.nodata is not None and not np.isnan(self.nodata):
            valid &= (pixels != self.nodata).all(0)
        if np.issubdtype(pixels.dtype, np.floating):
            valid &= np.isfinite(pixels).all(0)
        if masked is not None:
            valid &= ~masked
        return pixels, valid

    def _open(self) -> Any:
        if self._dataset is None or self._dataset.closed or self._pid != os.getpid():
            os.environ.setdefault("GDAL_CACHEMAX", str(GDAL_CACHE_MB))
            self._pid = os.getpid()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                try:
                    self._dataset = rasterio.open(self.scene.image)
                except (RasterioIOError, OSError) as error:
                    raise DataError(
                        f"scene {self.scene.name!r}: {self.scene.image} cannot be read ({error})"
                    ) from error
            if (self._dataset.height, self._dataset.width) != (self.scene.height, self.scene.width):
                raise DataError(
                    f"scene {self.scene.name!r}: {self.scene.image} is not the file that was indexed; index it again"
                )
        return self._dataset

"""Reading windows of scenes: pixels with what is valid among them.

Windows are ``(row, col, height, width)`` in pixels of the scene, and may reach outside it: what lies there is 0 and
invalid (GDAL's own boundless reads build a virtual raster each time, a hundred times slower).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from rasterio.windows import Window

from ununennium.data.scenes.bands import BandSet, ImagePlan
from ununennium.data.scenes.places import size_text
from ununennium.data.scenes.raster import GDAL_CACHE_BYTES, LazyRaster, UnreadableError
from ununennium.data.scenes.scene import Scene
from ununennium.errors import DataError

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

_STRIP_VALUES = 2**22


def raster_of(scene: Scene, path: str, role: str) -> LazyRaster:
    """A raster on a scene's grid, which is read in turns with the scene's others.

    Args:
        scene: scene of the pixels.
        path: one of its images, or its labels.
        role: names it in messages, such as ``image``.
    """
    what = f"{role} of scene {scene.name!r}"
    return LazyRaster(path, what, (scene.height, scene.width), num_together=len(scene.images) + 1)


class SceneReader:
    """Reads windows of one scene.

    Files are opened when first read, and again in each process that reads, so a reader may be pickled or forked.

    Args:
        scene: scene to read.
        bands: bands to read in this order, by name or from 1 in the scene's first image; None reads all but alpha
            bands; or those of another scene, which this one's are matched with.
        nodata: pixel value without data, instead of the files' tags.
        max_unreadable: share of the scene's pixels that may be damaged: the blocks that they are in are named in a
            warning, and invalid.

    Attributes:
        num_channels: dates times bands.
        dtype: of the pixels that ``decode`` gives.

    Raises:
        ConfigError: an image has no such band.
        DataError: bands of an image cannot be told apart by name.
    """

    def __init__(
        self,
        scene: Scene,
        bands: BandSet | Sequence[int | str] | None = None,
        nodata: float | None = None,
        *,
        max_unreadable: float = 0.0,
    ) -> None:
        self.scene = scene
        wanted = bands if isinstance(bands, BandSet) else scene.band_set(bands)
        self.plans = [ImagePlan.of(image, wanted, scene.name, nodata) for image in scene.bands_of_images]
        self.num_channels = scene.num_dates * len(wanted.bands)
        self.dtype = np.result_type(*(plan.dtype for plan in self.plans))
        self._rasters = [raster_of(scene, image, "image") for image in scene.images]
        self.max_unreadable = max_unreadable
        self._unreadable: dict[tuple[int, int], int] = {}  # first row and column of a block, and its pixels

    def read(
        self, row: int, col: int, height: int, width: int, *, cache_bytes: int = GDAL_CACHE_BYTES
    ) -> tuple[FloatArray, BoolArray]:
        """Pixels of a window; GDAL keeps at most ``cache_bytes`` of decoded blocks.

        Returns:
            Image, float32 (channels, height, width), 0 where invalid: the bands of the first date, then those of the
            next; and valid, bool (height, width): inside the scene, at every date and in every band neither nodata
            nor NaN, and not masked, each as its own file says.

        Raises:
            DataError: the file cannot be read there.
        """
        image = np.zeros((self.num_channels, height, width), np.float32)
        valid = np.zeros((height, width), np.bool_)
        inside = clip(row, col, height, width, self.scene)
        if inside is not None:
            here, window = inside
            image[(slice(None), *here)], valid[here] = self.decode(*window, cache_bytes=cache_bytes)
            image[:, ~valid] = 0.0
        return image, valid

    def read_valid(self, row: int, col: int, height: int, width: int) -> BoolArray:
        """Mask of valid pixels in a window, bool (height, width).

        Raises:
            DataError: the file cannot be read there.
        """
        valid = np.zeros((height, width), np.bool_)
        inside = clip(row, col, height, width, self.scene)
        if inside is not None:
            here, window = inside
            valid[here] = self.decode(*window)[1]
        return valid

    def strips(self) -> Iterator[tuple[int, int]]:
        """(first row, height) of strips that cover the scene, along the file's blocks and of bounded size."""
        rows = max(1, _STRIP_VALUES // (self.scene.width * self.num_channels))
        block = self.scene.block_shape[0]
        if rows > block:
            rows -= rows % block
        for row in range(0, self.scene.height, rows):
            yield row, min(rows, self.scene.height - row)

    def decode(
        self, row: int, col: int, height: int, width: int, *, cache_bytes: int = GDAL_CACHE_BYTES
    ) -> tuple[npt.NDArray[Any], BoolArray]:
        """Pixels of a window inside the scene, as the files have them, or converted where their units differ.

        Args:
            row, col, height, width: the window.
            cache_bytes: bound of GDAL's cache of blocks.

        Returns:
            Image (channels, height, width) of ``dtype``, whatever it holds where invalid; and valid, as in ``read``.

        Raises:
            DataError: more than ``max_unreadable`` of the scene cannot be read.
        """
        window = Window(col, row, width, height)
        dates = [self._decode_date(number, window, cache_bytes) for number in range(len(self._rasters))]
        if len(dates) == 1:
            return dates[0]
        return np.concatenate([pixels for pixels, _ in dates]), np.logical_and.reduce([valid for _, valid in dates])

    def _decode_date(
        self, date: int, window: Window, cache_bytes: int = GDAL_CACHE_BYTES
    ) -> tuple[npt.NDArray[Any], BoolArray]:
        plan = self.plans[date]
        try:
            pixels, mask = self._rasters[date].read(
                plan.numbers, window, masks=plan.masks, alpha=plan.alpha, cache_bytes=cache_bytes
            )
        except UnreadableError as error:
            if not self.max_unreadable or self._is_one_block(window):
                return self._leave_out(plan, window, error)
            return self._decode_blocks(date, window)
        return plan.converted(pixels), plan.valid(pixels, mask)

    def _decode_blocks(self, date: int, window: Window) -> tuple[npt.NDArray[Any], BoolArray]:
        """Readable part of a window, block by block."""
        height, width = self.scene.block_shape
        bottom, right = window.row_off + window.height, window.col_off + window.width
        rows = []
        for top in range(window.row_off // height * height, bottom, height):
            row = []
            for left in range(window.col_off // width * width, right, width):
                first = max(top, window.row_off), max(left, window.col_off)
                last = min(top + height, bottom), min(left + width, right)
                part = Window(first[1], first[0], last[1] - first[1], last[0] - first[0])
                row.append(self._decode_date(date, part))
            rows.append([np.concatenate(parts, -1) for parts in zip(*row, strict=True)])
        pixels, valid = (np.concatenate(parts, -2) for parts in zip(*rows, strict=True))
        return pixels, valid

    def _is_one_block(self, window: Window) -> bool:
        height, width = self.scene.block_shape
        last_row, last_col = window.row_off + window.height - 1, window.col_off + window.width - 1
        return bool(window.row_off // height == last_row // height and window.col_off // width == last_col // width)

    def _leave_out(self, plan: ImagePlan, window: Window, error: UnreadableError) -> tuple[npt.NDArray[Any], BoolArray]:
        """Nothing, for a window in one damaged block; or the error, if too much of the scene is damaged."""
        scene, (height, width) = self.scene, self.scene.block_shape
        row, col = window.row_off // height * height, window.col_off // width * width
        self._unreadable[row, col] = min(height, scene.height - row) * min(width, scene.width - col)
        share = sum(self._unreadable.values()) / (scene.height * scene.width)
        if share > self.max_unreadable:
            if not self.max_unreadable:
                raise error
            raise DataError(
                f"scene {scene.name!r}: {len(self._unreadable)} blocks, {share:.1%} of it, cannot be read, more "
                f"than data.max_unreadable = {self.max_unreadable:g}; mend the file or leave the scene out. "
                f"The last: {error}"
            ) from error
        warnings.warn(f"left out, as unreadable: a block of pixels, {size_text(height, width)}: {error}", stacklevel=2)
        shape = window.height, window.width
        return np.zeros((len(plan.numbers), *shape), plan.dtype), np.zeros(shape, np.bool_)


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

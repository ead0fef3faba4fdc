"""Windows of a scene as a model wants them: normalised, with the scene mirrored beyond its edges."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ununennium.data.chips.statistics import BandStatistics, normalise
from ununennium.data.scenes.layout import arrange
from ununennium.data.scenes.raster import GDAL_CACHE_BYTES
from ununennium.data.scenes.reader import BoolArray, FloatArray, SceneReader
from ununennium.prediction.strips import ReadWindow

_MOST_CACHE_BYTES = 2**30


def window_reader(
    reader: SceneReader,
    statistics: BandStatistics,
    row: int = 0,
    col: int = 0,
    *,
    layout: str = "channels",
    scale: float = 1.0,
    offset: float = 0.0,
    cache_bytes: int = GDAL_CACHE_BYTES,
) -> ReadWindow:
    """A ``read(row, col, height, width)`` for ``predict_strips`` over a region of a scene.

    What lies outside the scene is its mirror image, not a flat patch that a model might take for something; it is
    invalid all the same.

    Args:
        reader: of the scene.
        statistics: for the normalisation.
        row: first row of the region in the scene.
        col: first column.
        layout: how stacks of dates reach the model, see ``DataConfig.layout``.
        scale: values are multiplied by it before they are normalised,
        offset: and this is added.
        cache_bytes: bound of GDAL's cache of blocks; ``blocks_of_a_row`` says when none is decoded twice.
    """
    scene = reader.scene

    def read(top: int, left: int, height: int, width: int) -> tuple[FloatArray, BoolArray]:
        rows, row_inside = _mirrored(top + row, height, scene.height)
        cols, col_inside = _mirrored(left + col, width, scene.width)
        first_row, first_col = int(rows.min()), int(cols.min())
        span = int(rows.max()) - first_row + 1, int(cols.max()) - first_col + 1
        pixels, valid = reader.read(first_row, first_col, *span, cache_bytes=cache_bytes)
        if (scale, offset) != (1.0, 0.0):
            pixels = pixels * np.float32(scale) + np.float32(offset)
        image = arrange(normalise(pixels, valid, statistics), scene.num_dates, layout)
        if row_inside.all() and col_inside.all():
            return image, valid
        shown_rows, shown_cols = (rows - first_row)[:, None], (cols - first_col)[None, :]
        inside = row_inside[:, None] & col_inside[None, :]
        return image[..., shown_rows, shown_cols], valid[shown_rows, shown_cols] & inside

    return read


def blocks_of_a_row(reader: SceneReader, tile: int) -> int:
    """Bytes of the decoded blocks that a row of tiles lies in: with a cache of these, each is decoded once, whether
    the file has tiles, or strips as wide as the scene."""
    scene = reader.scene
    block_rows = scene.block_shape[0]
    rows = min((-(-tile // block_rows) + 1) * block_rows, scene.height + block_rows)
    needed = int(1.1 * rows * scene.width * scene.num_bands * scene.num_dates * np.dtype(scene.dtype).itemsize)
    return min(max(needed, GDAL_CACHE_BYTES), _MOST_CACHE_BYTES)


def _mirrored(first: int, count: int, length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """For ``count`` places from ``first``: the place within ``length`` that each shows, and whether it is that one."""
    positions = np.arange(first, first + count)
    period = max(1, 2 * (length - 1))
    folded = np.abs(positions) % period
    return np.minimum(folded, period - folded) % length, (positions >= 0) & (positions < length)

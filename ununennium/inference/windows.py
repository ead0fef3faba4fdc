"""Windows of a scene as a model wants them: normalised, with the scene mirrored beyond its edges."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ununennium.data.layout import arrange
from ununennium.data.reader import BoolArray, FloatArray, SceneReader
from ununennium.data.statistics import BandStatistics, normalise
from ununennium.inference.predict import ReadWindow


def window_reader(
    reader: SceneReader, statistics: BandStatistics, row: int = 0, col: int = 0, *, layout: str = "channels"
) -> ReadWindow:
    """A ``read(row, col, height, width)`` for ``predict_bands`` over a region of a scene.

    What lies outside the scene is its mirror image, not a flat patch that a model might take for something; it is
    invalid all the same.

    Args:
        reader: of the scene.
        statistics: for the normalisation.
        row: first row of the region in the scene.
        col: first column.
        layout: how stacks of dates reach the model, see ``DataConfig.layout``.
    """
    scene = reader.scene

    def read(top: int, left: int, height: int, width: int) -> tuple[FloatArray, BoolArray]:
        rows, row_inside = _mirrored(top + row, height, scene.height)
        cols, col_inside = _mirrored(left + col, width, scene.width)
        first_row, first_col = int(rows.min()), int(cols.min())
        span = int(rows.max()) - first_row + 1, int(cols.max()) - first_col + 1
        pixels, valid = reader.read(first_row, first_col, *span)
        shown_rows, shown_cols = (rows - first_row)[:, None], (cols - first_col)[None, :]
        image: FloatArray = normalise(pixels, valid, statistics)[:, shown_rows, shown_cols]
        image = arrange(image, scene.num_dates, layout)
        return image, valid[shown_rows, shown_cols] & row_inside[:, None] & col_inside[None, :]

    return read


def _mirrored(first: int, count: int, length: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """For ``count`` places from ``first``: the place within ``length`` that each shows, and whether it is that one."""
    places = np.arange(first, first + count)
    period = max(1, 2 * (length - 1))
    folded = np.abs(places) % period
    return np.minimum(folded, period - folded) % length, (places >= 0) & (places < length)

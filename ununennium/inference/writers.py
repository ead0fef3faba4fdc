"""Predicted classes as a cloud-optimised GeoTIFF: its name appears only when it is whole."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.shutil import copy as raster_copy
from rasterio.windows import Window

from ununennium.data.catalog import Scene

NODATA = 255

# Okabe and Ito's palette, which people with any colour vision tell apart; class 0 is a quiet grey.
COLOURS = (
    (235, 235, 235), (213, 94, 0), (0, 114, 178), (0, 158, 115), (240, 228, 66), (86, 180, 233), (204, 121, 167),
    (230, 159, 0), (0, 0, 0),
)  # fmt: skip


def colour(number: int) -> tuple[int, int, int]:
    """The colour of a class: the palette's, and beyond it one drawn from the class's number."""
    if number < len(COLOURS):
        return COLOURS[number]
    red, green, blue = np.random.default_rng(number).integers(30, 226, 3).tolist()
    return red, green, blue


class ClassMapWriter:
    """Writes a class map of a window of a scene, rows at a time; use it as a context manager.

    The file is a COG with the scene's CRS, a colour table, class names as tags, overviews by mode, and nodata 255. It
    is written beside its place under other names and moved when complete; an exception leaves nothing.

    Args:
        path: where the file goes.
        scene: whose pixels were predicted.
        row: first row of the window.
        col: first column.
        height: rows.
        width: columns.
        classes: class names; class numbers are the pixel values.
    """

    def __init__(
        self, path: str | Path, scene: Scene, *, row: int, col: int, height: int, width: int, classes: Sequence[str]
    ) -> None:
        self.path = Path(path)
        self._rows = self.path.with_name(f".{self.path.stem}-{os.getpid()}-rows.tif")
        self._whole = self.path.with_name(f".{self.path.stem}-{os.getpid()}-whole.tif")
        self._classes = list(classes)
        self._profile: dict[str, Any] = {
            "driver": "GTiff",
            "count": 1,
            "dtype": "uint8",
            "height": height,
            "width": width,
            "crs": None if scene.crs is None else rasterio.CRS.from_wkt(scene.crs),
            "transform": scene.affine * rasterio.Affine.translation(col, row),
            "nodata": NODATA,
            "tiled": True,
            "blockxsize": 256,
            "blockysize": 256,
            "compress": "deflate",
        }
        self._dataset: Any = None

    def __enter__(self) -> ClassMapWriter:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._dataset = rasterio.open(self._rows, "w", **self._profile)
        self._dataset.write_colormap(1, {n: (*colour(n), 255) for n in range(len(self._classes))})
        self._dataset.update_tags(**{f"CLASS_{number}": name for number, name in enumerate(self._classes)})
        self._dataset.set_band_description(1, "class")
        return self

    def write(self, row: int, classes: npt.NDArray[np.uint8], valid: npt.NDArray[np.bool_]) -> None:
        """Write rows.

        Args:
            row: first row, counted from the window's top.
            classes: uint8 (rows, width).
            valid: bool (rows, width); nodata where False.
        """
        height, width = classes.shape
        self._dataset.write(np.where(valid, classes, NODATA).astype(np.uint8), 1, window=Window(0, row, width, height))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dataset.close()
        try:
            if kind is None:
                options = {"compress": "deflate", "overview_resampling": "mode", "blocksize": 256}
                raster_copy(str(self._rows), str(self._whole), driver="COG", **options)
                os.replace(self._whole, self.path)
        finally:
            self._rows.unlink(missing_ok=True)
            self._whole.unlink(missing_ok=True)

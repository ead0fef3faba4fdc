"""Labels of a scene as class numbers on the image's grid: from a raster, or from shapes rasterised on the fly."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio
import rasterio
import shapely
from rasterio.features import rasterize
from rasterio.windows import Window

from ununennium.data.catalog import Scene, open_raster
from ununennium.errors import DataError

LabelArray = npt.NDArray[np.int64]

# Labels of scenes up to so many pixels are kept in memory, per process.
KEEP_PIXELS = 64 * 2**20


class LabelReader:
    """Reads windows of a scene's labels.

    Args:
        scene: a scene with labels.
        classes: class names; a class's value is its place.
        ignore_index: the value of unlabelled pixels.

    Raises:
        DataError: the scene has no labels, or a shape's class is unknown.
    """

    def __init__(self, scene: Scene, classes: Sequence[str], ignore_index: int) -> None:
        if scene.label is None:
            raise DataError(f"scene {scene.name!r} has no labels; give data.scenes[].label a raster or a vector file")
        self.scene = scene
        self.classes = list(classes)
        self.ignore_index = ignore_index
        self._pid = -1
        self._shapes: tuple[Any, LabelArray, Any] | None = None
        self._whole: npt.NDArray[Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pid": -1, "_shapes": None, "_whole": None}

    def read(self, row: int, col: int, height: int, width: int) -> LabelArray:
        """Labels of a window, int64 (height, width); ``ignore_index`` where unlabelled, and outside the scene.

        Values outside the classes are returned as they are: the index counts and names them.

        Raises:
            DataError: the file cannot be read.
        """
        labels = np.full((height, width), self.ignore_index, np.int64)
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, self.scene.height), min(col + width, self.scene.width)
        if top < bottom and left < right:
            inside = self._read_inside(top, left, bottom - top, right - left)
            labels[top - row : bottom - row, left - col : right - col] = inside
        return labels

    def _read_inside(self, row: int, col: int, height: int, width: int) -> npt.NDArray[Any]:
        if self._pid != os.getpid():
            self._pid, self._shapes, self._whole = os.getpid(), None, None
        decode = self._from_shapes if self.scene.label_kind == "vector" else self._from_raster
        if self.scene.width * self.scene.height > KEEP_PIXELS:
            return decode(row, col, height, width)
        if self._whole is None:
            whole = decode(0, 0, self.scene.height, self.scene.width)
            low, high = int(whole.min()), int(whole.max())
            self._whole = whole.astype(np.uint8) if low >= 0 and high < 256 else whole
        window: npt.NDArray[Any] = self._whole[row : row + height, col : col + width]
        return window

    def _from_raster(self, row: int, col: int, height: int, width: int) -> npt.NDArray[Any]:
        assert self.scene.label is not None
        with open_raster(self.scene.label, f"labels of scene {self.scene.name!r}") as dataset:
            try:
                values = dataset.read(1, window=Window(col, row, width, height))
            except (rasterio.errors.RasterioIOError, OSError) as error:
                raise DataError(
                    f"labels of scene {self.scene.name!r}: {self.scene.label} is damaged ({error})"
                ) from error
            labels: LabelArray = np.nan_to_num(values, nan=self.ignore_index).astype(np.int64)
            if dataset.nodata is not None:
                labels[values == dataset.nodata] = self.ignore_index
            return labels

    def _from_shapes(self, row: int, col: int, height: int, width: int) -> npt.NDArray[Any]:
        if self._shapes is None:
            self._shapes = self._load_shapes()
        shapes, values, tree = self._shapes
        transform = self.scene.affine * rasterio.Affine.translation(col, row)
        corners = [transform * point for point in ((0, 0), (width, 0), (width, height), (0, height))]
        here = np.sort(tree.query(shapely.Polygon(corners), predicate="intersects"))
        background = 0 if self.scene.outside == "background" else self.ignore_index
        if not len(here):
            return np.full((height, width), background, np.int64)
        burned: npt.NDArray[Any] = rasterize(
            [(shapes[i], int(values[i])) for i in here],
            out_shape=(height, width),
            fill=background,
            transform=transform,
            dtype="int32",
        )
        return burned

    def _load_shapes(self) -> tuple[Any, LabelArray, Any]:
        scene = self.scene
        columns = [scene.label_field] if scene.label_field else []
        meta, _, geometry, fields = pyogrio.raw.read(scene.label, columns=columns)
        shapes = shapely.from_wkb(geometry)
        present = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
        values = np.full(len(shapes), scene.label_value, np.int64)
        if scene.label_field:
            values = np.array([self._class_of(value) for value in fields[0]], np.int64)
        shapes, values = shapes[present], values[present]
        if scene.crs is not None and meta["crs"]:
            shapes = _to_crs(shapes, meta["crs"], scene.crs)
        return shapes, values, shapely.STRtree(shapes)

    def _class_of(self, value: Any) -> int:
        if isinstance(value, str) and value in self.classes:
            return self.classes.index(value)
        try:
            return int(value)
        except (TypeError, ValueError) as error:
            raise DataError(
                f"labels of scene {self.scene.name!r}: {self.scene.label_field} = {value!r} is no class; data.classes "
                f"are {', '.join(self.classes)}"
            ) from error


def _to_crs(shapes: Any, source: str, target: str) -> Any:
    """Shapes with their coordinates in another CRS."""
    import pyproj

    if rasterio.CRS.from_user_input(source) == rasterio.CRS.from_user_input(target):
        return shapes
    move = pyproj.Transformer.from_crs(source, target, always_xy=True)

    def moved(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.column_stack(move.transform(points[:, 0], points[:, 1]))

    return shapely.transform(shapes, moved)

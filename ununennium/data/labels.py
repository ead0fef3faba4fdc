"""Labels of a scene as class numbers on the image's grid: from a raster, or from shapes rasterised on the fly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from rasterio.features import rasterize
from rasterio.windows import Window

from ununennium.data.catalog import Scene
from ununennium.data.reader import clip, raster_of
from ununennium.data.vector_files import read_table
from ununennium.errors import DataError

LabelArray = npt.NDArray[np.int64]


class LabelReader:
    """Reads windows of a scene's labels.

    Like ``SceneReader``, it may be pickled or forked.

    Args:
        scene: a scene with labels.
        classes: class names; a class's value is its place.
        ignore_index: the value of unlabelled pixels.

    Raises:
        DataError: the scene has no labels.
    """

    def __init__(self, scene: Scene, classes: Sequence[str], ignore_index: int) -> None:
        if scene.label is None:
            raise DataError(f"scene {scene.name!r} has no labels; give data.scenes[].label a raster or a vector file")
        self.scene = scene
        self.classes = tuple(classes)
        self.ignore_index = ignore_index
        self._raster = raster_of(scene, scene.label, "labels")
        self._shapes: _Shapes | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shapes": None}

    def read(self, row: int, col: int, height: int, width: int) -> LabelArray:
        """Labels of a window, int64 (height, width); ``ignore_index`` where unlabelled, and outside the scene.

        Values outside the classes are returned as they are: the index counts and names them.

        Raises:
            DataError: the file cannot be read, or has labels that are no class numbers.
        """
        labels = np.full((height, width), self.ignore_index, np.int64)
        inside = clip(row, col, height, width, self.scene)
        if inside is not None:
            here, window = inside
            labels[here] = self._read_inside(*window)
        return labels

    def _read_inside(self, row: int, col: int, height: int, width: int) -> npt.NDArray[Any]:
        decode = self._from_shapes if self.scene.label_kind == "vector" else self._from_raster
        return decode(row, col, height, width)

    def _from_raster(self, row: int, col: int, height: int, width: int) -> npt.NDArray[Any]:
        values = self._raster.read([1], Window(col, row, width, height))[0][0]
        nodata = self._raster.nodata
        unlabelled = np.zeros(values.shape, np.bool_) if nodata is None else values == nodata
        if np.issubdtype(values.dtype, np.floating):
            unlabelled |= np.isnan(values)
            with np.errstate(invalid="ignore"):
                wrong = values[~unlabelled & (values % 1 != 0)]  # infinity is no number either
            if wrong.size:
                raise DataError(
                    f"{self._raster.what}: {self._raster.path} has {wrong.size} pixels that are no class numbers, "
                    f"such as {wrong[0]:g}; write whole numbers from 0 to {len(self.classes) - 1}"
                )
            values = np.where(unlabelled, 0, values).astype(np.int64)
        dtype = np.promote_types(values.dtype, np.min_scalar_type(self.ignore_index))
        labels: npt.NDArray[Any] = values.astype(dtype if np.issubdtype(dtype, np.integer) else np.int64)
        labels[unlabelled] = self.ignore_index
        return labels

    def _from_shapes(self, row: int, col: int, height: int, width: int) -> npt.NDArray[Any]:
        if self._shapes is None:
            self._shapes = _Shapes(self.scene, self._raster.path, self.classes)
        fill = self.ignore_index if self.scene.outside == "unlabelled" else 0
        return self._shapes.burn(row, col, height, width, fill)


class _Shapes:
    """A vector file's shapes in the scene's CRS, with their classes."""

    def __init__(self, scene: Scene, path: str, classes: Sequence[str]) -> None:
        columns = [scene.label_field] if scene.label_field else []
        meta, geometry, fields = read_table(path, columns=columns)
        shapes = shapely.from_wkb(geometry)
        values = np.full(len(shapes), 1 if scene.label_value is None else scene.label_value, np.int64)
        if scene.label_field:
            values = np.array([_class_of(value, scene, classes) for value in fields[0]], np.int64)
        present = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
        self._values = values[present]
        self._shapes = shapes[present]
        if scene.crs is not None and meta["crs"]:
            self._shapes = to_crs(self._shapes, meta["crs"], scene.crs)
        self._tree = shapely.STRtree(self._shapes)
        self._affine = scene.affine

    def burn(self, row: int, col: int, height: int, width: int, fill: int) -> npt.NDArray[Any]:
        """Classes of the pixels whose centre lies in a shape, the file's later one on top; ``fill`` elsewhere."""
        transform = self._affine * rasterio.Affine.translation(col, row)
        corners = [transform * point for point in ((0, 0), (width, 0), (width, height), (0, height))]
        here = np.sort(self._tree.query(shapely.Polygon(corners), predicate="intersects"))
        values = self._values[here]
        if not len(here):
            return np.full((height, width), fill, np.int32)
        burned: npt.NDArray[Any] = rasterize(
            zip(self._shapes[here], values.tolist(), strict=True),
            out_shape=(height, width),
            fill=fill,
            transform=transform,
            dtype="uint8" if min(fill, values.min()) >= 0 and max(fill, values.max()) < 256 else "int32",
        )
        return burned


def _class_of(value: Any, scene: Scene, classes: Sequence[str]) -> int:
    """The class number that a vector attribute names, by name or by number."""
    if isinstance(value, str) and value in classes:
        return classes.index(value)
    try:
        number = float(value)
        if number == int(number):
            return int(number)
    except (TypeError, ValueError, OverflowError):
        pass
    raise DataError(
        f"labels of scene {scene.name!r}: {scene.label_field} = {value!r} is no class; data.classes are "
        f"{', '.join(classes)}"
    )


def to_crs(shapes: Any, source: str, target: str) -> Any:
    """An array of shapely geometries with their coordinates in another CRS."""
    import pyproj

    if rasterio.CRS.from_user_input(source) == rasterio.CRS.from_user_input(target):
        return shapes
    move = pyproj.Transformer.from_crs(source, target, always_xy=True)

    def moved(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        return np.column_stack(move.transform(points[:, 0], points[:, 1]))

    return shapely.transform(shapes, moved)

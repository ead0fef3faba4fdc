"""Labels of a scene as class numbers on the image's grid: from a raster, or from shapes rasterised on the fly."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.data.scenes.reader import clip
from ununennium.data.scenes.scene import Scene
from ununennium.data.targets.class_numbers import UNKNOWN, ClassNumbers
from ununennium.data.targets.label_rasters import LabelRaster
from ununennium.data.targets.label_shapes import LabelledArea, LabelShapes
from ununennium.errors import DataError

LabelArray = npt.NDArray[np.int64]


class LabelReader:
    """Reads windows of a scene's labels.

    Like ``SceneReader``, it may be pickled or forked.

    Args:
        scene: a scene with labels.
        classes: class names; a class's number is its place.
        ignore_index: the number of unlabelled pixels.

    Raises:
        DataError: the scene has no labels.
    """

    def __init__(self, scene: Scene, classes: Sequence[str], ignore_index: int) -> None:
        if scene.label is None:
            raise DataError(f"scene {scene.name!r} has no labels; give data.scenes[].label a raster or a vector file")
        self._set_up(scene, classes, ignore_index)

    def _set_up(self, scene: Scene, classes: Sequence[str], ignore_index: int) -> None:
        self.scene = scene
        self.classes = tuple(classes)
        self.ignore_index = ignore_index
        self._numbers = ClassNumbers(scene, classes, ignore_index)
        self._raster = LabelRaster(scene) if scene.label_kind == "raster" else None
        self._shapes: LabelShapes | None = None
        self._area = LabelledArea(scene)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_shapes": None}

    def read(self, row: int, col: int, height: int, width: int) -> LabelArray:
        """Labels of a window, int64 (height, width); ``ignore_index`` where unlabelled, and outside the scene.

        Without values of their own for the classes, values of no class are returned as they are; with such,
        ``UNKNOWN`` stands for them. The index counts and names them (``unknown``).

        Raises:
            DataError: the files cannot be read, or have labels that are no class numbers.
        """
        labels = np.full((height, width), self.ignore_index, np.int64)
        inside = clip(row, col, height, width, self.scene)
        if inside is not None:
            here, window = inside
            labels[here] = self._read_inside(*window)
            outside = self._area.outside(*window)
            if outside is not None:
                labels[here][outside] = self.ignore_index
        return labels

    def unknown(self, row: int, col: int, height: int, width: int) -> Counter[int]:
        """Values in a window inside the scene that are no class, as the file has them, with the number of pixels.

        Raises:
            DataError: as ``read``.
        """
        labels = self.read(row, col, height, width)
        wrong = (labels != self.ignore_index) & ((labels < 0) | (labels >= len(self.classes)))
        if self._raster is not None and (labels[wrong] == UNKNOWN).any():
            labels = self._raster.read(row, col, height, width)[0]
        values, counts = np.unique(labels[wrong], return_counts=True)
        return Counter(dict(zip(map(int, values), map(int, counts), strict=True)))

    def _read_inside(self, row: int, col: int, height: int, width: int) -> npt.NDArray[Any]:
        decode = self._from_shapes if self._raster is None else self._from_raster
        return decode(row, col, height, width)

    def _from_raster(self, row: int, col: int, height: int, width: int) -> npt.NDArray[Any]:
        assert self._raster is not None
        values, labelled = self._raster.read(row, col, height, width)
        if np.issubdtype(values.dtype, np.floating):
            with np.errstate(invalid="ignore"):
                whole = values % 1 == 0  # neither is infinity a number
            wrong = values[labelled & ~whole]
            if wrong.size and self.scene.label_unknown == "error":
                raise DataError(
                    f"{self._raster.what}: {self._raster.path} has {wrong.size} pixels that are no class numbers, "
                    f"such as {wrong[0]:g}; write whole numbers from 0 to {len(self.classes) - 1}"
                )
            labelled &= whole
            values = np.where(labelled, values, 0).astype(np.int64)
        values = self._numbers.of_pixels(values)
        dtype = np.promote_types(values.dtype, np.min_scalar_type(self.ignore_index))
        labels: npt.NDArray[Any] = values.astype(dtype if np.issubdtype(dtype, np.integer) else np.int64)
        labels[~labelled] = self.ignore_index
        return labels

    def _from_shapes(self, row: int, col: int, height: int, width: int) -> npt.NDArray[Any]:
        if self._shapes is None:
            self._shapes = LabelShapes(self.scene, self._numbers)
        fill = self.ignore_index if self.scene.outside == "unlabelled" else 0
        return self._shapes.burn(row, col, height, width, fill)

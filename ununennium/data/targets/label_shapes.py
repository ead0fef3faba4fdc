"""Shapes of vector labels, and of the area in which labels are complete, burned into windows of an image."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from rasterio.features import rasterize

from ununennium.data.scenes.reader import BoolArray
from ununennium.data.scenes.scene import Scene
from ununennium.data.scenes.vector_shapes import Shapes, choose_layer, read_shapes
from ununennium.data.targets.class_numbers import ClassNumbers
from ununennium.data.targets.ground_buffers import buffered
from ununennium.data.targets.shapes_on_image import on_image
from ununennium.errors import ConfigError, DataError

_EDGE_PIXELS = 64  # of a buffered line, before its vertices are moved to another plane


class LabelShapes:
    """Shapes of a scene's vector labels in the image's CRS, with their class numbers.

    Args:
        scene: a scene with vector labels.
        numbers: finds classes.

    Raises:
        DataError: the file cannot be read, shapes have no class, all lie outside of the image, or are lines or points
            without a buffer.
        ConfigError: ``label_value`` is no class.
    """

    def __init__(self, scene: Scene, numbers: ClassNumbers) -> None:
        assert scene.label is not None
        what, field = f"labels of scene {scene.name!r}", scene.label_field
        found = read_shapes(scene.label, scene.label_layer, [field] if field else [], what)
        values = _classes(found, scene, numbers, f"{what}: {scene.label}")
        shapes = _with_area(found, scene, f"{what}: {scene.label}")
        there, positions = on_image(shapes, found.crs, scene, scene.label_buffer_m or 0.0)
        if scene.label_buffer_m is not None and len(there):
            if scene.crs is None:
                raise DataError(
                    f"{what}: label_buffer_m = {scene.label_buffer_m:g}: the image has no CRS, so that metres are "
                    "unknown; draw polygons in its pixels"
                )
            there = buffered(there, scene.crs, scene.label_buffer_m, _EDGE_PIXELS * max(scene.resolution))
        self._values = values[positions]
        self._burner = Burner(there, scene)
        if len(shapes) and not self._burner.meets_image and scene.labelled_area is None and not scene.labelled_regions:
            _refuse_outside(found, there, scene, f"{what}: {scene.label}")

    def burn(self, row: int, col: int, height: int, width: int, fill: int) -> npt.NDArray[Any]:
        """Classes of the pixels whose centre lies in a shape, the file's later one on top; ``fill`` elsewhere."""
        return self._burner.burn(self._values, (row, col, height, width), fill)


class LabelledArea:
    """The area of an image in which labels are complete: polygons of a file, or rectangles.

    Like ``SceneReader``, it may be pickled or forked; the file is read when first needed.

    Args:
        scene: scene that gives the grid.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._burner: Burner | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_burner": None}

    def outside(self, row: int, col: int, height: int, width: int) -> BoolArray | None:
        """Pixels of a window that lie outside of the area, bool (height, width); None if the area is the whole image.

        Raises:
            DataError: the file cannot be read, is not of polygons, or lies outside of the image.
        """
        scene = self._scene
        if scene.labelled_area is None and not scene.labelled_regions:
            return None
        inside = np.zeros((height, width), np.bool_)
        for top, bottom, left, right in scene.labelled_regions:
            inside[max(top - row, 0) : max(bottom - row, 0), max(left - col, 0) : max(right - col, 0)] = True
        if scene.labelled_area is not None:
            if self._burner is None:
                self._burner = _area_of(scene)
            inside |= self._burner.burn(None, (row, col, height, width), 0) > 0
        return ~inside


class Burner:
    """Shapes in an image's coordinates, ready to be burned into windows.

    Args:
        shapes: shapely geometries, a later one on top.
        scene: scene that gives the grid.

    Attributes:
        meets_image: whether a shape has a part on the image, as far as bounding boxes tell.
    """

    def __init__(self, shapes: npt.NDArray[Any], scene: Scene) -> None:
        self._shapes = shapes
        self._tree = shapely.STRtree(shapes)
        self._affine = scene.affine
        self.meets_image = len(self._near(0, 0, scene.height, scene.width)) > 0

    def _near(self, row: int, col: int, height: int, width: int) -> npt.NDArray[np.intp]:
        transform = self._affine * rasterio.Affine.translation(col, row)
        corners = [transform * point for point in ((0, 0), (width, 0), (width, height), (0, height))]
        return np.sort(self._tree.query(shapely.Polygon(corners)))

    def burn(
        self, values: npt.NDArray[np.int64] | None, window: tuple[int, int, int, int], fill: int
    ) -> npt.NDArray[Any]:
        """Values (1 if None) of the pixels whose centre lies in a shape; ``fill`` elsewhere.

        Args:
            values: one for each shape.
            window: row, col, height, width.
            fill: value of the other pixels.
        """
        row, col, height, width = window
        here = self._near(row, col, height, width)
        if not len(here):
            return np.full((height, width), fill, np.int32)
        mine = np.ones(len(here), np.int64) if values is None else values[here]
        burned: npt.NDArray[Any] = rasterize(
            zip(self._shapes[here], mine.tolist(), strict=True),
            out_shape=(height, width),
            fill=fill,
            transform=self._affine * rasterio.Affine.translation(col, row),
            dtype="uint8" if min(fill, mine.min()) >= 0 and max(fill, mine.max()) < 256 else "int32",
        )
        return burned


def _classes(found: Shapes, scene: Scene, numbers: ClassNumbers, file: str) -> npt.NDArray[np.int64]:
    """Class number of each shape; ``ignore_index`` of those without a class, where the scene allows them."""
    if scene.label_field is None:
        return np.full(len(found.geometries), shape_class(scene, numbers), np.int64)
    values = found.columns[scene.label_field]
    classes = numbers.of_attributes(values)
    unknown = [value for value, number in zip(values, classes, strict=True) if number is None]
    if unknown and scene.label_unknown == "error":
        first = found.numbers[classes.index(None)]
        raise DataError(
            f"{file}: {len(unknown)} of {len(classes)} shapes have no class, shape {first} the first: "
            f"{scene.label_field} = {numbers.complaint(unknown)} is no class; data.classes are "
            f"{numbers.in_words()}; correct the attribute, or set label_unknown: unlabelled"
        )
    return np.array([numbers.ignore_index if each is None else each for each in classes], np.int64)


def shape_class(scene: Scene, numbers: ClassNumbers) -> int:
    """Class number of every shape of a scene without a class attribute.

    Raises:
        ConfigError: ``label_value`` is no class.
    """
    if scene.label_value is None:
        return 1
    number = numbers.of_attribute(scene.label_value)
    if number is None:
        raise ConfigError(
            "data.scenes[].label_value",
            scene.label_value,
            f"is no class (scene {scene.name!r}); data.classes are {numbers.in_words()}",
        )
    return number


def _with_area(found: Shapes, scene: Scene, file: str) -> npt.NDArray[Any]:
    """The shapes as they can be burned: polygons, unless all are grown.

    Raises:
        DataError: some are lines or points, which cover no pixel.
    """
    if scene.label_buffer_m is not None:
        return found.geometries
    flat = shapely.get_dimensions(found.geometries) < 2
    if flat.any():
        kinds = sorted({shape.geom_type for shape in found.geometries[flat]})
        raise DataError(
            f"{file}: {int(flat.sum())} of {len(flat)} shapes are lines or points ({', '.join(kinds)}), which cover no "
            f"pixel, shape {found.numbers[flat][0]} the first; set label_buffer_m to the metres on the ground by which "
            "they are grown to each side"
        )
    return polygons_of(found.geometries)


def polygons_of(geometries: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Geometries of dimension 2; collections without the lines and points in them, which cover no pixel."""
    mixed = shapely.get_type_id(geometries) == shapely.GeometryType.GEOMETRYCOLLECTION
    if not mixed.any():
        return geometries
    kept = geometries.copy()
    for position in np.flatnonzero(mixed):
        parts = shapely.get_parts(geometries[position])
        while (shapely.get_type_id(parts) == shapely.GeometryType.GEOMETRYCOLLECTION).any():
            parts = shapely.get_parts(parts)
        single = shapely.get_parts(parts[shapely.get_dimensions(parts) == 2])
        kept[position] = shapely.MultiPolygon(list(single))
    return kept


def _area_of(scene: Scene) -> Burner:
    assert scene.labelled_area is not None
    path, what = scene.labelled_area, f"labelled_area of scene {scene.name!r}"
    found = read_shapes(path, choose_layer(path, None, None, what), [], what)
    if scene.crs is not None and found.crs is None:
        raise DataError(f"{what}: {path} names no CRS; write it with the one it is in")
    flat = shapely.get_dimensions(found.geometries) < 2
    if flat.any() or not len(found.geometries):
        kinds = sorted({shape.geom_type for shape in found.geometries[flat]})
        raise DataError(f"{what}: {path} holds {', '.join(kinds) or 'no shapes'}; draw the area as polygons")
    there, _ = on_image(polygons_of(found.geometries), found.crs, scene)
    burner = Burner(there, scene)
    if not burner.meets_image:
        _refuse_outside(found, there, scene, f"{what}: {path}")
    return burner


def _refuse_outside(found: Shapes, there: npt.NDArray[Any], scene: Scene, file: str) -> None:
    """Refuse shapes that all lie elsewhere; warn where the image lies between them.

    Raises:
        DataError: the bounding box of all shapes does not meet the image.
    """
    whole = shapely.box(*shapely.total_bounds(found.geometries))
    if Burner(on_image(np.array([whole]), found.crs, scene)[0], scene).meets_image:
        warnings.warn(f"{file}: none of {len(found.geometries)} shapes lies on the image", stacklevel=2)
        return
    swapped = shapely.transform(found.geometries, lambda points: points[:, ::-1])
    west, south, east, north = shapely.total_bounds(found.geometries)
    hint = "check the CRS that the file names, and whether it belongs to this image"
    if Burner(on_image(swapped, found.crs, scene)[0], scene).meets_image:
        hint = "with x and y swapped they lie on it: write x = longitude (easting), y = latitude (northing)"
    elif Burner(found.geometries, scene).meets_image:
        hint = "their coordinates are in the image's CRS, and the file names another: write it with the right one"
    corners = np.array([scene.affine * point for point in ((0, 0), (scene.width, scene.height))])
    left, bottom = corners.min(0)
    right, top = corners.max(0)
    raise DataError(
        f"{file}: all {len(found.geometries)} shapes lie outside of the image: x from {west:.10g} to {east:.10g}, y "
        f"from {south:.10g} to {north:.10g} in {found.crs_name}; the image: x from {left:.10g} to {right:.10g}, y from "
        f"{bottom:.10g} to {top:.10g} in its own CRS; {hint}"
    )

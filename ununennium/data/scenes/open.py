"""Open a scene: read what its files say of themselves, and check that image, later dates and labels fit each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, Literal

import numpy as np
import rasterio

from ununennium.config import RegionConfig, SceneConfig
from ununennium.data.scenes.bands import ImageBands
from ununennium.data.scenes.delivered import MAX_PIXELS, check_raster, check_sources
from ununennium.data.scenes.georeference import Georeference, georeference, lie_together
from ununennium.data.scenes.label_bands import label_bands
from ununennium.data.scenes.places import size_text
from ununennium.data.scenes.raster import open_raster, redacted_path
from ununennium.data.scenes.scene import Scene
from ununennium.data.scenes.sources.virtual import block_shape_of, opened_image, sources_of
from ununennium.data.scenes.vector_checks import VECTOR_ENDINGS
from ununennium.data.scenes.vector_shapes import choose_layer, layer_info
from ununennium.errors import ConfigError, DataError
from ununennium.moved import former_arguments

_SUBPIXEL = 0.01  # two grids agree if their corners are closer than this share of a pixel


@former_arguments(place="scene_index")
def open_scene(
    settings: SceneConfig, scene_index: int = 0, *, max_pixels: int = MAX_PIXELS, limit: str = "data.max_pixels"
) -> Scene:
    """Read what one scene's files say of themselves.

    Args:
        settings: the scene.
        scene_index: its number in the configuration, for messages.
        max_pixels: rows times columns at most.
        limit: the setting that says so.

    Raises:
        DataError: a file cannot be read, is larger, or has no pixels, or labels are on another grid.
    """
    name = settings.name or name_of(settings)
    given = settings.image if isinstance(settings.image, list) else [settings.image]
    opened = [opened_image(image, name) for image in given]
    images = [image for image, _ in opened]
    dates = settings.date if isinstance(settings.date, list) else [settings.date] * len(images)
    for each in images:
        check_sources(each, f"image of scene {name!r}")
    with open_raster(images[0], f"image of scene {name!r}") as image:
        check_raster(image, f"image of scene {name!r}", redacted_path(images[0]), max_pixels, limit)
        bands = _bands_of(image, images[0], name)
        placed = georeference(image)
        kind: Literal["raster", "vector"] | None = None
        if settings.label is not None:
            kind = "vector" if is_vector(settings.label) else "raster"
        scene = Scene(
            name=name,
            images=tuple(images),
            dates=tuple(dates),
            files=(*(file for _, files in opened for file in files), *label_files(settings)),
            label=settings.label,
            label_kind=kind,
            label_field=settings.label_field,
            label_value=settings.label_value,
            outside=settings.outside,
            classes=tuple(settings.classes),
            attributes=tuple(settings.attributes.items()),
            label_layer=settings.label_layer,
            label_buffer_m=settings.label_buffer_m,
            label_unknown=settings.label_unknown,
            labelled_area=settings.labelled_area if isinstance(settings.labelled_area, str) else None,
            width=image.width,
            height=image.height,
            num_bands=len(bands.inputs),
            dtype=_dtype_of([bands]),
            crs=placed.crs.to_wkt() if placed.crs else None,
            transform=tuple(placed.transform)[:6],
            placed_by=placed.kind,
            nodata=next((bands.nodata[k - 1] for k in bands.inputs if bands.nodata[k - 1] is not None), None),
            band_names=tuple(bands.names[number - 1] for number in bands.inputs),
            has_mask=bool(bands.alpha) or any(bands.masks),
            block_shape=block_shape_of(images[0], image.block_shapes[0])
            if images[0].startswith("<")
            else image.block_shapes[0],
        )
    later = [_later_image(scene, image) for image in images[1:]]
    scene = replace(
        scene,
        image_bands=(bands, *later),
        dtype=_dtype_of([bands, *later]),
        has_mask=scene.has_mask or any(its.alpha or any(its.masks) for its in later),
    )
    if kind == "raster":
        _check_label_grid(scene)
    elif kind == "vector":
        scene = _with_layer(scene, scene_index, placed)
    if isinstance(settings.labelled_area, list):
        scene = replace(scene, labelled_regions=_rectangles(settings.labelled_area, scene, scene_index))
    return scene


def label_files(settings: SceneConfig) -> list[str]:
    """Files that say what is labelled, and how."""
    area = settings.labelled_area if isinstance(settings.labelled_area, str) else None
    return [file for file in (settings.label, area) if file is not None]


def _rectangles(
    regions: Sequence[RegionConfig], scene: Scene, scene_index: int
) -> tuple[tuple[int, int, int, int], ...]:
    """Rectangles as (first row, row after the last, first column, column after the last)."""
    found = []
    for number, region in enumerate(regions):
        for (start, stop), size, name in (
            (region.rows, scene.height, "rows"),
            (region.columns, scene.width, "columns"),
        ):
            if start >= size or (stop is not None and stop > size):
                raise ConfigError(
                    f"data.scenes.{scene_index}.labelled_area.{number}.{name}",
                    [start, stop],
                    f"lies beyond scene {scene.name!r}, which has {name} 0..{size - 1}; null is its far edge",
                )
        rows, columns = region.rows, region.columns
        found.append((rows[0], rows[1] or scene.height, columns[0], columns[1] or scene.width))
    return tuple(found)


def is_vector(label: str) -> bool:
    """Tell whether a label file holds shapes."""
    return label.lower().endswith(VECTOR_ENDINGS)


def name_of(settings: SceneConfig) -> str:
    """The name of the first image's first file, without its ending."""
    image = settings.image[0] if isinstance(settings.image, list) else settings.image
    if isinstance(image, Mapping):
        file = next(iter(image.values()))
        image = file if isinstance(file, str) else file[0]
    file = sources_of(image)[0] if image.startswith("<") else image
    return PurePosixPath(file.replace("\\", "/")).stem


def _bands_of(image: Any, path: str, name: str) -> ImageBands:
    bands = ImageBands.of(image)
    for number in bands.inputs:
        if bands.dtypes[number - 1].startswith("complex"):
            raise DataError(
                f"image of scene {name!r}: {redacted_path(path)} has pixels of type {bands.dtypes[number - 1]}; "
                "write real numbers, such as the amplitude, or real and imaginary part as two bands"
            )
    return bands


def _dtype_of(images: Sequence[ImageBands]) -> str:
    return str(np.result_type(*(image.dtypes[number - 1] for image in images for number in image.inputs)))


def _later_image(scene: Scene, later: str) -> ImageBands:
    """Properties of the bands of another date, which lies on the same grid."""
    with open_raster(later, f"image of scene {scene.name!r}") as image:
        bands = _bands_of(image, later, scene.name)
        same = (image.height, image.width) == (scene.height, scene.width) and len(bands.inputs) >= scene.num_bands
        placed = georeference(image)
        same &= placed.transform.almost_equals(scene.affine, _SUBPIXEL * max(scene.resolution))
        same &= (placed.crs.to_wkt() if placed.crs else None) == scene.crs
        if same and placed.needs_warp:
            with open_raster(scene.images[0], f"image of scene {scene.name!r}") as first:
                same = lie_together(georeference(first), placed, scene.height, scene.width)
        if same:
            check_raster(image, f"image of scene {scene.name!r}", redacted_path(later), scene.height * scene.width)
        else:
            raise DataError(
                f"scene {scene.name!r}: {redacted_path(later)} and {redacted_path(scene.images[0])} are on different "
                "grids or differ in their bands; warp one to the other's grid (gdalwarp -te ... -tr ...)"
            )
        return bands


def _check_label_grid(scene: Scene) -> None:
    assert scene.label is not None
    with open_raster(scene.label, f"labels of scene {scene.name!r}") as label:
        shape = (label.height, label.width)
        placed = georeference(label)
        # A label raster without georeference, beside an image with control points, is drawn on its pixels.
        on_pixels = scene.placed_by not in ("transform", "none") and placed.kind == "none"
        corners_agree = on_pixels or all(
            abs(ours - theirs) <= _SUBPIXEL * max(scene.resolution)
            for point in ((0, 0), (scene.width, scene.height))
            for ours, theirs in zip(scene.affine * point, placed.transform * point, strict=True)
        )
        same_crs = scene.crs is None or placed.crs is None or rasterio.CRS.from_wkt(scene.crs) == placed.crs
        if shape != (scene.height, scene.width) or not corners_agree or not same_crs:
            raise DataError(
                f"scene {scene.name!r}: image and label are on different grids: {size_text(scene.height, scene.width)} "
                f"in pixels from {scene.transform[2]:.10g}, {scene.transform[5]:.10g} against {size_text(*shape)} from "
                f"{label.transform[2]:.10g}, {label.transform[5]:.10g}"
                + ("" if same_crs else ", in another CRS")
                + f"; warp {scene.label} to the image's grid (gdalwarp -te ... -tr ... -r near)"
            )
        label_bands(label, f"labels of scene {scene.name!r}: {scene.label}")


def _with_layer(scene: Scene, scene_index: int, placed: Georeference) -> Scene:
    """The scene with the layer of its vector labels, which has the attribute that is asked for."""
    assert scene.label is not None
    what = f"labels of scene {scene.name!r}"
    layer = choose_layer(scene.label, scene.label_layer, f"data.scenes.{scene_index}.label_layer", what)
    info = layer_info(scene.label, layer, what)
    _check_places_shapes(scene, placed, info["crs"])
    if scene.crs is not None and not info["crs"]:
        raise DataError(f"{what}: {scene.label} names no CRS; write it with the one it is in")
    if scene.label_field is not None and scene.label_field not in list(info["fields"]):
        known = ", ".join(info["fields"]) or "none"
        raise ConfigError(
            f"data.scenes.{scene_index}.label_field",
            scene.label_field,
            f"{scene.label} has no such attribute; it has: {known}",
        )
    return replace(scene, label_layer=layer)


def _check_places_shapes(scene: Scene, placed: Georeference, label_crs: str | None) -> None:
    """Refuse vector labels in coordinates on an image whose pixels have none.

    Raises:
        DataError: the image has no georeference, or one that takes warping.
    """
    what = f"image of scene {scene.name!r}"
    if placed.needs_warp:
        why = "so that vector labels cannot be placed on its pixels"
        raise DataError(f"{what}: {placed.refusal(redacted_path(scene.images[0]), why)}")
    if placed.kind == "none" and label_crs:
        raise DataError(
            f"{what}: {redacted_path(scene.images[0])} has no georeference, and its labels {scene.label} "
            f"are in coordinates ({label_crs[:40]}); write its CRS and corners into it (gdal_edit.py -a_srs EPSG:... "
            "-a_ullr ...), or give a label raster on its pixels"
        )

"""Images and labels of a folder: each raster's role on its grid, and the labels of each image."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from ununennium.data.scenes.antimeridian import turn_of
from ununennium.discover.files import RasterFile, VectorLayer, words_of

LABEL_WORDS = {
    "label", "labels", "mask", "masks", "gt", "truth", "lc", "landcover", "class", "classes", "target", "targets",
    "annotation", "annotations", "reference", "lulc",
}  # fmt: skip
IMAGE_WORDS = {"image", "images", "img", "scene", "rgb", "rgbn", "ms", "pan", "ortho", "bands", "sr", "toa", "boa"}
QUALITY_WORDS = {"cloud", "clouds", "cloudmask", "shadow", "qa", "quality", "fmask", "scl", "valid", "nodata", "snow"}
TERRAIN_WORDS = {
    "dem",
    "dtm",
    "dsm",
    "dhm",
    "chm",
    "srtm",
    "elevation",
    "height",
    "heights",
    "slope",
    "aspect",
    "hillshade",
}
INDEX_WORDS = {"ndvi", "ndwi", "ndbi", "evi", "savi", "nbr", "ndmi", "mndwi", "index"}
_CHOSEN = "other labels were chosen for the image that it lies over"
_FEW_VALUES = 32
Bounds = tuple[float, float, float, float]
SMALLEST_SCENE = 16
"""Pixels on a side; ``data.chip_size`` is at least as large."""
_BAND_NAME = re.compile(
    r"(?:^|[_\-. ])(b\d{1,2}a?|band[_-]?\d{1,2}a?|red|green|blue|nir\d?|swir\d?|rededge\d?|coastal)(?=$|[_\-. ])", re.I
)


@dataclass(frozen=True)
class ImageFiles:
    """One image.

    Attributes:
        files: the raster with all bands; or one raster a band, in the order of ``band_names``.
        band_names: names of the bands where each has a file of its own.
        name: the part of their names that the files share; empty where there is one file.
    """

    files: tuple[RasterFile, ...]
    band_names: tuple[str, ...] = ()
    name: str = ""

    @property
    def first(self) -> RasterFile:
        """The first file."""
        return self.files[0]

    @property
    def num_bands(self) -> int:
        """Bands of all files."""
        return len(self.files) if self.band_names else self.first.num_bands


class Pair(NamedTuple):
    """One scene: an image and its labels."""

    image: ImageFiles
    label: RasterFile | VectorLayer


def pair(rasters: Sequence[RasterFile], layers: Sequence[VectorLayer], notes: list[str]) -> tuple[list[Pair], int, int]:
    """Choose images and their labels.

    Args:
        rasters: all that can be read.
        layers: all vector layers.
        notes: gets what is left out, each with the reason.

    Returns:
        The pairs in order of the images' paths, the number of images, and the number of label rasters.
    """
    pairs: list[Pair] = []
    images: list[RasterFile] = []
    lonely: list[RasterFile] = []
    num_labels = 0
    for same_grid in _by_grid(rasters):
        labels = _labels_among(same_grid)
        its_images = _images_among([raster for raster in same_grid if raster not in labels], notes)
        for image in its_images:
            label = _raster_label(image.first, labels, len(its_images)) or _vector_label(image.first, layers)
            if label is None:
                notes.append(_without_labels(image.first, labels, layers))
            else:
                pairs.append(Pair(image, label))
        lonely += [] if its_images else labels
        images += [image.first for image in its_images]
        num_labels += len(labels)
    notes += [f"{label.path} was left out: {_without_image(label, images)}" for label in lonely]
    used = {found.label.path for found in pairs}
    notes += [
        f"{layer.path} was left out: {_why_not(layer, images) or _CHOSEN}" for layer in layers if layer.path not in used
    ]
    return sorted(_of_one_kind(pairs, notes), key=lambda found: found.image.first.path), len(images), num_labels


def _by_grid(rasters: Sequence[RasterFile]) -> list[list[RasterFile]]:
    grids: list[list[RasterFile]] = []
    for raster in rasters:
        its = next((grid for grid in grids if raster.is_on_grid_of(grid[0])), None)
        if its is None:
            grids.append([raster])
        else:
            its.append(raster)
    return grids


def _without_image(label: RasterFile, images: Sequence[RasterFile]) -> str:
    """The reason, and the command that brings labels of the same ground to the image's grid."""
    for image in images:
        if _why_apart(label.bounds, label.crs, label.path, image) is None and image.is_georeferenced:
            return (
                f"it is on another grid than {image.path.name}; bring it there: rio warp {label.path} "
                f"{label.path.with_stem(label.path.stem + '_on_grid')} --like {image.path} --resampling nearest"
            )
    return "no image on its grid"


# Roles on one grid ---------------------------------------------------------------------------------------------------


def _labels_among(rasters: Sequence[RasterFile]) -> list[RasterFile]:
    """Rasters of whole numbers with few values; those named like labels, where some are."""
    few = [
        raster
        for raster in rasters
        if raster.values is not None
        and not _is_quality(raster)
        and (len(raster.values) <= _FEW_VALUES or LABEL_WORDS & _name_and_folder(raster))
    ]
    named = [raster for raster in few if LABEL_WORDS & _name_and_folder(raster)]
    return named or few


def _is_quality(raster: RasterFile) -> bool:
    words = set(raster.words)
    return bool(words & QUALITY_WORDS) and not words & (LABEL_WORDS - {"mask", "masks", "class", "classes"})


def _name_and_folder(raster: RasterFile) -> set[str]:
    return {*raster.words, *words_of(raster.path.parent.name)}


def _images_among(rasters: Sequence[RasterFile], notes: list[str]) -> list[ImageFiles]:
    """Images on one grid; notes say what is no image, and why."""
    imagery = [raster for raster in rasters if _other_kind(raster) is None] or list(rasters)
    single = [raster for raster in imagery if raster.num_bands == 1]
    images = [ImageFiles((raster,)) for raster in imagery if raster.num_bands > 1] or _by_band(single)
    if not images and single:
        dtype = Counter(raster.dtype for raster in single).most_common(1)[0][0]
        images = [ImageFiles((raster,)) for raster in single if raster.dtype == dtype]
    used = [raster for image in images for raster in image.files]
    for raster in rasters:
        if raster not in used:
            what = _other_kind(raster) or f"one band of {raster.dtype} beside {used[0].path.name} on its grid"
            notes.append(
                f"{raster.path} was left out: {what}; to give it to the model, name it as a band "
                "(data.scenes: image: {band: file, ...})"
            )
    return images


def _other_kind(raster: RasterFile) -> str | None:
    """Likely content of a raster of one band that is no imagery."""
    if raster.num_bands > 1:
        return None
    words = set(raster.words)
    if words & TERRAIN_WORDS:
        return f"it looks like terrain (one band of {raster.dtype}, by its name)"
    if words & QUALITY_WORDS or (raster.values is not None and len(raster.values) <= 2):
        return f"it looks like a mask or a quality layer (one band of {raster.dtype})"
    low, high = raster.value_range
    is_index = np.issubdtype(np.dtype(raster.dtype), np.floating) and -1.0 <= low < 0.0 and high <= 1.0
    if words & INDEX_WORDS or is_index:
        return f"it looks like an index of bands (one band of {raster.dtype}, {low:g} to {high:g})"
    return None


def _by_band(rasters: Sequence[RasterFile]) -> list[ImageFiles]:
    """Rasters of one band each whose names differ in the band alone, put together; empty if they are no such files."""
    groups: dict[tuple[Path, str, str], dict[str, RasterFile]] = {}
    for raster in rasters:
        match = _BAND_NAME.search(raster.path.stem)
        if match is None:
            return []
        rest = (raster.path.stem[: match.start()] + raster.path.stem[match.end() :]).strip("_-. ")
        its = groups.setdefault((raster.path.parent, rest, raster.dtype), {})
        if match[1] in its:
            return []
        its[match[1]] = raster
    if any(len(its) < 2 for its in groups.values()):
        return []
    return [
        ImageFiles(tuple(its[name] for name in sorted(its)), tuple(sorted(its)), rest or folder.name)
        for (folder, rest, _), its in groups.items()
    ]


# Labels of an image --------------------------------------------------------------------------------------------------


def _raster_label(image: RasterFile, labels: Sequence[RasterFile], num_images: int) -> RasterFile | None:
    """The label raster named most like the image.

    Without georeference any rasters of one size share a grid: there the names have to fit.
    """
    best = max(labels, key=lambda label: _likeness(image.path, label.path), default=None)
    if best is None or image.is_georeferenced or num_images == 1 or _likeness(image.path, best.path)[0] == 1.0:
        return best
    return None


def _likeness(one: Path, other: Path) -> tuple[float, int]:
    """Share of common words and numbers in the names but for words such as image and label; common first letters."""
    keys = [_key(path.stem) for path in (one, other)]
    union = keys[0] | keys[1]
    letters = zip(one.stem.lower(), other.stem.lower(), strict=False)
    start = next((i for i, (a, b) in enumerate(letters) if a != b), min(len(one.stem), len(other.stem)))
    return (len(keys[0] & keys[1]) / len(union) if union else 1.0, start)


def _key(stem: str) -> set[str]:
    parts = {part.lower() for part in re.findall(r"\d+|[A-Z]?[a-z]+|[A-Z]+(?![a-z])", stem)}
    return parts - LABEL_WORDS - IMAGE_WORDS


def _vector_label(image: RasterFile, layers: Sequence[VectorLayer]) -> VectorLayer | None:
    """The layer over the image: polygons before lines and points, with classes before without, then by name."""
    over_it = [layer for layer in layers if _why_not(layer, [image]) is None]
    order = {"polygon": 3, "shape": 2, "line": 1, "point": 0}

    def worth(layer: VectorLayer) -> tuple[object, ...]:
        named = bool(LABEL_WORDS & {*layer.words, *words_of(layer.path.stem)})
        likeness = _likeness(image.path, layer.path)
        return likeness[0] == 1.0, order[layer.kind], named, layer.field is not None, likeness, layer.num_shapes

    return max(over_it, key=worth, default=None)


def _why_not(layer: VectorLayer, images: Sequence[RasterFile]) -> str | None:
    """The reason why a layer lies over none of the images; None if it lies over one."""
    name = f"layer {layer.layer!r}" if layer.layer else "it"
    if not layer.num_shapes:
        return f"{name} has no shapes"
    if not layer.crs and any(image.crs for image in images):
        return f"{name} names no CRS; write it with the one it is in"
    reasons = [_why_apart(layer.bounds, layer.crs, layer.path, image) for image in images]
    return None if None in reasons else next(iter(reasons), "there is no image")


def _why_apart(bounds: Bounds, crs: str | None, path: Path, image: RasterFile) -> str | None:
    """The coordinates of a file and of an image that share no ground; None if they share some."""
    if image.crs and crs:
        try:
            bounds = transform_bounds(crs, image.crs, *bounds)
        except (RasterioError, ValueError):
            return f"the coordinates of {path.name} do not reach the CRS of {image.path.name}"
    left, bottom, right, top = image.bounds
    low, high = min(top, bottom), max(top, bottom)
    turn = turn_of(image.crs) if image.crs and crs else None
    shifts = (0.0,) if turn is None else (-turn, 0.0, turn)
    is_beside = bounds[1] >= high or bounds[3] <= low
    if not is_beside and any(bounds[0] + shift < right and bounds[2] + shift > left for shift in shifts):
        return None
    return (
        f"its shapes lie at x {bounds[0]:.6g} to {bounds[2]:.6g}, y {bounds[1]:.6g} to {bounds[3]:.6g}, "
        f"{image.path.name} at x {left:.6g} to {right:.6g}, y {low:.6g} to {high:.6g}"
    )


def _without_labels(image: RasterFile, labels: Sequence[RasterFile], layers: Sequence[VectorLayer]) -> str:
    reasons = []
    if labels:
        reasons.append(
            "the rasters have no georeference, and of several of one size no label is named like it "
            f"(such as {image.path.stem}_label)"
        )
    else:
        reasons.append("no label raster on its grid")
    reasons.append("no shapes over it" if layers else "no vector file")
    return f"{image.path} was left out: {', '.join(reasons)}"


def _of_one_kind(pairs: list[Pair], notes: list[str]) -> list[Pair]:
    """Pairs with the number of bands that most have, and of at least the smallest size that can be trained on."""
    counts = Counter(found.image.num_bands for found in pairs)
    number = max(counts, key=lambda bands: (counts[bands], bands), default=0)
    kept = []
    for found in pairs:
        image = found.image.first
        if found.image.num_bands != number:
            notes.append(
                f"{image.path} was left out: it has {found.image.num_bands} band(s), the other scenes have {number}; "
                "data.bands chooses bands that all have"
            )
        elif min(image.size) < SMALLEST_SCENE:
            notes.append(
                f"{image.path} was left out: {image.size[0]} x {image.size[1]} pixels (rows x columns) are fewer than "
                f"the {SMALLEST_SCENE} of the smallest chip"
            )
        else:
            kept.append(found)
    return kept

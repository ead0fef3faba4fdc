"""A first configuration from a folder of scenes: images paired with labels, bands and classes read from the files."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ununennium.data.scenes.ground import metres
from ununennium.discover.classes import classes_of
from ununennium.discover.commented_yaml import commented_yaml
from ununennium.discover.files import (
    PICTURES,
    RASTERS,
    VECTORS,
    RasterFile,
    VectorLayer,
    inspect_raster,
    inspect_vectors,
)
from ununennium.discover.pairing import Pair, pair
from ununennium.errors import DataError

__all__ = ["Discovery", "commented_yaml", "discover"]

_MOST_REASONS = 4
_LARGEST_CHIP = 128
_CHIP_STEP = 16  # what four levels of a U-Net halve a chip to
_BUFFER_PIXELS = {"line": 1.5, "point": 2.5}  # half the width that a line, the radius that a point gets


@dataclass
class Discovery:
    """Scenes and classes of a folder.

    Attributes:
        scenes: settings of ``data.scenes``.
        classes: class names, by value; or a mapping of the labels' values to names.
        settings: further settings of ``data``.
        notes: files that were left out and facts that were guessed.
        remarks: dotted path of a setting to the reason for its value.
    """

    scenes: list[dict[str, Any]] = field(default_factory=list)
    classes: list[str] | dict[int, str] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    remarks: dict[str, str] = field(default_factory=dict)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes."""
        return list(self.classes.values()) if isinstance(self.classes, dict) else self.classes


def discover(folder: Path, *, relative_to: Path) -> Discovery:
    """Find images with labels below ``folder``.

    A label raster has one band of whole numbers with few values, on the grid of its image. Shapes label the images that
    they lie over. Rasters of other kinds on an image's grid (terrain, quality masks, indices) are left out and noted.

    Args:
        folder: folder to search, with its sub-folders.
        relative_to: folder of the configuration file; paths are written relative to it.

    Raises:
        DataError: there is no such folder, no image with labels in it, or labels of one class alone.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is not a folder")
    found = Discovery()
    rasters, layers = _look(folder, found.notes)
    pairs, num_images, num_labels = pair(rasters, layers, found.notes)
    if not pairs:
        reasons = "".join(f"; {note}" for note in found.notes[:_MOST_REASONS])
        raise DataError(
            f"{folder} holds no image with labels ({num_images} images, {num_labels} label rasters, "
            f"{len({layer.path for layer in layers})} vector files); a label is a one-band raster of whole numbers on "
            f"the image's grid, or a vector file with shapes over it{reasons}"
        )
    classes = classes_of(pairs, found.notes)
    found.classes, found.settings = classes.names, classes.settings
    if classes.guess:
        found.remarks["data.classes"] = f"Guessed: {classes.guess}."
        found.notes.append(f"the classes were {classes.guess} (data.classes)")
    _add_scenes(found, pairs, relative_to)
    _add_chip_size(found, [one.image.first for one in pairs])
    _add_nodata(found, pairs)
    return found


def _look(folder: Path, notes: list[str]) -> tuple[list[RasterFile], list[VectorLayer]]:
    """Facts of all files below a folder; pictures count only where there are no other rasters."""
    files = sorted(_visible_files(folder))
    endings = RASTERS if any(path.suffix.lower() in RASTERS for path in files) else PICTURES
    rasters: list[RasterFile] = []
    layers: list[VectorLayer] = []
    for path in files:
        try:
            if path.suffix.lower() in endings:
                rasters.append(inspect_raster(path))
            elif path.suffix.lower() in VECTORS:
                layers += inspect_vectors(path)
        except DataError as error:
            notes.append(f"{path} was left out: {error}")
    return rasters, layers


def _visible_files(folder: Path) -> Iterator[Path]:
    for path, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(path, name) for name in names if not name.startswith("."))


def _add_scenes(found: Discovery, pairs: Sequence[Pair], base: Path) -> None:
    names = [one.image.name or one.image.first.path.stem for one in pairs]
    counts = Counter(names)
    for one, name in zip(pairs, names, strict=True):
        paths = [_relative(file.path, base) for file in one.image.files]
        image = dict(zip(one.image.band_names, paths, strict=True)) if one.image.band_names else paths[0]
        scene: dict[str, Any] = {"image": image, "label": _relative(one.label.path, base)}
        if counts[name] > 1:
            folder = one.image.first.path.parent
            in_folder = f"{folder.name}-{name}"
            is_taken = any(other.get("name") == in_folder for other in found.scenes)
            scene["name"] = f"{name}-{len(found.scenes) + 1}" if is_taken else in_folder
        elif one.image.name:
            scene["name"] = name
        if isinstance(one.label, VectorLayer):
            scene |= _of_shapes(one.label, one.image.first, found)
        found.scenes.append(scene)


def _of_shapes(layer: VectorLayer, image: RasterFile, found: Discovery) -> dict[str, Any]:
    """Settings of a scene whose labels are shapes."""
    settings: dict[str, Any] = {}
    if layer.layer is not None:
        settings["label_layer"] = layer.layer
    if layer.num_unknown:
        settings["label_unknown"] = "unlabelled"
    if layer.field is not None:
        settings["label_field"] = layer.field
        if len(layer.values) > 1:
            settings["outside"] = "unlabelled"
            found.notes.append(f"{layer.path}: what no shape covers was taken to be unlabelled (data.scenes: outside)")
    if layer.kind in _BUFFER_PIXELS:
        width, height = (image.bounds[2] - image.bounds[0], image.bounds[3] - image.bounds[1])
        pixel = max(metres(image.crs, (abs(width) / image.size[1], abs(height) / image.size[0])))
        settings["label_buffer_m"] = float(f"{_BUFFER_PIXELS[layer.kind] * pixel:.2g}")
        found.notes.append(
            f"{layer.path}: {layer.kind}s were given {settings['label_buffer_m']:g} m to each side, a guess from the "
            "pixel size (data.scenes: label_buffer_m)"
        )
    return settings


def _add_chip_size(found: Discovery, images: Sequence[RasterFile]) -> None:
    """The largest chip that fits the smallest scene."""
    smallest = min(images, key=lambda image: min(image.size))
    side = min(smallest.size)
    if side < _LARGEST_CHIP:
        found.settings["chip_size"] = side // _CHIP_STEP * _CHIP_STEP
        found.remarks["data.chip_size"] = (
            f"{found.settings['chip_size']}: the smallest scene ({smallest.path.name}) has {smallest.size[0]} x "
            f"{smallest.size[1]} pixels (rows x columns)."
        )


def _add_nodata(found: Discovery, pairs: Sequence[Pair]) -> None:
    """Zero as nodata, where zeros fill borders and no file of any scene says what is no data."""
    images = [image for one in pairs for image in one.image.files]
    bordered = [image for image in images if image.has_zero_border]
    if bordered and all(image.nodata is None and not image.has_mask for image in images):
        found.settings["nodata"] = 0.0
        found.notes.append(f"{bordered[0].path} has a border of zeros and no nodata tag: data.nodata was set to 0")


def _relative(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path.resolve(), base.resolve())).as_posix()

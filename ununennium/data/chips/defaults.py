"""Defaults inferred from the files: class attribute of shapes, class outside of them, nodata."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace

from ununennium.config import DataConfig
from ununennium.data.scenes.bands import BandSet
from ununennium.data.scenes.reader import SceneReader
from ununennium.data.scenes.scene import Scene
from ununennium.data.targets.class_attributes import with_attribute
from ununennium.data.targets.class_numbers import ClassNumbers

_ZERO_BORDER_SHARE = 0.005


def fill_in(scenes: Sequence[Scene], config: DataConfig) -> list[Scene]:
    """The scenes with what the configuration leaves open read from their files.

    Args:
        scenes: as they were opened.
        config: the data section of a run.

    Returns:
        The scenes, with the class attribute of vector labels, what is outside of their shapes, and ``nodata`` = 0
        where zeros fill a border that no tag explains (of which it warns).
    """
    wanted = scenes[0].band_set(config.bands)
    return [
        _with_nodata(with_attribute(scene, ClassNumbers(scene, config.classes, config.ignore_index)), wanted, config)
        for scene in scenes
    ]


def _with_nodata(scene: Scene, wanted: BandSet, config: DataConfig) -> Scene:
    """Zeros that fill a border, and that nothing declares, are pixels without data: date by date."""
    if config.nodata is not None or not scene.image_bands:
        return scene
    images = list(scene.image_bands)
    for date, image in enumerate(images):
        if not image.declares_validity and _has_zero_border(scene, date, wanted, config):
            images[date] = image.with_nodata(0.0)
    nodata = scene.nodata if images[0] is scene.image_bands[0] else 0.0
    return replace(scene, image_bands=tuple(images), nodata=nodata)


def _has_zero_border(scene: Scene, date: int, wanted: BandSet, config: DataConfig) -> bool:
    single = replace(scene, images=scene.images[date : date + 1], image_bands=scene.image_bands[date : date + 1])
    reader = SceneReader(single, replace(wanted, tags=()), max_unreadable=config.max_unreadable)
    zeros, edge_zeros = 0, 0
    for row, height in reader.strips():
        image, valid = reader.read(row, 0, height, scene.width)
        is_zero = (image == 0).all(0) & valid
        zeros += int(is_zero.sum())
        edge_zeros += int(is_zero[:, 0].sum() + is_zero[:, -1].sum())
        edge_zeros += int(is_zero[0].sum()) if row == 0 else 0
        edge_zeros += int(is_zero[-1].sum()) if row + height == scene.height else 0
    share = zeros / (scene.width * scene.height)
    if share <= _ZERO_BORDER_SHARE or edge_zeros <= 0.01 * 2 * (scene.width + scene.height):
        return False
    when = f", date {date + 1}" if scene.num_dates > 1 else ""
    warnings.warn(
        f"scene {scene.name!r}{when}: {share:.1%} of the pixels are 0 in every band and reach its edges, without a "
        "nodata tag: they are taken as pixels without data (data.nodata: 0 says so; data.nodata: -1 if the zeros are "
        "real)",
        stacklevel=5,
    )
    return True

"""The scenes of a configuration, opened and checked together before anything is trained."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from ununennium.config import DataConfig
from ununennium.data.scenes.align import open_aligned
from ununennium.data.scenes.bands import ImagePlan
from ununennium.data.scenes.open import open_scene
from ununennium.data.scenes.places import size_text
from ununennium.data.scenes.scene import Scene
from ununennium.data.scenes.sources import scenes_of
from ununennium.errors import ConfigError, DataError
from ununennium.files import cache_folder


def open_catalog(config: DataConfig, progress: Callable[[str], None] | None = None) -> list[Scene]:
    """Look at every scene's files, and check that they fit each other and the configuration.

    Args:
        config: the data section of a run.
        progress: told what is warped to another grid.

    Raises:
        DataError: a file that cannot be read, labels on another grid, band counts that differ, a scene smaller than
            a chip.
        ConfigError: two scenes of one name, or bands that the files do not have.
    """
    if config.align == "warp":
        scenes = open_aligned(scenes_of(config), config, cache_folder() / "aligned", progress)
    else:
        opened = enumerate(scenes_of(config))
        scenes = [open_scene(settings, scene_index, max_pixels=config.max_pixels) for scene_index, settings in opened]
    scenes = [replace(scene, class_values=_class_values(config)) for scene in scenes]
    names = [scene.name for scene in scenes]
    for scene_index, name in enumerate(names):
        if name in names[:scene_index]:
            raise ConfigError(f"data.scenes.{scene_index}.name", name, "another scene has this name; give each its own")
    _check_distinct(scenes)
    for scene in scenes:
        _check_bands(scene, scenes[0], config)
        size = min(scene.width, scene.height)
        if size < config.chip_size:
            smallest = 16  # the least that data.chip_size may be
            raise DataError(
                f"scene {scene.name!r} is {size_text(scene.height, scene.width)} in pixels, less than data.chip_size = "
                f"{config.chip_size}; "
                + (f"set data.chip_size to at most {size}" if size >= smallest else "leave it out: it is too small")
            )
    return scenes


def _class_values(config: DataConfig) -> tuple[tuple[int, int], ...]:
    return tuple((value, config.classes.index(name)) for value, name in sorted(config.class_values.items()))


def _check_distinct(scenes: Sequence[Scene]) -> None:
    """Refuse what is in the catalogue twice: it would count twice, and lie in two folds' reports."""
    seen: dict[tuple[Any, ...], str] = {}
    for scene in scenes:
        files = tuple(os.path.realpath(file) if "://" not in file else file for file in scene.files)
        image = scene.images[0] if scene.images[0].startswith("<") else ""
        what = (image, files, scene.label_field, scene.label_value, scene.label_layer)
        if what in seen:
            raise DataError(
                f"scenes {seen[what]!r} and {scene.name!r} are the same image with the same labels: "
                f"{', '.join(scene.files)}; leave one out"
            )
        seen[what] = scene.name


def _check_bands(scene: Scene, first: Scene, config: DataConfig) -> None:
    if config.bands is None and scene.num_bands != first.num_bands:
        raise DataError(
            f"scene {scene.name!r} has {scene.num_bands} bands and scene {first.name!r} has {first.num_bands}; name "
            "the ones to read in data.bands"
        )
    wanted = first.band_set(config.bands)
    for image in scene.bands_of_images:
        ImagePlan.of(image, wanted, scene.name, config.nodata)

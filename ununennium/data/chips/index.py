"""The chip index: what there is to train on, cell by cell, found in one look at every label."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.config import DataConfig
from ununennium.data.chips.defaults import fill_in
from ununennium.data.scenes.align import check_grids
from ununennium.data.scenes.bands import BandSet
from ununennium.data.scenes.catalog import open_catalog
from ununennium.data.scenes.fingerprints import Fingerprints
from ununennium.data.scenes.layout import arrange, channels
from ununennium.data.scenes.places import size_text
from ununennium.data.scenes.reader import FloatArray, SceneReader
from ununennium.data.scenes.scene import Scene
from ununennium.data.scenes.units import check_bands, check_magnitudes
from ununennium.data.splits.label_counts import CELL, Cells, Survey, count_cells, packed, unpacked
from ununennium.data.splits.methods import check_no_leak, expected_folds, make_split
from ununennium.data.splits.splits import TRAIN, Split
from ununennium.data.targets.labels import LabelReader
from ununennium.data.targets.patch_labels import OfPatch
from ununennium.data.targets.regression import TargetScale
from ununennium.data.targets.targets import TargetReader, Targets, check_scenes, targets_of
from ununennium.errors import DataError
from ununennium.tasks import TASKS

__all__ = ["CELL", "VERSION", "Cells", "ChipIndex", "Survey", "build_index"]

VERSION = 5
"""Of the index: one that another version wrote is built anew."""
_READABLE = (4, VERSION)  # of the index in a run's folder, which is evaluated by what it was trained with

_REMEDIES = {
    "blocks": "label more, lower data.split.block_size or data.split.buffer, or change data.split.validation, "
    "data.split.holdout or their regions",
    "scenes": "give more scenes with labels, or change data.split.method to blocks",
    "time": "change data.split.validation_from or data.split.holdout_from",
    "file": "draw it over labels in data.split.file",
}


class ChipIndex:
    """Scenes, their split, and where the labels are.

    Attributes:
        scenes: indexed scenes.
        classes: class names.
        nodata: pixel value without data, instead of the files' tags.
        ignore_index: label value of unlabelled pixels.
        split: the fold of every pixel.
        cells: squares with training labels.
        survey: all squares: what is valid and labelled in them, whatever their fold.
        labelled: fold name to labelled pixels per class.
        data_sha256: hash of the contents of all files.
        band_set: the same bands as the first scene's first image has them, to which all images are matched.
        notes: warnings from indexing, for a person to read.
        max_unreadable: share of a scene that may be damaged.
        task: task to learn.
        layout: how stacks of dates reach the model, see ``DataConfig.layout``.
        transform: of pixel values before they are standardised, see ``DataConfig.transform``.
        target_scale: how the targets of a regression are standardised; None for other tasks.
        other_files: state of files besides the scenes' that the index was made from, such as ``data.split.file``, by
            name; None in an index of version 0.1.0, whose ``data_sha256`` is by the first rule of ``Fingerprints``.
    """

    def __init__(
        self,
        scenes: Sequence[Scene],
        classes: Sequence[str],
        bands: Sequence[int | str],
        nodata: float | None,
        ignore_index: int,
        split: Split,
        cells: Cells,
        survey: Survey,
        labelled: dict[str, list[int]],
        data_sha256: str,
        max_unreadable: float = 0.0,
        task: str = "segmentation",
        layout: str = "channels",
        target_scale: Sequence[float] | None = None,
        notes: Sequence[str] = (),
        other_files: Mapping[str, list[Any]] | None = None,
        band_set: BandSet | None = None,
        transform: str = "linear",
    ) -> None:
        self.scenes = list(scenes)
        self.classes = list(classes)
        self.band_set = band_set or self.scenes[0].band_set(bands)
        self.nodata = nodata
        self.ignore_index = ignore_index
        self.split = split
        self.cells = cells
        self.survey = survey
        self.labelled = labelled
        self.data_sha256 = data_sha256
        self.max_unreadable = max_unreadable
        self.notes = list(notes)
        self.task = TASKS[task]
        self.layout = layout
        self.transform = transform
        self.other_files = None if other_files is None else dict(other_files)
        self.target_scale = None if target_scale is None else TargetScale(*target_scale)

    @property
    def bands(self) -> list[int | str]:
        """Bands to read, by name, or from 1 in the first scene's first image."""
        return list(self.band_set.bands)

    @property
    def num_dates(self) -> int:
        """Dates of every scene."""
        return self.scenes[0].num_dates

    @property
    def in_channels(self) -> int:
        """Input channels of a model, ``in_channels``."""
        return channels(len(self.bands), self.num_dates, self.layout)

    def arrange(self, image: FloatArray) -> FloatArray:
        """``image`` (..., dates x bands, height, width) as the model takes it."""
        return arrange(image, self.num_dates, self.layout)

    def reader(self, scene: Scene) -> SceneReader:
        """A reader of the scene's pixels, with the index's bands and nodata."""
        return SceneReader(scene, self.band_set, self.nodata, max_unreadable=self.max_unreadable)

    def declared_nodata(self) -> dict[str, Any]:
        """For a contract, as new imagery may have a border without data even if the first scene has none: ``nodata``,
        or, where bands have values of their own, ``band_nodata``."""
        first: list[float | None] = [self.nodata] * len(self.bands)
        for scene in self.scenes:
            for image in scene.bands_of_images:
                its = [image.nodata[number - 1] for number in self.band_set.numbers(image, scene.name)]
                first = [known if known is not None else own for known, own in zip(first, its, strict=True)]
        if len(set(map(str, first))) == 1:
            return {"nodata": first[0]}
        return {"nodata": None, "band_nodata": first}

    def labels(self, scene: Scene) -> LabelReader:
        """A reader of the scene's labels."""
        return self._targets.label_reader(scene)

    def targets(self, scene: Scene) -> TargetReader:
        """A reader of what a model is to predict."""
        return self._targets.target_reader(scene, self.target_scale)

    @property
    def fill(self) -> float:
        """The target of an unlabelled pixel."""
        return self._targets.fill

    def is_labelled(self, target: npt.NDArray[Any], number: int | None = None) -> npt.NDArray[np.bool_]:
        """Mask of labelled targets; with a class's ``number``, of those of that class."""
        return self._targets.is_labelled(target, number)

    @property
    def of_patch(self) -> OfPatch | None:
        """From the targets of a patch's pixels to the patch's own; None where pixels are what is predicted."""
        return self._targets.of_patch()

    @property
    def _targets(self) -> Targets:
        return targets_of(self.task, self.classes, self.ignore_index)

    def summary(self) -> dict[str, Any]:
        """Summary for people before training: scenes, and labelled pixels per fold and class."""
        return {
            "scenes": [
                {
                    "name": s.name,
                    "height": s.height,
                    "width": s.width,
                    "bands": len(self.bands),
                    "dates": s.num_dates,
                    "dtype": s.dtype,
                }
                for s in self.scenes
            ],
            "folds": {
                fold: {"labelled": sum(counts), "classes": dict(zip(self.classes, counts, strict=True))}
                for fold, counts in self.labelled.items()
            },
            "data_sha256": self.data_sha256,
            "split_sha256": self.split.sha256,
            "notes": self.notes,
        }

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        Path(path).write_text(self.to_text(), encoding="utf-8")

    def to_text(self) -> str:
        """As JSON; the cells, which may be millions, are packed in it."""
        values = {
            "version": VERSION,
            "scenes": [scene.to_dict() for scene in self.scenes],
            "classes": self.classes,
            "bands": self.bands,
            "band_set": asdict(self.band_set),
            "nodata": self.nodata,
            "ignore_index": self.ignore_index,
            "split": self.split.to_dict(),
            "cells": packed(**vars(self.cells)),
            "survey": packed(**vars(self.survey)),
            "labelled": self.labelled,
            "data_sha256": self.data_sha256,
            "max_unreadable": self.max_unreadable,
            "task": self.task.name,
            "layout": self.layout,
            "transform": self.transform,
            "target_scale": self.target_scale,
            "notes": self.notes,
            "other_files": self.other_files,
        }
        return json.dumps(values)

    @classmethod
    def load(cls, path: str | Path) -> ChipIndex:
        """The inverse of ``save``.

        Raises:
            DataError: another version of the program wrote it.
        """
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        if values.pop("version", 1) not in _READABLE:
            raise DataError(f"{path} was written by another version of ununennium; index the data again")
        scenes = [Scene.from_dict(scene) for scene in values.pop("scenes")]
        split = Split.from_dict(values.pop("split"), scenes)
        cells = Cells(**unpacked(values.pop("cells")))
        survey = Survey(**unpacked(values.pop("survey")))
        band_set = BandSet.from_dict(values.pop("band_set")) if "band_set" in values else None
        return cls(scenes=scenes, split=split, cells=cells, survey=survey, band_set=band_set, **values)


def build_index(config: DataConfig, progress: Callable[[str], None] | None = None) -> ChipIndex:
    """Look at every scene and label once: check them, split them, and count.

    Args:
        config: the data section of a run.
        progress: told what is being done, scene by scene.

    Raises:
        DataError: files that cannot be used, label values outside the classes, or a fold without labels.
        ConfigError: settings that do not fit the files.
    """
    index = index_scenes(open_catalog(config, progress), config, progress)
    check_classes(index.labelled, config)
    return index


def index_scenes(
    scenes: Sequence[Scene],
    config: DataConfig,
    progress: Callable[[str], None] | None = None,
    *,
    data_sha256: str | None = None,
    other_files: Mapping[str, list[Any]] | None = None,
) -> ChipIndex:
    """``build_index`` of scenes that are open already, the fingerprints of whose files may be known."""
    caught: list[warnings.WarningMessage] = []
    try:
        with warnings.catch_warnings(record=True) as heard:
            caught = heard
            warnings.simplefilter("always")
            index = _index(scenes, config, progress, data_sha256 or Fingerprints().of_scenes(scenes))
    finally:  # also when it fails: what went before may be why
        for warning in caught:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
    index.other_files = fingerprints_of_settings(config) if other_files is None else dict(other_files)
    index.notes = list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)))
    return index


def fingerprints_of_settings(config: DataConfig, fingerprints: Fingerprints | None = None) -> dict[str, list[Any]]:
    """State of the files besides the scenes' that an index is made from, by name.

    Raises:
        DataError: one is missing.
    """
    names = [config.split.file] if config.split.method == "file" and config.split.file else []
    fingerprints = fingerprints or Fingerprints()
    return {name: fingerprints.of_files([name]) for name in names}


def _index(
    scenes: Sequence[Scene], config: DataConfig, progress: Callable[[str], None] | None, data_sha256: str
) -> ChipIndex:
    task = TASKS[config.task]
    check_scenes(task, scenes)
    targets = targets_of(task, config.classes, config.ignore_index)
    wanted = scenes[0].band_set(config.bands)
    if progress is not None:
        for scene in scenes:
            progress(f"looking at {scene.name} ({size_text(scene.height, scene.width)}, in pixels)")
    check_grids(scenes, config)
    scenes = fill_in(scenes, config)
    check_bands(scenes, wanted)
    readers = [SceneReader(scene, wanted, config.nodata, max_unreadable=config.max_unreadable) for scene in scenes]
    if config.values == "check":
        check_magnitudes(scenes, wanted, config.nodata)
    labels = [targets.label_reader(scene) for scene in scenes]
    split = make_split(readers, labels, config)
    check_no_leak(split, scenes)
    cells, survey, labelled = count_cells(readers, labels, split, config)
    _check_folds(labelled, config)

    def is_training(scene: Scene, row: int, col: int, height: int, width: int) -> npt.NDArray[np.bool_]:
        return np.equal(split.folds(scene, row, col, height, width), TRAIN)

    return ChipIndex(
        scenes,
        config.classes,
        wanted.bands,
        config.nodata,
        config.ignore_index,
        split,
        cells,
        survey,
        labelled,
        data_sha256,
        max_unreadable=config.max_unreadable,
        task=task.name,
        layout=config.layout,
        transform=config.transform,
        target_scale=targets.target_scale(readers, is_training),
        band_set=wanted,
    )


def _check_folds(labelled: dict[str, list[int]], config: DataConfig) -> None:
    split = config.split
    expected = expected_folds(split)
    for fold, counts in labelled.items():
        if expected[fold] and not sum(counts):
            raise DataError(
                f"the {fold} fold has no labelled pixel; {_REMEDIES[config.split.method].format(fold=fold)}"
            )
    anywhere = np.sum(list(labelled.values()), axis=0) > 0
    for fold, counts in labelled.items():
        rows = zip(config.classes, counts, anywhere, strict=True)
        absent = [name for name, count, somewhere in rows if somewhere and not count]
        if expected[fold] and absent:
            warnings.warn(f"the {fold} fold has no pixel of: {', '.join(absent)}", stacklevel=4)
    nowhere = [name for name, somewhere in zip(config.classes, anywhere, strict=True) if not somewhere]
    if nowhere:
        warnings.warn(f"no fold has a pixel of: {', '.join(nowhere)}", stacklevel=4)


def check_classes(labelled: dict[str, list[int]], config: DataConfig) -> None:
    """Make sure that every class can be learned, unless it may be absent.

    Args:
        labelled: fold name to labelled pixels per class.
        config: the data section of a run.

    Raises:
        DataError: the training fold has no labelled pixel of a class.
    """
    found = {
        name: {fold: counts[number] for fold, counts in labelled.items() if counts[number]}
        for number, name in enumerate(config.classes)
        if not labelled["train"][number] and name not in config.allow_absent
    }
    if not found:
        return
    named = ", ".join(
        f"{name!r} ({', '.join(f'{fold} has {count}' for fold, count in counts.items()) or 'no fold has any'})"
        for name, counts in found.items()
    )
    remedies = []
    if not all(found.values()):
        remedies.append(
            "label what no fold has, or take it out of data.classes (label values with gaps: a mapping such as "
            "{8: artificial surface})"
        )
    if any(found.values()):
        remedies.append(_REMEDIES[config.split.method])
    raise DataError(
        f"the train fold has no labelled pixel of: {named}, and cannot teach what that is; {'; '.join(remedies)}; or "
        f"allow it: data.allow_absent: [{', '.join(found)}]"
    )

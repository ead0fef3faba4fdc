"""The chip index: what there is to train on, cell by cell, found in one look at every label."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.config import DataConfig
from ununennium.data.catalog import Scene, open_catalog
from ununennium.data.labels import LabelReader
from ununennium.data.layout import arrange, channels
from ununennium.data.reader import FloatArray, SceneReader
from ununennium.data.splits import (
    FOLDS,
    HOLDOUT,
    TRAIN,
    VALIDATION,
    Block,
    Split,
    assign_blocks,
    place_on_grid,
    rectangles_of,
)
from ununennium.data.values import TargetScale
from ununennium.errors import DataError
from ununennium.tasks import TASKS, TargetReader

CELL = 64
_STRIP_CELLS = 8
_ZERO_BORDER_SHARE = 0.005
_MOST_NAMED = 8

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cells:
    """Squares of ``CELL`` pixels that hold training labels, N of them.

    Attributes:
        places: int64 (N, 3): the scene's place in the index's list, first row, first column.
        counts: int64 (N, K): labelled valid training pixels per class.
    """

    places: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.places)


class ChipIndex:
    """Scenes, their split, and where the labels are.

    Attributes:
        scenes: what is indexed.
        classes: class names.
        bands: bands to read, by name or from 1.
        nodata: pixel value without data, instead of the files' tags.
        ignore_index: label value of unlabelled pixels.
        split: the fold of every pixel.
        cells: squares with training labels.
        labelled: fold name to labelled pixels per class.
        data_sha256: hash of the contents of all files.
        max_unreadable: share of a scene that may be damaged.
        task: what is predicted.
        layout: how stacks of dates reach the model, see ``DataConfig.layout``.
        target_scale: how the targets of a regression are standardised; None for other tasks.
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
        labelled: dict[str, list[int]],
        data_sha256: str,
        max_unreadable: float = 0.0,
        task: str = "segmentation",
        layout: str = "channels",
        target_scale: Sequence[float] | None = None,
    ) -> None:
        self.scenes = list(scenes)
        self.classes = list(classes)
        self.bands: list[int | str] = list(bands)
        self.nodata = nodata
        self.ignore_index = ignore_index
        self.split = split
        self.cells = cells
        self.labelled = labelled
        self.data_sha256 = data_sha256
        self.max_unreadable = max_unreadable
        self.task = TASKS[task]
        self.layout = layout
        self.target_scale = None if target_scale is None else TargetScale(*target_scale)

    @property
    def num_dates(self) -> int:
        """Dates of every scene."""
        return self.scenes[0].num_dates

    @property
    def in_channels(self) -> int:
        """What a model is told as ``in_channels``."""
        return channels(len(self.bands), self.num_dates, self.layout)

    def arrange(self, image: FloatArray) -> FloatArray:
        """``image`` (..., dates x bands, height, width) as the model takes it."""
        return arrange(image, self.num_dates, self.layout)

    def reader(self, scene: Scene) -> SceneReader:
        """A reader of the scene's pixels, with the index's bands and nodata."""
        return SceneReader(scene, self.bands, self.nodata, max_unreadable=self.max_unreadable)

    def labels(self, scene: Scene) -> LabelReader:
        """A reader of the scene's labels."""
        return self.task.label_reader(scene, self.classes, self.ignore_index)

    def targets(self, scene: Scene) -> TargetReader:
        """A reader of what a model is to predict."""
        return self.task.target_reader(scene, self)

    @property
    def fill(self) -> float:
        """The target of an unlabelled pixel."""
        return self.task.fill(self.ignore_index)

    def is_labelled(self, target: npt.NDArray[Any], number: int | None = None) -> npt.NDArray[np.bool_]:
        """Which targets are labelled; with a class's ``number``, which are of that class."""
        return self.task.is_labelled(target, self.ignore_index, number)

    def summary(self) -> dict[str, Any]:
        """What a person wants to know before training: scenes, and labelled pixels per fold and class."""
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
        }

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        values = {
            "scenes": [scene.to_dict() for scene in self.scenes],
            "classes": self.classes,
            "bands": self.bands,
            "nodata": self.nodata,
            "ignore_index": self.ignore_index,
            "split": self.split.to_dict(),
            "cells": {"places": self.cells.places.tolist(), "counts": self.cells.counts.tolist()},
            "labelled": self.labelled,
            "data_sha256": self.data_sha256,
            "max_unreadable": self.max_unreadable,
            "task": self.task.name,
            "layout": self.layout,
            "target_scale": self.target_scale,
        }
        Path(path).write_text(json.dumps(values), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> ChipIndex:
        """The inverse of ``save``."""
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        scenes = [Scene.from_dict(scene) for scene in values.pop("scenes")]
        split = Split.from_dict(values.pop("split"), scenes)
        cells = Cells(**{name: np.array(rows, np.int64) for name, rows in values.pop("cells").items()})
        return cls(scenes=scenes, split=split, cells=cells, **values)


def build_index(config: DataConfig, progress: Callable[[str], None] | None = None) -> ChipIndex:
    """Look at every scene and label once: check them, split them, and count.

    Args:
        config: the data section of a run.
        progress: told what is being done, scene by scene.

    Raises:
        DataError: files that cannot be used, label values outside the classes, a fold without labels, or a zero
            border that no nodata tag explains.
        ConfigError: settings that do not fit the files.
    """
    scenes = open_catalog(config)
    task = TASKS[config.task]
    task.check_scenes(scenes)
    bands: list[int | str] = config.bands or list(range(1, scenes[0].num_bands + 1))
    readers = [SceneReader(scene, bands, config.nodata, max_unreadable=config.max_unreadable) for scene in scenes]
    labels = [task.label_reader(scene, config.classes, config.ignore_index) for scene in scenes]
    rectangles = rectangles_of(scenes, config.split)
    regions = Split(scenes, config.split.block_size, 0, rectangles, {})
    blocks: dict[Block, npt.NDArray[np.int64]] = {}
    for reader, label in zip(readers, labels, strict=True):
        if progress is not None:
            scene = reader.scene
            progress(f"looking at {scene.name} ({scene.height} x {scene.width} pixels)")
        _check_zero_border(reader)
        _count_blocks(reader, label, regions, config, blocks)
    dealt = assign_blocks(blocks, _shares(config), config.split.seed)
    judged = {block: fold for block, fold in dealt.items() if fold != TRAIN}
    split = Split(scenes, config.split.block_size, config.split.buffer, rectangles, judged)
    cells, labelled = _count_cells(readers, labels, split, config)
    _check_folds(labelled, config)
    return ChipIndex(
        scenes,
        config.classes,
        bands,
        config.nodata,
        config.ignore_index,
        split,
        cells,
        labelled,
        _hash_files(scenes),
        config.max_unreadable,
        config.task,
        config.layout,
        task.target_scale(readers, split),
    )


def _shares(config: DataConfig) -> dict[int, float]:
    """Share of the blocks that lie in no region of the user's; a fold with regions takes no share."""
    split = config.split
    validation = 0.0 if split.validation_regions else split.validation
    holdout = 0.0 if split.holdout_regions else split.holdout
    return {TRAIN: max(0.0, 1.0 - validation - holdout), VALIDATION: validation, HOLDOUT: holdout}


def _count_blocks(
    reader: SceneReader, label: LabelReader, regions: Split, config: DataConfig, blocks: dict[Block, Counts]
) -> None:
    """Add the scene's labelled valid pixels outside the user's regions to the histograms of its blocks."""
    scene, num_classes, size = reader.scene, len(config.classes), config.split.block_size
    group, first_row, first_col = place_on_grid(scene)
    low_row, low_col = first_row // size, first_col // size
    num_rows = (first_row + scene.height - 1) // size - low_row + 1
    num_cols = (first_col + scene.width - 1) // size - low_col + 1
    block_cols = (first_col + np.arange(scene.width)) // size - low_col
    table = np.zeros(num_rows * num_cols * num_classes, np.int64)
    wrong: Counter[int] = Counter()
    for row, height in reader.strips():
        values = label.read(row, 0, height, scene.width)
        labelled = values != config.ignore_index
        outside = labelled & ((values < 0) | (values >= num_classes))
        for value, count in zip(*np.unique(values[outside], return_counts=True), strict=True):
            wrong[int(value)] += int(count)
        if wrong or not labelled.any():
            continue
        counted = labelled & (regions.folds(scene, row, 0, height, scene.width) == TRAIN)
        counted &= reader.read_valid(row, 0, height, scene.width)
        block_rows = (first_row + np.arange(row, row + height)) // size - low_row
        block = block_rows[:, None] * num_cols + block_cols
        table += np.bincount(block[counted] * num_classes + values[counted], minlength=table.size)
    if wrong:
        found = ", ".join(f"{value} ({count} pixels)" for value, count in sorted(wrong.items())[:_MOST_NAMED])
        found += f" and {len(wrong) - _MOST_NAMED} more values" if len(wrong) > _MOST_NAMED else ""
        raise DataError(
            f"labels of scene {scene.name!r} have values outside the classes 0..{num_classes - 1}: {found}; add "
            f"classes to data.classes, or write unlabelled pixels as data.ignore_index = {config.ignore_index}"
        )
    for place, counts in enumerate(table.reshape(-1, num_classes)):
        if counts.any():
            key = group, low_row + place // num_cols, low_col + place % num_cols
            blocks[key] = blocks.get(key, 0) + counts


def _count_cells(
    readers: Sequence[SceneReader], labels: Sequence[LabelReader], split: Split, config: DataConfig
) -> tuple[Cells, dict[str, list[int]]]:
    """Labelled valid pixels per class: of the training fold by cell, and of every fold in all."""
    num_classes = len(config.classes)
    places: list[tuple[int, int, int]] = []
    counts_of: list[Counts] = []
    labelled = {fold: np.zeros(num_classes, np.int64) for fold in FOLDS}
    for place, (reader, label) in enumerate(zip(readers, labels, strict=True)):
        scene = reader.scene
        for top in range(0, scene.height, CELL):
            height = min(CELL, scene.height - top)
            for left in range(0, scene.width, CELL * _STRIP_CELLS):
                width = min(CELL * _STRIP_CELLS, scene.width - left)
                values = label.read(top, left, height, width)
                if (values == config.ignore_index).all():
                    continue
                usable = reader.read_valid(top, left, height, width) & (values != config.ignore_index)
                folds = split.folds(scene, top, left, height, width)
                for name, fold in FOLDS.items():
                    labelled[name] += np.bincount(values[usable & (folds == fold)], minlength=num_classes)
                for col in range(0, width, CELL):
                    part = slice(None), slice(col, col + CELL)
                    inside = usable[part] & (folds[part] == TRAIN)
                    counts = np.bincount(values[part][inside], minlength=num_classes)
                    if counts.any():
                        places.append((place, top, left + col))
                        counts_of.append(counts)
    cells = Cells(np.array(places, np.int64).reshape(-1, 3), np.array(counts_of, np.int64).reshape(-1, num_classes))
    return cells, {fold: counts.tolist() for fold, counts in labelled.items()}


def _check_folds(labelled: dict[str, list[int]], config: DataConfig) -> None:
    split = config.split
    expected = {
        "train": True,
        "validation": bool(split.validation_regions) or split.validation > 0,
        "holdout": bool(split.holdout_regions) or split.holdout > 0,
    }
    for fold, counts in labelled.items():
        if expected[fold] and not sum(counts):
            raise DataError(
                f"the {fold} fold has no labelled pixel; label more, lower data.split.block_size or data.split.buffer, "
                f"or change data.split.{fold if fold != 'train' else 'validation'}"
            )
        absent = [name for name, count in zip(config.classes, counts, strict=True) if not count]
        if expected[fold] and absent:
            warnings.warn(f"the {fold} fold has no pixel of: {', '.join(absent)}", stacklevel=3)


def _check_zero_border(reader: SceneReader) -> None:
    """Refuse a scene whose edges are filled with zeros that nothing declares as nodata."""
    scene = reader.scene
    if reader.nodata is not None or scene.has_mask:
        return
    zeros, edge_zeros = 0, 0
    for row, height in reader.strips():
        image, valid = reader.read(row, 0, height, scene.width)
        is_zero = (image == 0).all(0) & valid
        zeros += int(is_zero.sum())
        edge_zeros += int(is_zero[:, 0].sum() + is_zero[:, -1].sum())
        edge_zeros += int(is_zero[0].sum()) if row == 0 else 0
        edge_zeros += int(is_zero[-1].sum()) if row + height == scene.height else 0
    share = zeros / (scene.width * scene.height)
    if share > _ZERO_BORDER_SHARE and edge_zeros > 0.01 * 2 * (scene.width + scene.height):
        raise DataError(
            f"scene {scene.name!r}: {share:.1%} of the pixels are 0 in every band and reach its edges, and no nodata "
            "tag says what they are; set data.nodata: 0 if they are a border without data, or data.nodata to a value "
            "that does not occur (such as -1) if they are real"
        )


def _hash_files(scenes: Sequence[Scene]) -> str:
    """Hash of the contents of all local files, and of what remote ones say of themselves."""
    digest = hashlib.sha256()
    for scene in scenes:
        for location in scene.files:
            file = Path(location)
            if file.is_file():
                with file.open("rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
            else:
                digest.update(json.dumps([location, scene.to_dict()], sort_keys=True).encode())
    return digest.hexdigest()

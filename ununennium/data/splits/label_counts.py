"""Counting what is labelled and valid: per block, so that blocks are dealt, per cell, so that chips are drawn."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ununennium.config import DataConfig
from ununennium.data.scenes.reader import SceneReader
from ununennium.data.scenes.scene import Scene
from ununennium.data.splits.splits import FOLDS, TRAIN, Split, place_on_grid
from ununennium.data.splits.stratify import Block
from ununennium.data.targets.labels import LabelReader
from ununennium.errors import DataError
from ununennium.moved import former_arguments

CELL = 64
"""Side of a cell in pixels."""

_STRIP_CELLS = 8
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


@dataclass(frozen=True, eq=False)
class Survey:
    """Every cell of every scene, whatever its fold, M of them.

    Attributes:
        places: int64 (M, 3): the scene's place in the index's list, first row, first column.
        valid: int64 (M,): valid pixels.
        counts: int64 (M, K): labelled valid pixels per class.
    """

    places: npt.NDArray[np.int64]
    valid: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]

    @former_arguments(place="scene_index")
    def of(self, scene_index: int) -> Survey:
        """The cells of the scene at ``scene_index`` in the index's list."""
        mine = self.places[:, 0] == scene_index
        return Survey(self.places[mine], self.valid[mine], self.counts[mine])


def packed(**arrays: npt.NDArray[np.int64]) -> str:
    """Arrays as compressed text."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    return base64.b64encode(buffer.getvalue()).decode()


def unpacked(text: str) -> dict[str, npt.NDArray[np.int64]]:
    """The inverse of ``packed``."""
    with np.load(io.BytesIO(base64.b64decode(text)), allow_pickle=False) as arrays:
        return {name: arrays[name] for name in arrays.files}


def count_blocks(
    readers: Sequence[SceneReader], labels: Sequence[LabelReader], regions: Split, config: DataConfig
) -> dict[Block, Counts]:
    """Labelled valid pixels per class of each block, int64 (K,), without what lies in the user's regions.

    Args:
        readers: of every scene.
        labels: of the same scenes.
        regions: a split whose rectangles are the regions, without blocks; its ``block_size`` is the blocks'.
        config: for classes and ``ignore_index``.

    Raises:
        DataError: labels with values outside the classes.
    """
    blocks: dict[Block, Counts] = {}
    for reader, label in zip(readers, labels, strict=True):
        _count_scene(reader, label, regions, config, blocks)
    return blocks


def _count_scene(
    reader: SceneReader, label: LabelReader, regions: Split, config: DataConfig, blocks: dict[Block, Counts]
) -> None:
    scene, num_classes, size = reader.scene, len(config.classes), regions.block_size
    group, first_row, first_col = place_on_grid(scene)
    low_row, low_col = first_row // size, first_col // size
    num_cols = (first_col + scene.width - 1) // size - low_col + 1
    block_cols = (first_col + np.arange(scene.width)) // size - low_col
    wrong: Counter[int] = Counter()
    for row, height in reader.strips():
        values = label.read(row, 0, height, scene.width)
        labelled = values != config.ignore_index
        if (labelled & ((values < 0) | (values >= num_classes))).any():
            wrong += label.unknown(row, 0, height, scene.width)
        if wrong or not labelled.any():
            continue
        counted = labelled & (regions.folds(scene, row, 0, height, scene.width) == TRAIN)
        counted &= reader.read_valid(row, 0, height, scene.width)
        block_rows = (first_row + np.arange(row, row + height)) // size - low_row
        top = int(block_rows[0])
        block = (block_rows[:, None] - top) * num_cols + block_cols
        table = np.bincount(block[counted] * num_classes + values[counted])
        table = np.pad(table, (0, -len(table) % num_classes)).reshape(-1, num_classes)
        for scene_index in np.flatnonzero(table.any(1)).tolist():
            key = group, low_row + top + scene_index // num_cols, low_col + scene_index % num_cols
            blocks[key] = blocks.get(key, 0) + table[scene_index]
    _refuse_unknown(wrong, scene, config)


def _refuse_unknown(wrong: Counter[int], scene: Scene, config: DataConfig) -> None:
    """Refuse label values that are no class.

    Raises:
        DataError: there are some.
    """
    if not wrong:
        return
    found = ", ".join(f"{value} ({count} pixels)" for value, count in sorted(wrong.items())[:_MOST_NAMED])
    found += f" and {len(wrong) - _MOST_NAMED} more values" if len(wrong) > _MOST_NAMED else ""
    known = f"outside the classes 0..{len(config.classes) - 1}"
    if config.class_values:
        known = f"that data.class_values does not name ({', '.join(map(str, sorted(config.class_values)))})"
    raise DataError(
        f"labels of scene {scene.name!r} have values {known}: {found}; add classes to data.classes (a mapping of "
        "values to names, if they are not 0, 1, 2 and so on), or set label_unknown: unlabelled for the scene"
        + ("" if config.class_values else f", or write unlabelled pixels as data.ignore_index = {config.ignore_index}")
    )


def count_cells(
    readers: Sequence[SceneReader], labels: Sequence[LabelReader], split: Split, config: DataConfig
) -> tuple[Cells, Survey, dict[str, list[int]]]:
    """Count valid and labelled pixels cell by cell.

    Returns:
        The cells with training labels, all cells, and fold name to labelled valid pixels per class.
    """
    num_classes = len(config.classes)
    corners: list[tuple[int, int, int]] = []
    valid: list[int] = []
    counts: list[Counts] = []
    training: list[Counts] = []
    labelled = {fold: np.zeros(num_classes, np.int64) for fold in FOLDS}
    nothing = np.zeros(num_classes, np.int64)
    for scene_index, (reader, label) in enumerate(zip(readers, labels, strict=True)):
        scene = reader.scene
        wrong: Counter[int] = Counter()
        for top in range(0, scene.height, CELL):
            height = min(CELL, scene.height - top)
            for left in range(0, scene.width, CELL * _STRIP_CELLS):
                window = top, left, height, min(CELL * _STRIP_CELLS, scene.width - left)
                values, is_valid = label.read(*window), reader.read_valid(*window)
                known = (values >= 0) & (values < num_classes)
                if (~known & (values != config.ignore_index)).any():
                    wrong += label.unknown(*window)
                    values = np.where(known, values, config.ignore_index)
                usable = is_valid & (values != config.ignore_index)
                folds = split.folds(scene, *window) if usable.any() else None
                for name, fold in FOLDS.items():
                    if folds is not None:
                        labelled[name] += np.bincount(values[usable & (folds == fold)], minlength=num_classes)
                for col in range(0, window[3], CELL):
                    part = slice(None), slice(col, col + CELL)
                    corners.append((scene_index, top, left + col))
                    valid.append(int(np.count_nonzero(is_valid[part])))
                    inside = usable[part]
                    if folds is None or not inside.any():
                        counts.append(nothing)
                        training.append(nothing)
                        continue
                    counts.append(np.bincount(values[part][inside], minlength=num_classes))
                    trains = inside & (folds[part] == TRAIN)
                    training.append(np.bincount(values[part][trains], minlength=num_classes))
        _refuse_unknown(wrong, scene, config)
    where = np.array(corners, np.int64).reshape(-1, 3)
    of_training = np.array(training, np.int64).reshape(-1, num_classes)
    trains = of_training.any(1)
    survey = Survey(where, np.array(valid, np.int64), np.array(counts, np.int64).reshape(-1, num_classes))
    cells = Cells(where[trains], of_training[trains])
    return cells, survey, {fold: counts.tolist() for fold, counts in labelled.items()}

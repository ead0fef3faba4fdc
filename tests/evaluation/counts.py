"""Evaluations made of counts per block, as ``evaluate`` would make them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ununennium.evaluation.block_sums import BlockScene, BlockSums
from ununennium.evaluation.evaluation import Evaluation
from ununennium.evaluation.measures import ClassMeasures, Kind, measures_of, metrics_of

SCENES = ("north", "south")


def evaluation_of(
    sums: np.ndarray,
    classes: Sequence[str],
    *,
    kind: Kind = "patches",
    scene: np.ndarray | None = None,
    row: np.ndarray | None = None,
    col: np.ndarray | None = None,
    holdout: str = "h",
) -> Evaluation:
    """Of sums (blocks, S); the blocks lie far apart from each other in one scene if nothing else is said."""
    number = len(sums)
    row = 10 * np.arange(number) if row is None else row
    col = 10 * np.arange(number) if col is None else col
    where = np.zeros(number, np.int64) if scene is None else scene
    scenes = tuple(BlockScene(name, name, (0, 0)) for name in SCENES)
    units = BlockSums(kind, 64, scenes, where, row, col, np.asarray(sums, float))
    measures = measures_of(kind, classes)
    matrix = []
    if isinstance(measures, ClassMeasures):
        matrix = measures.confusion(units.total).astype(int).tolist()
    metrics = metrics_of(measures, units.total)
    counted = int(measures.counted(units.total))
    return Evaluation(list(classes), matrix, metrics, counted, "s", "d", holdout, units)


def confused(matrices: np.ndarray, classes: Sequence[str], **where: np.ndarray) -> Evaluation:
    """Of confusion matrices (blocks, K, K), rows by label."""
    return evaluation_of(np.asarray(matrices).reshape(len(matrices), -1), classes, **where)

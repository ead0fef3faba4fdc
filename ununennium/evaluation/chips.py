"""Scores of the holdout's chips, and the best and the worst of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
import torch
from rasterio.windows import Window

from ununennium.data.chips.index import ChipIndex
from ununennium.data.scenes.scene import Scene
from ununennium.data.targets.patch_labels import has_class
from ununennium.data.targets.regression import ValueReader
from ununennium.moved import former_attribute
from ununennium.prediction.writers import NODATA
from ununennium.tasks import Kind, goodness

_LEAST_EVALUATED = 0.25
"""Share of a chip's pixels that must be evaluated for its score to say something."""
_MOST_SCORED = 20_000
"""Chips looked at; of a larger holdout every n-th."""


class ChipScore(NamedTuple):
    """A chip's score: the metric that it is one of, and its definition for people."""

    metric: str
    words: str


SCORES: Mapping[Kind, ChipScore] = {
    "classes": ChipScore("IoU", "mean IoU over the classes that a chip's labels or prediction show"),
    "patches": ChipScore("accuracy", "1 for a patch whose class is right, 0 for any other"),
    "presences": ChipScore("IoU", "classes named rightly, as a share of those that are there or are named"),
    "values": ChipScore("RMSE", "root mean square error"),
}
"""A chip's score, by kind of prediction."""


@dataclass(frozen=True)
class Chip:
    """A place of the holdout and how well it was predicted.

    Attributes:
        scene_index: of the scene, in the index.
        row: first row in the scene.
        col: first column.
        height: rows.
        width: columns.
        score: see ``SCORES``.
        plain: whether labels and prediction show nothing but the holdout's commonest class.
        words: of a patch: what it is, and what it was taken for.
    """

    scene_index: int
    row: int
    col: int
    height: int
    width: int
    score: float
    plain: bool = False
    words: str = ""

    place = former_attribute("Chip", "place", "scene_index")


class Chosen(NamedTuple):
    """The chips that a report shows.

    Attributes:
        best: the best ones, the best first.
        worst: the worst ones, the worst first.
    """

    best: list[Chip]
    worst: list[Chip]


class Content(NamedTuple):
    """Content of a chip: truth and prediction.

    Attributes:
        truth: labels or values (H, W), or for several classes per patch digits as ``PresenceReader`` reads them.
        predicted: the same of the prediction; for several classes per patch (K, H, W).
        evaluated: bool (H, W): in the fold, with data, and labelled.
    """

    truth: npt.NDArray[Any]
    predicted: npt.NDArray[Any]
    evaluated: npt.NDArray[np.bool_]


def predicted_scenes(index: ChipIndex, folder: Path) -> Iterator[tuple[int, Scene, Path]]:
    """Place, scene and file of every predicted scene."""
    for scene_index, scene in enumerate(index.scenes):
        file = folder / f"{scene.name}.tif"
        if file.exists():
            yield scene_index, scene, file


def score_chips(index: ChipIndex, folder: Path, size: int) -> list[Chip]:
    """Score every chip of the predicted holdout, side by side from its first row and column.

    Args:
        index: scenes and labels.
        folder: the predicted holdout, as ``evaluate`` writes it.
        size: side of a chip in pixels.
    """
    windows = [
        (scene_index, scene, file, window)
        for scene_index, scene, file in predicted_scenes(index, folder)
        for window in _windows(scene, file, size)
    ]
    step = -(-len(windows) // _MOST_SCORED) or 1
    commonest = int(np.sum(list(index.labelled.values()), axis=0).argmax())
    chips = []
    opened: tuple[Path, Any, Any] | None = None
    try:
        for scene_index, scene, file, window in windows[::step]:
            if opened is None or opened[0] != file:
                if opened is not None:
                    opened[1].close()
                opened = file, rasterio.open(file), _truth_reader(index, scene)
            content = _read(index, opened[1], opened[2], scene, window)
            if content.evaluated.sum() >= _LEAST_EVALUATED * size**2:
                score, plain, words = _score(index, content, commonest)
                chips.append(Chip(scene_index, *window, score=score, plain=plain, words=words))
    finally:
        if opened is not None:
            opened[1].close()
    return chips


def choose(chips: list[Chip], metric: str, number: int) -> Chosen:
    """The ``number`` best and the ``number`` worst chips, none of them twice.

    Chips that show nothing but the commonest class say little, and are left out unless there are no others.
    """
    telling = [chip for chip in chips if not chip.plain] or chips
    ranked = sorted(telling, key=lambda chip: (-goodness(metric, chip.score), chip.scene_index, chip.row, chip.col))
    best = ranked[: min(number, (len(ranked) + 1) // 2)]
    worst = ranked[len(best) :][-number:][::-1]
    return Chosen(best, worst)


def content_of(index: ChipIndex, scene: Scene, file: Path, chip: Chip) -> Content:
    """Labels and prediction of a chip."""
    with rasterio.open(file) as dataset:
        window = chip.row, chip.col, chip.height, chip.width
        return _read(index, dataset, _truth_reader(index, scene), scene, window)


def _truth_reader(index: ChipIndex, scene: Scene) -> Any:
    return ValueReader(scene) if index.task.kind == "values" else index.targets(scene)


def _windows(scene: Scene, file: Path, size: int) -> Iterator[tuple[int, int, int, int]]:
    with rasterio.open(file) as dataset:
        top, left = _corner(scene, dataset)
        for row in range(0, dataset.height, size):
            for col in range(0, dataset.width, size):
                yield top + row, left + col, min(size, dataset.height - row), min(size, dataset.width - col)


def _corner(scene: Scene, dataset: Any) -> tuple[int, int]:
    """Row and column in the scene of the first pixel of its predicted part."""
    col, row = ~scene.affine * (dataset.transform.c, dataset.transform.f)
    return round(row), round(col)


def _read(index: ChipIndex, dataset: Any, truth: Any, scene: Scene, window: tuple[int, int, int, int]) -> Content:
    row, col, height, width = window
    top, left = _corner(scene, dataset)
    predicted = dataset.read(window=Window(col - left, row - top, width, height))
    targets = truth.read(*window)
    if index.task.kind == "values":
        return Content(targets, predicted[0], ~np.isnan(targets) & ~np.isnan(predicted[0]))
    evaluated = (predicted[0] != NODATA) & index.is_labelled(targets)
    return Content(targets, predicted if index.task.kind == "presences" else predicted[0], evaluated)


def _score(index: ChipIndex, content: Content, commonest: int) -> tuple[float, bool, str]:
    """A chip's score, whether it shows the commonest class alone, and a patch's classes in words."""
    truth, evaluated = content.truth, content.evaluated
    kind, classes = index.task.kind, index.classes
    if kind == "values":
        error = content.predicted[evaluated].astype(np.float64) - truth[evaluated]
        return float(np.sqrt(np.mean(error**2))), False, ""
    if kind == "presences":
        there = {label for number, label in enumerate(classes) if has_class(truth, number)[evaluated].any()}
        named = {label for number, label in enumerate(classes) if content.predicted[number][evaluated].any()}
        said = f"is {_listed(classes, there)}; taken for {_listed(classes, named)}"
        return len(there & named) / len(there | named) if there | named else 1.0, False, said
    if kind == "patches":
        of_patch = index.of_patch
        assert of_patch is not None
        its_class = int(of_patch(torch.from_numpy(np.where(evaluated, truth, index.ignore_index)[None]))[0])
        taken_for = int(content.predicted[evaluated][0])
        words = f"is {classes[its_class]}; taken for {classes[taken_for]}"
        return float(its_class == taken_for), False, words
    table = np.bincount(truth[evaluated] * len(classes) + content.predicted[evaluated], minlength=len(classes) ** 2)
    table = table.reshape(len(classes), len(classes))
    union = table.sum(0) + table.sum(1) - table.diagonal()
    shown = union > 0
    score = float((table.diagonal()[shown] / union[shown]).mean())
    return score, bool(shown[commonest] and shown.sum() == 1), ""


def _listed(classes: list[str], names: set[str]) -> str:
    return ", ".join(name for name in classes if name in names) or "none"

"""A model's metrics on a fold: sums over every labelled pixel, each counted once."""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from ununennium.config import DataConfig
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.statistics import BandStatistics
from ununennium.data.scenes.ground import GroundTally
from ununennium.data.scenes.overwriting import refuse_overwriting
from ununennium.data.scenes.scene import Scene
from ununennium.data.splits.splits import FOLDS, HOLDOUT, VALIDATION, place_on_grid
from ununennium.data.targets.regression import ValueReader
from ununennium.errors import DataError
from ununennium.evaluation.block_sums import BlockScene
from ununennium.evaluation.calibration import Reliability, Samples
from ununennium.evaluation.evaluation import Evaluation
from ununennium.evaluation.mapped import MappedArea
from ununennium.evaluation.measures import ClassMeasures, measures_of, metrics_of
from ununennium.evaluation.scores import SCORES, Scores
from ununennium.evaluation.slices import slices_of, worst_in_words
from ununennium.prediction.map_kinds import MapKind
from ununennium.prediction.strips import ReadWindow, Strip, predict_strips
from ununennium.prediction.windows import window_reader

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ununennium.data.scenes.reader import BoolArray, FloatArray, SceneReader

_STRIP_ROWS = 512


def evaluate(
    model: nn.Module,
    index: ChipIndex,
    statistics: BandStatistics,
    config: DataConfig,
    *,
    fold: int = HOLDOUT,
    device: torch.device | str = "cpu",
    prediction_path: str | Path | None = None,
    tta: bool = False,
    temperature: float = 1.0,
    beside: Sequence[int | str] | None = None,
) -> Evaluation:
    """Predict a fold of every scene, and count its labelled pixels.

    Pixels count where the model has data, and where the model that it is compared with has data, so that both are
    counted on the same ones.

    Args:
        model: from (N, C, H, W) to logits (N, K, H, W), to values (N, 1, H, W), or, of patches, to logits (N, K).
        index: scenes, split and labels.
        statistics: for the normalisation.
        config: the data section of the run.
        fold: fold to count.
        device: device of the model.
        prediction_path: folder for what is predicted, one GeoTIFF per scene, nodata outside the fold; None writes
            none.
        tta: average over the eight flips and turns.
        temperature: of the model's probabilities, for its calibration.
        beside: bands that the model reads with which this one is compared, by name or from 1; only those of them that
            this one does not read cost another look at the imagery, at their masks.

    Raises:
        DataError: the fold has no labelled pixel, or the model does not fit the classes.
        ConfigError: a prediction would be written over an image or labels.
    """
    size = index.split.block_size
    scores = _scores_of(index, config.chip_size, size)
    measures = measures_of(scores.kind, index.classes)
    reliability, mapped = Reliability(temperature, scores.kind, size), MappedArea(len(index.classes))
    version = hashlib.sha256()
    left_out = 0
    if prediction_path is not None:
        files = {f"prediction of {scene.name}": Path(prediction_path) / f"{scene.name}.tif" for scene in index.scenes}
        read = [file for scene in index.scenes for file in (*scene.files, *scene.images)]
        refuse_overwriting(files, read, "prediction_path")
    for scene, box in _boxes(index, fold):
        top, left, height, width = box
        targets = index.targets(scene)
        labels = targets if index.target_scale is None else ValueReader(scene)  # the scale is the training fold's
        version.update(f"{scene.name} {box}".encode())
        of_scene = unit_scene(scene)
        scores.begin(of_scene, top, left)
        reliability.begin(of_scene, top, left)
        others = _other_bands(index, scene, beside)
        counted_area = GroundTally(scene, scores.tally, len(index.classes))
        writer = None
        if prediction_path is not None:
            file = Path(prediction_path) / f"{scene.name}.tif"
            writer = scores.writer(file, scene, row=top, col=left, height=height, width=width)
        with writer or contextlib.nullcontext():
            for strip in _predicted(model, index, statistics, config, scene, box, fold, scores, device, tta):
                predicted = scores.predict(strip)
                window = top + strip.row, left, *strip.valid.shape
                target = targets.read(*window)
                valid = strip.valid
                if others is not None:
                    valid = strip.valid & others.read_valid(*window)
                    left_out += int(index.is_labelled(target)[strip.valid & ~valid].sum())
                scores.update(strip.row, predicted, target, valid)
                if (counted := scores.counted(strip.probabilities, target, valid)) is not None:
                    reliability.add(strip.row, *counted)
                counted_area.add(window[0], window[1], predicted, strip.valid)
                version.update(np.packbits(valid).tobytes())
                version.update(np.where(valid, labels.read(*window), index.fill).tobytes())
                if writer is not None:
                    writer.write(strip.row, predicted, strip.valid)
        scores.end()
        mapped.add(counted_area)
    units = scores.sums.units()
    num_pixels = int(measures.counted(units.total))
    if not num_pixels:
        raise DataError(f"the {_name(fold)} fold has no labelled pixel with data to evaluate on; see data.split")
    slices = slices_of(units, index.classes)
    return Evaluation(
        classes=list(index.classes),
        confusion=(
            measures.confusion(units.total).astype(np.int64).tolist() if isinstance(measures, ClassMeasures) else []
        ),
        metrics=metrics_of(measures, units.total),
        num_pixels=num_pixels,
        split_sha256=index.split.sha256,
        data_sha256=index.data_sha256,
        holdout_sha256=version.hexdigest(),
        units=units,
        calibration=reliability.calibration(),
        areas=mapped.areas(units, measures, config.chip_size**2 if scores.kind == "patches" else 1)
        if isinstance(measures, ClassMeasures)
        else None,
        slices=slices,
        worst=worst_in_words(slices, index.task.gate_metric),
        left_out=left_out,
    )


def fit_temperature_on(
    model: nn.Module,
    index: ChipIndex,
    statistics: BandStatistics,
    config: DataConfig,
    *,
    fold: int = VALIDATION,
    device: torch.device | str = "cpu",
    tta: bool = False,
) -> float:
    """The temperature that fits a model's probabilities on a fold best, which must not be the one that judges it.

    Returns:
        1 where the fold has no labels, or nothing has a class of its own (regression, several classes per patch).
    """
    scores = _scores_of(index, config.chip_size)
    samples = Samples(sum(index.labelled.get(_name(fold), [])))
    if scores.output != "probabilities":
        return 1.0
    for scene, box in _boxes(index, fold):
        targets = index.targets(scene)
        for strip in _predicted(model, index, statistics, config, scene, box, fold, scores, device, tta):
            target = targets.read(box[0] + strip.row, box[1], *strip.valid.shape)
            if (counted := scores.counted(strip.probabilities, target, strip.valid)) is not None:
                samples.add(counted.probabilities, counted.labels)
    return samples.fit()


def unit_scene(scene: Scene) -> BlockScene:
    """Attributes of a scene by which its blocks are sliced."""
    grid, row, col = place_on_grid(scene)
    dates = [date for date in scene.dates if date is not None]
    return BlockScene(
        scene.name, grid, (row, col), dates[-1] if dates else None, dict(scene.attributes), (scene.height, scene.width)
    )


def _scores_of(index: ChipIndex, patch: int, block_size: int = 128) -> Scores:
    return SCORES[index.task.kind](index.classes, index.ignore_index, index.target_scale, patch, block_size)


def _predicted(
    model: nn.Module,
    index: ChipIndex,
    statistics: BandStatistics,
    config: DataConfig,
    scene: Scene,
    box: tuple[int, int, int, int],
    fold: int,
    kind: MapKind,
    device: torch.device | str,
    tta: bool,
) -> Iterator[Strip]:
    """The prediction of a scene's part of a fold; what is outside the fold is not valid."""
    top, left, height, width = box
    tile, overlap = kind.tiling(config.chip_size)
    context = window_reader(index.reader(scene), statistics, top, left, layout=index.layout)
    yield from predict_strips(
        kind.dense(model),
        _only(index, scene, fold, top, left, context),
        height,
        width,
        num_classes=len(index.classes),
        tile=tile,
        overlap=overlap,
        device=device,
        tta=tta,
        output=kind.output,
    )


def _other_bands(index: ChipIndex, scene: Scene, beside: Sequence[int | str] | None) -> SceneReader | None:
    """A reader of those bands of ``beside`` that the index does not read; None where there are none."""
    first = index.scenes[0]
    own = set(index.band_set.numbers(first.bands_of_images[0], first.name))
    missing = [number for number in first.band_numbers(beside or []) if number not in own]
    if not missing:
        return None
    other = copy.copy(index)
    other.band_set = first.band_set(missing)
    return other.reader(scene)


def _boxes(index: ChipIndex, fold: int) -> Iterator[tuple[Scene, tuple[int, int, int, int]]]:
    """Each scene that has a part of the fold, and the rectangle around that."""
    for scene in index.scenes:
        box = _bounding_box(index, scene, fold)
        if box is not None:
            yield scene, box


def _name(fold: int) -> str:
    return next((name for name, number in FOLDS.items() if number == fold), str(fold))


def _only(index: ChipIndex, scene: Scene, fold: int, top: int, left: int, read: ReadWindow) -> ReadWindow:
    """``read`` with what is outside the fold marked, so that it is neither counted nor drawn, but seen as context."""

    def read_fold(row: int, col: int, height: int, width: int) -> tuple[FloatArray, BoolArray]:
        wanted = index.split.folds(scene, top + row, left + col, height, width) == fold
        if not wanted.any():  # such a tile is not predicted, so its pixels need not be read
            nothing = np.zeros((index.num_dates * len(index.bands), height, width), np.float32)
            return index.arrange(nothing), wanted
        image, valid = read(row, col, height, width)
        return image, valid & wanted

    return read_fold


def _bounding_box(index: ChipIndex, scene: Scene, fold: int) -> tuple[int, int, int, int] | None:
    """Row, column, height and width of the smallest rectangle that holds the fold's pixels of a scene."""
    rows: list[int] = []
    columns: npt.NDArray[np.bool_] = np.zeros(scene.width, np.bool_)
    for row in range(0, scene.height, _STRIP_ROWS):
        height = min(_STRIP_ROWS, scene.height - row)
        inside = index.split.folds(scene, row, 0, height, scene.width) == fold
        rows += (row + np.flatnonzero(inside.any(1))).tolist()
        columns |= inside.any(0)
    if not rows:
        return None
    left, right = np.flatnonzero(columns)[[0, -1]].tolist()
    return rows[0], left, rows[-1] - rows[0] + 1, right - left + 1

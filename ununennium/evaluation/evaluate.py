"""A model's metrics on a fold: sums over every labelled pixel, each counted once."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ununennium.config import DataConfig
from ununennium.data.catalog import Scene
from ununennium.data.index import ChipIndex
from ununennium.data.splits import FOLDS, HOLDOUT
from ununennium.data.statistics import BandStatistics
from ununennium.errors import DataError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ununennium.data.reader import BoolArray, FloatArray
    from ununennium.inference.predict import ReadWindow

_STRIP_ROWS = 512


@dataclass(frozen=True)
class Evaluation:
    """What a model scored.

    Attributes:
        classes: class names.
        confusion: labelled pixels (of a classification: patches), rows by label, columns by prediction; empty for a
            regression and for several labels per patch.
        metrics: ``{"IoU": {"mean": .., "<class>": ..}, "F1": {...}, "accuracy": .., "kappa": ..}``; NaN for a class
            that is neither labelled nor predicted, which leaves the mean. Of a regression ``{"RMSE": .., "MAE": ..,
            "bias": .., "R2": ..}``.
        num_pixels: labelled pixels, or patches, that were counted.
        split_sha256: hash of the split.
        data_sha256: hash of the data.
    """

    classes: list[str]
    confusion: list[list[int]]
    metrics: dict[str, Any]
    num_pixels: int
    split_sha256: str
    data_sha256: str

    def metric(self, name: str) -> float | None:
        """The value of ``IoU`` (its mean), ``IoU.<class>``, ``accuracy`` ...; None if there is no such metric."""
        family, _, label = name.partition(".")
        value = self.metrics.get(family)
        if isinstance(value, Mapping):
            value = value.get(label or "mean")
        elif label:
            return None
        return None if value is None else float(value)

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; a NaN is null."""
        return {
            "classes": self.classes,
            "confusion": self.confusion,
            "metrics": _nan_to_none(self.metrics),
            "num_pixels": self.num_pixels,
            "split_sha256": self.split_sha256,
            "data_sha256": self.data_sha256,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Evaluation:
        """The inverse of ``to_json``."""
        return cls(**{**values, "metrics": _none_to_nan(values["metrics"])})


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
) -> Evaluation:
    """Predict a fold of every scene, and count its labelled pixels.

    Args:
        model: from (N, C, H, W) to logits (N, K, H, W), to values (N, 1, H, W), or, of patches, to logits (N, K).
        index: scenes, split and labels.
        statistics: for the normalisation.
        config: the data section of the run.
        fold: which pixels are counted.
        device: where the model is.
        prediction_path: folder for what is predicted, one GeoTIFF per scene, nodata outside the fold; None writes
            none.
        tta: average over the eight flips and turns.

    Raises:
        DataError: the fold has no labelled pixel, or the model does not fit the classes.
    """
    from ununennium.inference.predict import predict_bands
    from ununennium.inference.windows import window_reader

    tile, overlap = index.task.tiling(config.chip_size)
    scores = index.task.scores(index.classes, index.ignore_index, index.target_scale, tile)
    dense = index.task.dense(model)
    for scene in index.scenes:
        box = _bounding_box(index, scene, fold)
        if box is None:
            continue
        top, left, height, width = box
        targets = index.targets(scene)
        context = window_reader(index.reader(scene), statistics, top, left, layout=index.layout)
        read = _only(index, scene, fold, top, left, context)
        writer = None
        if prediction_path is not None:
            file = Path(prediction_path) / f"{scene.name}.tif"
            writer = scores.writer(file, scene, row=top, col=left, height=height, width=width)
        with writer or contextlib.nullcontext():
            for band in predict_bands(
                dense,
                read,
                height,
                width,
                num_classes=len(index.classes),
                tile=tile,
                overlap=overlap,
                device=device,
                tta=tta,
                output=scores.output,
            ):
                predicted = scores.predict(band)
                scores.update(predicted, targets.read(top + band.row, left, *band.valid.shape), band.valid)
                if writer is not None:
                    writer.write(band.row, predicted, band.valid)
    if not scores.num_pixels:
        name = next((name for name, number in FOLDS.items() if number == fold), str(fold))
        raise DataError(f"the {name} fold has no labelled pixel with data to evaluate on; see data.split")
    return Evaluation(
        classes=list(index.classes),
        confusion=scores.counts,
        metrics=scores.metrics(),
        num_pixels=scores.num_pixels,
        split_sha256=index.split.sha256,
        data_sha256=index.data_sha256,
    )


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


def _nan_to_none(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _nan_to_none(item) for key, item in value.items()}
    return None if isinstance(value, float) and value != value else value


def _none_to_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _none_to_nan(item) for key, item in value.items()}
    return float("nan") if value is None else value

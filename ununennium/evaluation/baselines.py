"""Baselines that a first model has to beat: the best constant prediction, and a linear classifier of single pixels.

They take the place of a champion where there is none. The best constant prediction of classes follows from the counts
of any model on the holdout: labels stay, and every prediction becomes one class. For a regression it is the mean of the
training targets. The classifier is multinomial logistic regression on a pixel's normalised bands, fitted on a sample of
the training fold with the square roots of the classes' inverse shares as weights, and evaluated like any model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ununennium.config import DataConfig
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.statistics import BandStatistics, normalise
from ununennium.data.splits.splits import TRAIN
from ununennium.errors import DataError
from ununennium.evaluation.evaluate import evaluate
from ununennium.evaluation.evaluation import Baseline, Evaluation
from ununennium.evaluation.measures import (
    ClassMeasures,
    Measures,
    PresenceMeasures,
    baseline_metric,
    measures_of,
    metrics_of,
)
from ununennium.tasks import goodness

_SAMPLE = 50_000
_ITERATIONS = 100
_WEIGHT_DECAY = 1e-4
FloatArray = npt.NDArray[np.float64]


def measure_baselines(
    challenger: Evaluation,
    index: ChipIndex,
    statistics: BandStatistics,
    config: DataConfig,
    metric: str,
    *,
    device: torch.device | str = "cpu",
    beside: Sequence[int | str] | None = None,
) -> tuple[Baseline, ...]:
    """The baselines of a task, measured on the challenger's holdout.

    Args:
        challenger: evaluation of the model that has to beat them.
        index: of the data.
        statistics: for the normalisation.
        config: the data section of the run.
        metric: of the gate; by it, or what ``baseline_metric`` has instead, the best constant is chosen.
        device: device of the evaluation.
        beside: as the challenger was evaluated with, so that the same pixels are counted.

    Raises:
        DataError: the training fold has no labelled pixel with data.
    """
    if index.task.kind == "values":
        mean = 0.0 if index.target_scale is None else index.target_scale.mean
        found = evaluate(_Mean().to(device).eval(), index, statistics, config, device=device, beside=beside)
        return (Baseline(f"the training mean {mean:.4g}", _bare(found)),)
    constant = best_constant(challenger, baseline_metric(metric))
    baselines = [] if constant is None else [constant]
    if index.task.kind == "classes":
        classifier = fit_linear_classifier(index, statistics)
        found = evaluate(classifier.to(device), index, statistics, config, device=device, beside=beside)
        baselines.append(Baseline("a linear classifier of single pixels", _bare(found)))
    return tuple(baselines)


def best_constant(challenger: Evaluation, metric: str) -> Baseline | None:
    """The constant prediction of classes that is best by ``metric`` on the challenger's holdout.

    None where the challenger's counts per block are unknown, or no constant has such a metric.
    """
    units = challenger.units
    if units is None:
        return None
    measures = measures_of(units.kind, challenger.classes)
    best: tuple[float, Baseline] | None = None
    for name, sums in _constants(measures, units.sums):
        of_constant = replace(units, sums=sums)
        evaluation = replace(
            _bare(challenger),
            confusion=measures.confusion(of_constant.total).astype(np.int64).tolist()
            if isinstance(measures, ClassMeasures)
            else [],
            metrics=metrics_of(measures, of_constant.total),
            units=of_constant,
            left_out=0,
        )
        value = evaluation.metric(metric)
        if value is not None and np.isfinite(value) and (best is None or goodness(metric, value) > best[0]):
            best = goodness(metric, value), Baseline(name, evaluation)
    return None if best is None else best[1]


def _constants(measures: Measures, sums: FloatArray) -> Iterator[tuple[str, FloatArray]]:
    """Name and sums (U, S) of each constant prediction, from the sums of any model on the same labels."""
    if isinstance(measures, ClassMeasures):
        number = len(measures.classes)
        labelled = measures.labelled(sums, "IoU")
        for column, name in enumerate(measures.classes):
            matrix = np.zeros((len(sums), number, number))
            matrix[:, :, column] = labelled
            # A constant has no boundary; the labelled boundary stays, and nothing of it is near a predicted one.
            boundary = np.zeros((len(sums), number, 4 if measures.boundaries else 0))
            if measures.boundaries:
                boundary[:, :, 3] = measures.labelled(sums, "boundary_F1")
            yield (
                f"the constant prediction {name!r}",
                np.concatenate([matrix.reshape(len(sums), -1), boundary.reshape(len(sums), -1)], 1),
            )
    elif isinstance(measures, PresenceMeasures):
        hit, false, missed, rejected = np.moveaxis(sums.reshape(len(sums), -1, 4), -1, 0)
        nothing = np.zeros_like(hit)
        every = np.stack([hit + missed, false + rejected, nothing, nothing], -1)
        none = np.stack([nothing, nothing, hit + missed, false + rejected], -1)
        yield "the constant prediction of every class", every.reshape(sums.shape)
        yield "the constant prediction of no class", none.reshape(sums.shape)


def fit_linear_classifier(index: ChipIndex, statistics: BandStatistics, *, seed: int = 0) -> nn.Module:
    """Multinomial logistic regression on single pixels, as a model of images (a convolution of one pixel).

    Args:
        index: of the data.
        statistics: for the normalisation.
        seed: of the sample of training pixels.

    Raises:
        DataError: the training fold has no labelled pixel with data.
    """
    pixels, labels = _sample(index, statistics, seed)
    if not len(labels):
        raise DataError("the training fold has no labelled pixel with data; check data.nodata and data.split")
    number = len(index.classes)
    counts = np.bincount(labels, minlength=number)
    weights = torch.from_numpy(np.where(counts > 0, (len(labels) / np.maximum(counts, 1)) ** 0.5, 0.0)).float()
    inputs, targets = torch.from_numpy(pixels), torch.from_numpy(labels)
    linear = nn.Linear(inputs.shape[1], number)
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    optimizer = torch.optim.LBFGS(linear.parameters(), max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(linear(inputs), targets, weight=weights)
        loss = loss + _WEIGHT_DECAY * linear.weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    model = _OfPixels(inputs.shape[1], number)
    model.load_state_dict({"head.weight": linear.weight[:, :, None, None], "head.bias": linear.bias})
    return model.eval()


def _sample(
    index: ChipIndex, statistics: BandStatistics, seed: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Normalised bands (N, channels) and labels (N,) of training pixels, each as likely as any other."""
    rng = np.random.default_rng(seed)
    chance = min(1.0, _SAMPLE / max(1, sum(index.labelled["train"])))
    found, labels = [np.empty((0, len(index.bands) * index.num_dates), np.float32)], [np.empty(0, np.int64)]
    for scene in index.scenes:
        reader, targets = index.reader(scene), index.targets(scene)
        for row, height in reader.strips():
            window = row, 0, height, scene.width
            target = targets.read(*window)
            used = (index.split.folds(scene, *window) == TRAIN) & index.is_labelled(target)
            used &= rng.random(used.shape) < chance
            if not used.any():
                continue
            image, valid = reader.read(*window)
            used &= valid
            found.append(normalise(image, valid, statistics)[:, used].T)
            labels.append(target[used].astype(np.int64))
    return np.concatenate(found), np.concatenate(labels)


class _OfPixels(nn.Module):
    """One linear map of every pixel's bands; of a stack, of the bands of all dates."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.head = nn.Conv2d(channels, num_classes, 1)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, K, H, W) of (N, C, H, W) or (N, T, C, H, W)."""
        logits: Tensor = self.head(image.flatten(1, -3))
        return logits


class _Mean(nn.Module):
    """The standardised mean of the training targets, everywhere."""

    def forward(self, image: Tensor) -> Tensor:
        """Zeros (N, 1, H, W)."""
        return image.new_zeros(len(image), 1, *image.shape[-2:])


def _bare(evaluation: Evaluation) -> Evaluation:
    """Metrics and block sums alone."""
    return replace(evaluation, calibration=None, areas=None, slices=[], worst=[])

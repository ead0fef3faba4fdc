"""A model's confidence beside its accuracy (reliability), and the temperature that brings the two together.

Probabilities are those of a map before a temperature, put together from overlapping tiles and views; temperatures are
applied to them by ``ununennium.prediction.temperature``, as in maps.

The expected calibration error (Naeini et al. 2015) adds up the sizes of gaps between confidence and accuracy, so noise
makes it larger than it is (Nixon et al. 2019; Kumar et al. 2019): that of a perfect model is not 0. In the corrected
one the sign of each bin's gap is that of the other blocks, so that noise cancels: a model whose gaps are noise has 0 on
average, whatever errors of a block have in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar

from ununennium.evaluation.block_sums import BlockScene, UnitSums
from ununennium.evaluation.bootstrap import drawn_values, expanded_interval, num_resamples
from ununennium.evaluation.evaluation import Calibration
from ununennium.evaluation.measures import Kind
from ununennium.prediction.temperature import TINY, tempered

NUM_BINS = 15
"""Bins of confidence, of equal width from 0 to 1."""
MOST_SAMPLES = 200_000
_RANGE = (0.05, 20.0)
_SPREAD = 1e-5  # of log-probabilities: less is the rounding of float32, and no temperature fits it better than another
_GAIN = 1e-12  # nats
_COLUMNS = 3  # pixels, confidence, right ones
_LEAST_FOR_SIGNS = 2

FloatArray = npt.NDArray[np.floating[Any]]
Sums = npt.NDArray[np.float64]


def fit_temperature(probabilities: FloatArray, labels: npt.NDArray[np.integer[Any]]) -> float:
    """The temperature of the least negative log-likelihood.

    Args:
        probabilities: (K, n).
        labels: (n,), classes.

    Returns:
        Between 0.05 and 20; 1 without samples, and where none fits better than 1, as for uniform probabilities.
    """
    if not len(labels):
        return 1.0
    logs = np.log(np.maximum(probabilities.astype(np.float64), TINY))

    def loss(log_temperature: float) -> float:
        scaled = logs / np.exp(log_temperature)
        highest = scaled.max(0)
        total = highest + np.log(np.exp(scaled - highest).sum(0))
        return float((total - scaled[labels, np.arange(len(labels))]).mean())

    if (logs.max(0) - logs.min(0)).max() < _SPREAD:
        return 1.0
    best = minimize_scalar(loss, bounds=(np.log(_RANGE[0]), np.log(_RANGE[1])), method="bounded")
    return float(np.exp(best.x)) if best.fun < loss(0.0) - _GAIN else 1.0


class Samples:
    """A share of a fold's pixels, drawn evenly, to fit the temperature on.

    Args:
        expected: pixels that there will be; at most about ``MOST_SAMPLES`` of them are kept.
        seed: of the draw.
    """

    def __init__(self, expected: int, seed: int = 0) -> None:
        self._share = min(1.0, MOST_SAMPLES / max(expected, 1))
        self._draw = np.random.default_rng(seed)
        self._probabilities: list[FloatArray] = []
        self._labels: list[npt.NDArray[np.integer[Any]]] = []

    def add(self, probabilities: FloatArray, labels: npt.NDArray[np.integer[Any]]) -> None:
        """Add pixels: (K, n) and (n,)."""
        if self._share < 1.0:
            kept = self._draw.random(len(labels)) < self._share
            probabilities, labels = probabilities[:, kept], labels[kept]
        self._probabilities.append(probabilities)
        self._labels.append(labels)

    def fit(self) -> float:
        """The temperature; 1 without pixels."""
        if not self._labels:
            return 1.0
        return fit_temperature(np.concatenate(self._probabilities, 1), np.concatenate(self._labels))


class Reliability:
    """Counts confidence and accuracy of each block, bin by bin, with and without a temperature.

    Args:
        temperature: the model's.
        kind: of what is counted.
        block_size: side of a spatial block in pixels.
    """

    def __init__(self, temperature: float = 1.0, kind: Kind = "pixels", block_size: int = 128) -> None:
        self.temperature = temperature
        self._sums = UnitSums(kind, 2 * NUM_BINS * _COLUMNS, block_size)

    def begin(self, scene: BlockScene, row: int, col: int) -> None:
        """Go on with the window of a scene whose first pixel is ``row``, ``col`` of it."""
        self._sums.begin(scene, row, col)

    def add(
        self,
        row: int,
        probabilities: npt.NDArray[np.float32],
        labels: npt.NDArray[np.integer[Any]],
        where: npt.NDArray[np.bool_],
    ) -> None:
        """Count pixels.

        Args:
            row: of the window.
            probabilities: (K, n), summing to 1.
            labels: (n,).
            where: bool (rows, width), the n pixels in row-major order.
        """
        if not len(labels):
            return
        right = probabilities.argmax(0) == labels
        as_used = tempered(torch.from_numpy(probabilities), self.temperature).numpy()
        for block, given in enumerate((as_used, probabilities)):
            confidence = given.max(0).astype(np.float64)
            bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
            cells = (block * NUM_BINS + bins) * _COLUMNS
            for column, weights in enumerate((None, confidence, right.astype(np.float64))):
                self._sums.add(row, where, cells + column, weights)

    def calibration(self) -> Calibration | None:
        """Calibration from the counts; None if nothing was counted."""
        blocks = self._sums.units().places()
        if not blocks:
            return None
        sums = np.array(list(blocks.values())).reshape(len(blocks), 2, NUM_BINS, _COLUMNS)
        (ece, bins), (raw_ece, raw_bins) = (_summary(total) for total in sums.sum(0))
        return Calibration(
            self.temperature,
            ece,
            raw_ece,
            bins,
            raw_bins,
            corrected_ece=corrected_ece(sums[:, 0]),
            raw_corrected_ece=corrected_ece(sums[:, 1]),
            ece_interval=ece_interval(sums[:, 0]),
        )


def corrected_ece(blocks: Sums) -> float:
    """The expected calibration error without its upward bias.

    Args:
        places: (P, bins, 3): pixels, their summed confidence, and how many are right, of each block.

    Returns:
        0 or more; NaN with fewer than two blocks.
    """
    if len(blocks) < _LEAST_FOR_SIGNS:
        return float("nan")
    gaps = blocks[..., 2] - blocks[..., 1]
    signs = np.sign(gaps.sum(0) - gaps)  # as the other blocks have it
    return max(0.0, float((signs * gaps).sum() / blocks[..., 0].sum()))


def ece_interval(blocks: Sums, confidence: float = 0.95) -> tuple[float, float] | None:
    """Interval of the expected calibration error (P, bins, 3) by drawing blocks; None with too few of them.

    Draws exceed the error by as much as the error exceeds the truth, so the interval of the draws is mirrored at the
    error (the basic bootstrap interval; Davison and Hinkley 1997, section 5.2).
    """
    resamples = num_resamples(len(blocks), confidence)
    if resamples is None:
        return None
    flat = blocks.reshape(len(blocks), -1)
    drawn = drawn_values(flat, lambda sums: _ece(sums.reshape(-1, NUM_BINS, _COLUMNS)), resamples=resamples)
    found = expanded_interval(drawn, len(blocks), confidence)
    if found is None:
        return None
    twice = 2 * float(_ece(blocks.sum(0)))
    return max(0.0, twice - found[1]), min(1.0, max(0.0, twice - found[0]))


def _ece(sums: Sums) -> Sums:
    """Of sums (..., bins, 3)."""
    error: Sums = np.abs(sums[..., 2] - sums[..., 1]).sum(-1) / sums[..., 0].sum(-1)
    return error


def _summary(sums: npt.NDArray[np.float64]) -> tuple[float, list[dict[str, float]]]:
    """ECE (Naeini et al. 2015), and the reliability curve."""
    count, confidence, right = sums.T
    ece = float(_ece(sums))
    edges: Sequence[float] = np.linspace(0, 1, NUM_BINS + 1).tolist()
    bins = [
        {
            "lower": lower,
            "upper": upper,
            "count": int(n),
            "confidence": conf / n if n else float("nan"),
            "accuracy": hits / n if n else float("nan"),
        }
        for lower, upper, n, conf, hits in zip(
            edges[:-1], edges[1:], count.tolist(), confidence.tolist(), right.tolist(), strict=True
        )
    ]
    return ece, bins

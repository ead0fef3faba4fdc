"""A model's confidence beside its accuracy (reliability), and the temperature that brings the two together.

Probabilities are those of a map before a temperature, put together from overlapping tiles and views; temperatures are
applied to them by ``ununennium.inference.temperature``, as in maps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize_scalar

from ununennium.evaluation.evaluation import Calibration
from ununennium.inference.temperature import TINY, tempered

NUM_BINS = 15
"""Bins of confidence, of equal width from 0 to 1."""
MOST_SAMPLES = 200_000
_RANGE = (0.05, 20.0)
_SPREAD = 1e-5  # of log-probabilities: less is the rounding of float32, and no temperature fits it better than another
_GAIN = 1e-12  # nats

FloatArray = npt.NDArray[np.floating[Any]]


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
    """Counts confidence and accuracy, bin by bin, with and without a temperature.

    Args:
        temperature: the model's.
    """

    def __init__(self, temperature: float = 1.0) -> None:
        self.temperature = temperature
        self._sums = np.zeros((2, NUM_BINS, 3))  # tempered and raw; pixels, confidence, right ones

    def add(self, probabilities: npt.NDArray[np.float32], labels: npt.NDArray[np.integer[Any]]) -> None:
        """Count pixels: (K, n), summing to 1, and (n,)."""
        if not len(labels):
            return
        right = probabilities.argmax(0) == labels
        as_used = tempered(torch.from_numpy(probabilities), self.temperature).numpy()
        for place, given in enumerate((as_used, probabilities)):
            confidence = given.max(0).astype(np.float64)
            bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
            for column, weights in enumerate((None, confidence, right)):
                self._sums[place, :, column] += np.bincount(bins, weights, minlength=NUM_BINS)

    def calibration(self) -> Calibration | None:
        """What was counted; None if nothing was."""
        if not self._sums[0, :, 0].sum():
            return None
        (ece, bins), (raw_ece, raw_bins) = (_summary(sums) for sums in self._sums)
        return Calibration(self.temperature, ece, raw_ece, bins, raw_bins)


def _summary(sums: npt.NDArray[np.float64]) -> tuple[float, list[dict[str, float]]]:
    """ECE (Naeini et al. 2015), and the reliability curve."""
    count, confidence, right = sums.T
    ece = float(np.abs(right - confidence).sum() / count.sum())
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

"""Temperatures and calibration errors, against SciPy on the logits and against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from ununennium.evaluation.calibration import fit_temperature
from ununennium.inference.temperature import tempered


def drawn(scale: float, number: int = 4000, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    """Logits (K, n) that are ``scale`` times too sure, and labels that were drawn from the right ones."""
    rng = np.random.default_rng(0)
    right = rng.normal(0, 1.5, (classes, number))
    labels = (softmax(right, 0).cumsum(0) < rng.random(number)).sum(0).clip(0, classes - 1)
    return scale * right, labels


def scipys(logits: np.ndarray, labels: np.ndarray) -> float:
    """The temperature of the least negative log-likelihood of logits in float64."""

    def loss(log_temperature: float) -> float:
        logs = log_softmax(logits / np.exp(log_temperature), 0)
        return float(-logs[labels, np.arange(len(labels))].mean())

    return float(np.exp(minimize_scalar(loss, bounds=(np.log(0.05), np.log(20)), method="bounded").x))


@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0, 8.0])
def test_the_temperature_is_that_of_the_logits(scale):
    """correctness 105: gaps of 28 to 87 between logits are probabilities of 1e-12 to 1e-38, which float32 holds."""
    logits, labels = drawn(scale)
    probabilities = softmax(logits.astype(np.float32), 0)
    assert fit_temperature(probabilities, labels) == pytest.approx(scipys(logits, labels), rel=2e-3)


@pytest.mark.parametrize(("gap", "temperature"), [(20.0, 3.0), (40.0, 5.0), (80.0, 10.0), (80.0, 0.5)])
def test_tempered_probabilities_are_the_softmax_of_logits_over_the_temperature(gap, temperature):
    """correctness 105."""
    logits = np.array([[gap], [0.0], [-1.0]])
    found = tempered(torch.from_numpy(softmax(logits, 0).astype(np.float32)), temperature).numpy()
    np.testing.assert_allclose(found, softmax(logits / temperature, 0), rtol=1e-4, atol=1e-38)


@pytest.mark.parametrize("classes", [1, 2, 5])
def test_probabilities_that_no_temperature_changes_keep_a_temperature_of_one(classes):
    """correctness 105: uniform ones, also where float32 has rounded them."""
    labels = np.random.default_rng(0).integers(0, classes, 500)
    uniform = np.full((classes, 500), np.float32(1 / classes))
    assert fit_temperature(uniform, labels) == 1.0
    rounded = uniform * (1 + np.random.default_rng(1).uniform(-3e-7, 3e-7, uniform.shape)).astype(np.float32)
    assert fit_temperature(rounded, labels) == 1.0
    assert fit_temperature(np.zeros((classes, 0), np.float32), labels[:0]) == 1.0

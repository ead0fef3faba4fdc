"""Temperatures and calibration errors, against SciPy on the logits and against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax

from ununennium.evaluation.block_sums import BlockScene
from ununennium.evaluation.calibration import NUM_BINS, Reliability, corrected_ece, ece_interval, fit_temperature
from ununennium.evaluation.evaluation import Calibration
from ununennium.prediction.temperature import tempered


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


BLOCK, WIDTH = 10, 50


def reliability_of(confidence: np.ndarray, right: np.ndarray, temperature: float = 1.0) -> Calibration:
    """Of pixels (rows, WIDTH) of two classes, in blocks of 10 x 10, counted in strips that no block ends with."""
    counted = Reliability(temperature, "pixels", BLOCK)
    counted.begin(BlockScene("a", "a", (0, 0)), 0, 0)
    for row in range(0, len(confidence), 7):
        part = np.s_[row : row + 7]
        where = np.ones(confidence[part].shape, np.bool_)
        p = confidence[part].ravel().astype(np.float32)
        counted.add(row, np.stack([p, 1 - p]), np.where(right[part], 0, 1).ravel(), where)
    found = counted.calibration()
    assert found is not None
    return found


def by_a_loop(confidence: np.ndarray, right: np.ndarray) -> float:
    """Guo et al. 2017, bins (a, b]."""
    total = 0.0
    confidence = confidence.astype(np.float32).astype(float)
    for number in range(NUM_BINS):
        inside = (confidence > number / NUM_BINS) & (confidence <= (number + 1) / NUM_BINS)
        total += abs(right[inside].sum() - confidence[inside].sum())
    return total / confidence.size


def correct_answers(rng: np.random.Generator, confidence: np.ndarray, gap: float, shared: float) -> np.ndarray:
    """Which pixels are right: ``gap`` more often than their confidence, and blocks by ``shared`` more or less each."""
    blocks = rng.choice([-shared, shared], (len(confidence) // BLOCK, WIDTH // BLOCK))
    chance = confidence + gap + blocks.repeat(BLOCK, 0).repeat(BLOCK, 1)
    return rng.random(confidence.shape) < chance


@pytest.mark.parametrize(("gap", "shared"), [(0.0, 0.0), (0.0, 0.15), (-0.12, 0.1)])
def test_the_corrected_error_is_right_on_average_where_the_plain_one_is_too_large(gap, shared):
    """correctness 106: of a perfect model, of one whose blocks err together, and of one that is too sure by 0.12."""
    rng = np.random.default_rng(1)
    plain, corrected, held = [], [], 0
    for _ in range(60):
        confidence = rng.uniform(0.65, 0.85, (40, WIDTH))
        right = correct_answers(rng, confidence, gap, shared)
        found = reliability_of(confidence, right)
        assert found.ece == pytest.approx(by_a_loop(confidence, right), abs=1e-9)
        plain.append(found.ece)
        corrected.append(found.corrected_ece)
        low, high = found.ece_interval
        held += low - 1e-12 <= abs(gap) <= high
    assert np.mean(corrected) == pytest.approx(abs(gap), abs=0.03 if shared else 0.01)  # never below 0, so above it
    assert abs(np.mean(corrected) - abs(gap)) <= abs(np.mean(plain) - abs(gap)) + 0.005
    assert held >= 50
    if gap == 0.0:
        assert np.mean(plain) > (1.2 if shared else 1.8) * np.mean(corrected)


def test_the_signs_of_the_corrected_error_are_those_of_the_other_blocks():
    """correctness 106: by a loop over blocks and bins."""
    rng = np.random.default_rng(2)
    places = np.zeros((5, NUM_BINS, 3))
    places[:, 8:12, 0] = rng.integers(10, 40, (5, 4))
    places[:, 8:12, 1] = places[:, 8:12, 0] * rng.uniform(0.5, 0.8, (5, 4))
    places[:, 8:12, 2] = rng.binomial(places[:, 8:12, 0].astype(int), 0.6)
    total = 0.0
    for block in range(5):
        for number in range(NUM_BINS):
            others = sum(places[b, number, 2] - places[b, number, 1] for b in range(5) if b != block)
            total += np.sign(others) * (places[block, number, 2] - places[block, number, 1])
    assert corrected_ece(places) == pytest.approx(max(0.0, total / places[..., 0].sum()))
    assert np.isnan(corrected_ece(places[:1]))
    assert ece_interval(places) is None


def test_the_curve_with_a_temperature_is_that_of_the_tempered_probabilities():
    """correctness 99, 106."""
    rng = np.random.default_rng(3)
    confidence = rng.uniform(0.55, 0.99, (40, WIDTH))
    right = rng.random(confidence.shape) < 0.7
    found = reliability_of(confidence, right, temperature=2.0)
    logits = np.log(confidence) - np.log(1 - confidence)
    assert found.ece == pytest.approx(by_a_loop(1 / (1 + np.exp(-logits / 2.0)), right), abs=1e-5)
    assert found.raw_ece == pytest.approx(by_a_loop(confidence, right), abs=1e-9)

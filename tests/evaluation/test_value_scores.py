"""Sums of a regression: what rounding leaves of them is no result."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import r2_score

from ununennium.evaluation.block_sums import BlockScene
from ununennium.evaluation.measures import ValueMeasures, metrics_of
from ununennium.evaluation.scores import ValueScores


def counted(truth: np.ndarray, predicted: np.ndarray, *, block: int = 128, mean: float = 0.0, std: float = 1.0):
    """Units of one scene whose targets and predictions are in their own unit."""
    scores = ValueScores("height", mean, std, block)
    scores.begin(BlockScene("a", "a", (0, 0)), 0, 0)
    for row in range(0, len(truth), 192):
        part = np.s_[row : row + 192]
        valid = np.ones(truth[part].shape, np.bool_)
        scores.update(row, (predicted[part] - mean) / std, (truth[part] - mean) / std, valid)
    return scores.sums.units()


def r2(units, chosen=slice(None)) -> float:
    return metrics_of(ValueMeasures(), units.sums[chosen].sum(0))["R2"]


@pytest.mark.parametrize("block", [64, 256, 512])
@pytest.mark.parametrize("value", [0.1, 3.7, 1234.567, -1e-3])
def test_constant_targets_have_no_r2_at_any_size(block, value):
    """correctness 105: not minus ten million, of the drift of a long sum."""
    truth = np.full((768, 768), value)
    predicted = truth + np.random.default_rng(0).normal(0, 0.1 * abs(value), truth.shape)
    for scale in ({}, {"mean": 0.3, "std": 7.1}):
        assert np.isnan(r2(counted(truth, predicted, block=block, **scale)))


@pytest.mark.parametrize("block", [128, 512])
def test_a_constant_part_of_a_varied_holdout_has_no_r2(block):
    """correctness 105: a slice of one value, beside others; it is not the value that comes first."""
    truth = np.full((1024, 512), 0.3)
    truth[512:] = 17.9
    units = counted(truth, truth + 0.01, block=block)
    lower = units.row * block >= 512
    assert np.isnan(r2(units, lower))
    assert r2(units) == pytest.approx(1 - 0.01**2 / np.var(truth), rel=1e-9)


@pytest.mark.parametrize(("offset", "spread"), [(0.0, 1.0), (30_000.0, 1.0), (5000.0, 0.01)])
def test_r2_of_varied_targets_is_scikit_learns(offset, spread):
    """correctness 105: far from 0 too."""
    rng = np.random.default_rng(1)
    truth = offset + rng.normal(0, spread, (400, 400))
    predicted = truth + rng.normal(0, 0.3 * spread, truth.shape)
    expected = r2_score(truth.ravel(), predicted.ravel())
    assert r2(counted(truth, predicted)) == pytest.approx(expected, rel=1e-9)

"""Metrics from one confusion matrix, against scikit-learn and NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ununennium import metrics
from ununennium.errors import ConfigError, DataError
from ununennium.metrics import ConfusionMatrix

pixels = st.lists(st.tuples(st.sampled_from([0, 1, 2, 3, 255]), st.integers(0, 3)), min_size=1, max_size=60)


def counted(pairs, batches=1):
    matrix = ConfusionMatrix(4, 255)
    for part in np.array_split(np.array(pairs), batches):
        if len(part):
            matrix.update(torch.from_numpy(part[:, 1].copy()), torch.from_numpy(part[:, 0].copy()))
    return matrix


@settings(max_examples=100, deadline=None)
@given(pairs=pixels, batches=st.integers(1, 4))
def test_every_metric_is_scikit_learns_over_labelled_pixels(pairs, batches):
    """correctness 33, 34: summed over batches first, divided once; ignored pixels are not there at all."""
    matrix = counted(pairs, batches).matrix
    labelled = [(t, p) for t, p in pairs if t != 255]
    if not labelled:
        assert math.isnan(metrics.overall_accuracy(matrix))
        return
    truth, guess = zip(*labelled, strict=True)
    classes = [0, 1, 2, 3]
    np.testing.assert_array_equal(matrix.numpy(), reference.confusion_matrix(truth, guess, labels=classes))
    arguments = {"labels": classes, "average": None, "zero_division": np.nan}
    expected = {
        metrics.iou: reference.jaccard_score(truth, guess, labels=classes, average=None, zero_division=0),
        metrics.f1: reference.f1_score(truth, guess, **arguments),
        metrics.precision: reference.precision_score(truth, guess, **arguments),
        metrics.recall: reference.recall_score(truth, guess, **arguments),
    }
    absent = [c not in truth and c not in guess for c in classes]
    for function, theirs in expected.items():
        ours = function(matrix).numpy()
        if function is metrics.iou:
            theirs = np.where(absent, np.nan, theirs)
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, equal_nan=True)
    assert metrics.overall_accuracy(matrix) == pytest.approx(reference.accuracy_score(truth, guess), rel=1e-12)
    kappa = reference.cohen_kappa_score(truth, guess, labels=classes)
    np.testing.assert_allclose(metrics.kappa(matrix), kappa, rtol=1e-9, atol=1e-12, equal_nan=True)


def test_a_class_that_is_nowhere_leaves_the_mean():
    """correctness 33: absent from labels and predictions, it is NaN, neither 0 nor 1."""
    matrix = counted([(0, 0), (0, 0), (1, 1), (1, 0)])
    values = metrics.iou(matrix.matrix)
    assert values.isnan().tolist() == [False, False, True, True]
    assert metrics.macro_mean(values) == pytest.approx((2 / 3 + 1 / 2) / 2)


def test_a_class_that_is_only_predicted_counts_as_wrong():
    """correctness 33: it is present."""
    values = metrics.iou(counted([(0, 0), (0, 3)]).matrix)
    assert values[3].item() == 0.0


def test_logits_and_classes_count_alike():
    output = torch.randn(2, 4, 6, 6)
    target = torch.randint(0, 4, (2, 6, 6))
    first, second = ConfusionMatrix(4), ConfusionMatrix(4)
    first.update(output, target)
    second.update(output.argmax(1), target)
    assert torch.equal(first.matrix, second.matrix)
    assert first.matrix.dtype == torch.int64


def test_the_flat_metrics_name_classes():
    flat = counted([(0, 0), (1, 0), (1, 1)]).to_metrics(["a", "b", "c", "d"])
    assert flat["IoU_b"] == 0.5
    assert math.isnan(flat["F1_d"])
    assert flat["accuracy"] == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("output", "target", "words"),
    [
        (torch.randn(1, 3, 2, 2), torch.zeros(1, 2, 2).long(), "3 channels"),
        (torch.randn(1, 4, 2, 3), torch.zeros(1, 2, 2).long(), "does not fit"),
        (torch.randn(1, 4, 2, 2), torch.full((1, 2, 2), 9), "label 9 is outside"),
        (torch.full((1, 2, 2), -1), torch.zeros(1, 2, 2).long(), "prediction -1 is outside"),
    ],
)
def test_what_does_not_fit_is_named(output, target, words):
    with pytest.raises(DataError, match=words):
        ConfusionMatrix(4, 255).update(output, target)


def test_no_classes_is_refused():
    with pytest.raises(ConfigError, match="num_classes"):
        ConfusionMatrix(0)

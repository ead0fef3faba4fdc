"""What a loss over one micro-batch is, and what it weighs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from ununennium.errors import ConfigError
from ununennium.training.objective import Objective


@settings(max_examples=150, deadline=None)
@given(
    shape=st.sampled_from([(), (3,), (3, 2), (2, 3, 2)]),
    samples=st.integers(1, 4),
    kind=st.sampled_from([nn.CrossEntropyLoss, nn.NLLLoss]),
    weighted=st.booleans(),
    smoothing=st.sampled_from([0.0, 0.1]),
    ignored=st.sampled_from([-100, 255]),
    valid_share=st.sampled_from([0.0, 0.5, 1.0]),
    seed=st.integers(0, 1000),
)
def test_torchs_losses_are_their_own_mean_with_what_it_was_divided_by(
    shape, samples, kind, weighted, smoothing, ignored, valid_share, seed
):
    """correctness 3, 4: value and gradient to the bit as torch computes them; over nothing both are 0."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, 3, *shape, generator=generator).log_softmax(1)
    target = torch.randint(0, 3, (samples, *shape), generator=generator)
    target[torch.rand(target.shape, generator=generator) >= valid_share] = ignored
    class_weights = torch.tensor([1.0, 2.0, 0.5]) if weighted else None
    smoothed = {"label_smoothing": smoothing} if kind is nn.CrossEntropyLoss else {}
    loss_fn = kind(weight=class_weights, ignore_index=ignored, **smoothed)
    mine, theirs = logits.clone().requires_grad_(), logits.clone().requires_grad_()

    found = Objective(loss_fn)(mine, target)

    labels = target.numpy()[target.numpy() != ignored]
    wanted_weight = np.array([1.0, 2.0, 0.5])[labels].sum() if weighted else len(labels)
    assert found.weight == pytest.approx(wanted_weight, rel=1e-6)
    assert found.full_weight == target.numel()
    found.value.backward()
    if not len(labels):
        assert found.value == 0.0
        assert not mine.grad.any()
        return
    assert found.is_mean
    expected = loss_fn(theirs, target)
    expected.backward()
    assert torch.equal(found.value, expected)
    assert torch.equal(mine.grad, theirs.grad)


def test_the_weight_on_a_device_is_what_the_host_finds():
    """A device is not waited for, so that the weight is computed there; here by the same lines on the host."""
    target = torch.tensor([[0, 2, 255], [255, 1, 2]])
    for class_weights, wanted in ((None, 4.0), (torch.tensor([1.0, 2.0, 0.5]), 4.0), (torch.tensor([3.0, 0, 1]), 5.0)):
        weight = Objective(nn.CrossEntropyLoss(weight=class_weights, ignore_index=255))._weight(target)
        assert float(weight) == wanted


def test_a_label_out_of_range_is_refused_as_torch_does():
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        Objective(nn.CrossEntropyLoss())(torch.randn(2, 3), torch.tensor([0, 7]))


def test_labels_that_do_not_fit_are_refused_in_torchs_words():
    with pytest.raises(ValueError, match=r"Expected input batch_size \(4\) to match target batch_size \(5\)"):
        Objective(nn.CrossEntropyLoss())(torch.randn(4, 3), torch.zeros(5, dtype=torch.long))


def test_a_weight_is_counted_exactly_whatever_the_precision_of_the_output():
    output = torch.randn(2, 3, 20, 20, dtype=torch.bfloat16)
    assert Objective(nn.CrossEntropyLoss())(output, torch.zeros(2, 20, 20, dtype=torch.long)).weight == 800.0
    output, target = torch.randn(1, 3, 1, 323, dtype=torch.bfloat16), torch.zeros(1, 1, 323, dtype=torch.long)
    assert Objective(nn.CrossEntropyLoss())(output, target).weight == 323.0


def test_probabilities_as_targets_are_the_plain_loss():
    output, target = torch.randn(4, 3), torch.rand(4, 3).softmax(1)
    found = Objective(nn.CrossEntropyLoss())(output, target)
    assert torch.equal(found.value, F.cross_entropy(output, target))
    assert (found.weight, found.is_mean) == (4.0, True)


@pytest.mark.parametrize(
    ("loss_fn", "target"),
    [(nn.L1Loss(), torch.zeros(2, 3, dtype=torch.long)), (nn.CrossEntropyLoss(ignore_index=255), torch.zeros(2, 3))],
    ids=["no ignore_index", "float targets"],
)
def test_a_mask_that_the_target_cannot_express_is_refused(loss_fn, target):
    with pytest.raises(ConfigError, match="batches carry a valid mask"):
        Objective(loss_fn).mask(target, torch.ones(2, 3, dtype=torch.bool))


@pytest.mark.parametrize(("answer", "found"), [(torch.zeros(4), r"\(4,\)"), (0.5, "float")])
def test_a_loss_that_is_no_scalar_is_named_by_its_shape_or_type(answer, found):
    with pytest.raises(ConfigError, match=f"loss_fn = '?{found}'?: return a 0-dim tensor"):
        Objective(lambda output, target: answer)(torch.zeros(4, 3), torch.zeros(4))

"""Losses say what they weigh; each against its formula written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ununennium.errors import ConfigError, DataError
from ununennium.losses import CrossEntropyDiceLoss, CrossEntropyLoss, DiceLoss, FocalLoss

ALL = [CrossEntropyLoss(), FocalLoss(), DiceLoss(), CrossEntropyDiceLoss()]


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    output = torch.randn(2, 3, 5, 7, generator=generator, dtype=torch.float32)
    target = torch.randint(0, 3, (2, 5, 7), generator=generator)
    target[0, :2] = 255
    return output, target


def probabilities(output):
    shifted = output.double().numpy() - output.double().numpy().max(1, keepdims=True)
    return np.exp(shifted) / np.exp(shifted).sum(1, keepdims=True)


@pytest.mark.parametrize("weights", [None, [1.0, 3.0, 0.0]])
def test_cross_entropy_is_the_sum_of_minus_log_p_over_valid_pixels(batch, weights):
    """correctness 3: the sum, and the number of valid pixels."""
    output, target = batch
    total, count = CrossEntropyLoss(class_weights=weights)(output, target)
    valid = target.numpy() != 255
    p = np.moveaxis(probabilities(output), 1, -1)[valid]
    label = target.numpy()[valid]
    scale = np.ones(3) if weights is None else np.array(weights)
    assert total.item() == pytest.approx((-np.log(p[np.arange(len(p)), label]) * scale[label]).sum(), rel=1e-5)
    assert count.item() == valid.sum()


@pytest.mark.parametrize("gamma", [0.0, 2.0])
def test_focal_is_its_formula(batch, gamma):
    """correctness 3."""
    output, target = batch
    total, count = FocalLoss(gamma)(output, target)
    valid = target.numpy() != 255
    p = np.moveaxis(probabilities(output), 1, -1)[valid]
    p = p[np.arange(len(p)), target.numpy()[valid]]
    assert total.item() == pytest.approx((-((1 - p) ** gamma) * np.log(p)).sum(), rel=1e-5)
    assert count.item() == valid.sum()


def test_dice_is_its_formula_over_the_classes_that_are_labelled(batch):
    """correctness 3."""
    output, target = batch
    target[target == 2] = 1  # class 2 is absent
    total, count = DiceLoss(smooth=1.0)(output, target)
    valid = target.numpy() != 255
    p = np.moveaxis(probabilities(output), 1, -1)[valid]
    truth = np.eye(3)[target.numpy()[valid]]
    dice = (2 * (p * truth).sum(0) + 1) / (p.sum(0) + truth.sum(0) + 1)
    assert (total / count).item() == pytest.approx((1 - dice[:2]).mean(), rel=1e-5)


def test_the_sum_of_both_is_the_sum_of_both(batch):
    together, count = CrossEntropyDiceLoss(dice_weight=0.5)(*batch)
    pixels, _ = CrossEntropyLoss()(*batch)
    shapes, its_count = DiceLoss()(*batch)
    assert together.item() == pytest.approx((pixels + 0.5 * shapes).item(), rel=1e-6)
    assert count == its_count


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_nothing_valid_is_zero_with_zero_weight_and_zero_gradient(loss):
    """correctness 4: no NaN."""
    output = torch.randn(1, 3, 4, 4, requires_grad=True)
    total, count = loss(output, torch.full((1, 4, 4), 255))
    total.backward()
    assert total.item() == count.item() == 0.0
    assert torch.equal(output.grad, torch.zeros_like(output))


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_ignored_pixels_have_no_gradient(loss, batch):
    """correctness 3, 34."""
    output, target = batch
    output.requires_grad_()
    loss(output, target)[0].backward()
    ignored = (target == 255).unsqueeze(1).expand_as(output)
    assert (output.grad[ignored] == 0).all()
    assert (output.grad[~ignored] != 0).any()


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_gradients_are_those_of_finite_differences(loss, batch):
    output, target = batch
    output = output[:1, :, 2:4, :3].double().requires_grad_()
    real = torch.Tensor.float
    torch.Tensor.float = lambda self, *a, **k: self if self.dtype == torch.float64 else real(self, *a, **k)
    try:
        assert torch.autograd.gradcheck(lambda o: loss(o, target[:1, 2:4, :3])[0], output, atol=1e-4)
    finally:
        torch.Tensor.float = real


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_the_loss_is_float32_from_half_precision_logits(loss, batch):
    """correctness 20."""
    output, target = batch
    total, count = loss(output.bfloat16(), target)
    assert total.dtype == count.dtype == torch.float32
    assert total.item() == pytest.approx(loss(output.bfloat16().float(), target)[0].item(), rel=1e-6)


def test_label_smoothing_is_torchs(batch):
    output, target = batch
    total, count = CrossEntropyLoss(label_smoothing=0.1)(output, target)
    assert (total / count).item() == pytest.approx(
        F.cross_entropy(output, target, ignore_index=255, label_smoothing=0.1).item(), rel=1e-5
    )


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_a_model_whose_output_does_not_fit_is_named(loss):
    """A model whose output channels do not fit."""
    target = torch.tensor([[[0, 1], [2, 255]]])
    with pytest.raises(DataError, match=r"2 channels, and a label is 2.*at least 3"):
        loss(torch.randn(1, 2, 2, 2), target)
    with pytest.raises(DataError, match="does not fit the labels"):
        loss(torch.randn(1, 3, 4, 4), target)


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_a_negative_label_that_is_not_the_ignored_one_is_named(loss):
    with pytest.raises(DataError, match=r"a label is -1.*ignore_index=-1"):
        loss(torch.randn(1, 3, 2, 2), torch.tensor([[[0, 1], [-1, 255]]]))


@pytest.mark.parametrize("make", [CrossEntropyLoss, FocalLoss, DiceLoss, CrossEntropyDiceLoss])
@pytest.mark.parametrize("ignore_index", [-1, -100, 1])
def test_any_ignore_index_gives_what_any_other_does(make, ignore_index, batch):
    """correctness 34: one below 0, or between the classes, too."""
    output, target = batch
    labelled = target.masked_fill(target == 1, 255)
    expected = make(ignore_index=255)(output, labelled)
    assert make(ignore_index=ignore_index)(output, labelled.masked_fill(labelled == 255, ignore_index)) == expected


def test_class_weights_of_another_number_are_named():
    with pytest.raises(DataError, match="3 channels, but there are 2 class weights"):
        CrossEntropyLoss(class_weights=[1, 1])(torch.randn(1, 3, 2, 2), torch.zeros(1, 2, 2).long())


@pytest.mark.parametrize(
    "make",
    [
        lambda: CrossEntropyLoss(class_weights=[-1.0]),
        lambda: CrossEntropyLoss(label_smoothing=1.0),
        lambda: FocalLoss(gamma=-1),
        lambda: DiceLoss(smooth=-1),
        lambda: CrossEntropyDiceLoss(dice_weight=-1),
    ],
)
def test_an_impossible_setting_is_refused(make):
    with pytest.raises(ConfigError):
        make()


def float64_gradient(loss_of_logits, output):
    """Gradient by autograd in float64 of a formula written out for one (1, K, H, W) tensor of logits."""
    logits = output.detach().double().requires_grad_()
    total = loss_of_logits(logits)
    total.backward()
    return total.item(), logits.grad


def written_out_focal(logits, target, gamma):
    """``-(1 - p)^gamma log p`` with 1 - p as the sum of the other classes' probabilities, over labelled pixels."""
    total = logits.new_zeros(())
    for row, col in np.argwhere(target[0].numpy() != 255).tolist():
        of_pixel, label = logits[0, :, row, col], int(target[0, row, col])
        p = of_pixel.softmax(0)
        rest = p[torch.arange(len(p)) != label].sum()
        total = total - rest**gamma * (torch.log1p(-rest) if rest < 0.5 else p[label].log())
    return total


@pytest.mark.parametrize("gamma", [0.1, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("gap", [5.0, 20.0, 60.0, -20.0])
def test_focal_has_the_gradient_of_float64_where_a_pixel_is_saturated(gamma, gap):
    """correctness 105: float32 rounds p to 1 at a gap of 17; neither 0 nor NaN follows from that."""
    output = torch.tensor([gap, 0.0, -1.0]).reshape(1, 3, 1, 1).requires_grad_()
    target = torch.zeros(1, 1, 1).long()
    total, _ = FocalLoss(gamma)(output, target)
    total.backward()
    value, expected = float64_gradient(lambda logits: written_out_focal(logits, target, gamma), output)
    assert total.item() == pytest.approx(value, rel=1e-4)
    torch.testing.assert_close(output.grad.double(), expected, rtol=1e-4, atol=1e-37)


@pytest.mark.parametrize("gap", [20.0, 1e4, float("inf"), float("nan")])
@pytest.mark.parametrize(
    "loss",
    [CrossEntropyLoss(), CrossEntropyLoss(label_smoothing=0.1), FocalLoss(0.5), FocalLoss(0.0), DiceLoss()],
    ids=["cross-entropy", "smoothed", "focal 0.5", "focal 0", "dice"],
)
def test_an_ignored_pixel_has_no_gradient_whatever_its_logits(loss, gap):
    """correctness 105: a half-precision model may overflow where there is no data."""
    output = torch.tensor([[gap, 0.0], [0.0, 1.0]]).reshape(1, 2, 1, 2).requires_grad_()
    total, count = loss(output, torch.tensor([[[255, 1]]]))
    total.backward()
    assert count.item() == 1
    assert torch.equal(output.grad[..., 0], torch.zeros(1, 2, 1))
    assert torch.isfinite(output.grad).all()
    assert (output.grad[..., 1] != 0).all()


@pytest.mark.parametrize("make", [DiceLoss, CrossEntropyDiceLoss])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_a_batch_of_classes_without_weight_has_a_gradient_of_zero(make, smooth):
    """correctness 105: background of weight 0 is common, and many a tile shows nothing else."""
    loss = make(class_weights=[0.0, 1.0])
    (loss if make is DiceLoss else loss.dice).smooth = smooth
    output = torch.randn(1, 2, 4, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    total, count = loss(output, torch.zeros(1, 4, 4).long())
    total.backward()
    assert (total.item(), count.item()) == (0.0, 16.0)
    assert torch.equal(output.grad, torch.zeros_like(output))


@pytest.mark.parametrize("weights", [[0.0, 1.0, 2.0], [1e-30, 1.0, 0.0], [0.0, 0.0, 1.0]])
def test_weighted_dice_has_the_gradient_of_float64(batch, weights):
    """correctness 105: against the formula in float64, also where weights of labelled classes are 0."""
    output, target = batch[0].clone().requires_grad_(), batch[1]
    total, _ = DiceLoss(class_weights=weights, smooth=1.0)(output, target)
    total.backward()

    def written_out(logits):
        valid = target != 255
        p = logits.softmax(1).movedim(1, -1)[valid]
        truth = torch.eye(3, dtype=torch.float64)[target[valid]]
        dice = (2 * (p * truth).sum(0) + 1) / (p.sum(0) + truth.sum(0) + 1)
        weight = torch.tensor(weights, dtype=torch.float64)
        return ((1 - dice) * weight).sum() / weight.sum() * valid.sum()

    value, expected = float64_gradient(written_out, output)
    assert total.item() == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(output.grad.double(), expected, rtol=1e-4, atol=1e-7)

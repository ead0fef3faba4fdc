"""Losses that return a sum and what it weighs, so that unlabelled pixels weigh nothing anywhere.

Each is called with logits (N, K, H, W) and labels (N, H, W), or with values (N, 1, H, W) and targets (N, H, W), and
returns ``(sum over valid pixels, number of valid
pixels)``, both 0-dim float32. The Trainer divides once per window (correctness 3). They compute in float32 whatever
the logits' dtype, and are exactly 0 with weight 0 where nothing is valid.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ununennium.errors import ConfigError, DataError


class PixelLoss(nn.Module):
    """Base: checks shapes, and keeps ``ignore_index`` and class weights.

    Args:
        ignore_index: label value of unlabelled pixels.
        class_weights: one weight per class for its pixels; they scale the sum, not the number of pixels.

    Raises:
        ConfigError: a negative class weight.
    """

    is_zero_of_nothing: ClassVar[bool] = True
    """The Trainer need not look for a valid pixel first."""
    class_weights: Tensor | None

    def __init__(self, ignore_index: int = 255, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.ignore_index = ignore_index
        if class_weights is not None and (not class_weights or min(class_weights) < 0):
            raise ConfigError("class_weights", list(class_weights), "give one weight >= 0 per class")
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def check(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Logits in float32, 0 at ignored pixels so that their gradient is exactly 0, and the mask of valid pixels.

        Raises:
            DataError: the shapes do not fit each other or the class weights.
        """
        if output.ndim != target.ndim + 1 or output.shape[0] != target.shape[0] or output.shape[2:] != target.shape[1:]:
            raise DataError(
                f"the model's output {tuple(output.shape)} does not fit the labels {tuple(target.shape)}: it must be "
                "(batch, classes, height, width) over (batch, height, width)"
            )
        if self.class_weights is not None and len(self.class_weights) != output.shape[1]:
            raise DataError(
                f"the model's output has {output.shape[1]} channels, but there are {len(self.class_weights)} class "
                "weights"
            )
        valid = target != self.ignore_index
        if target.device.type == "cpu" and bool(valid.any()):
            lowest, highest = (int(label) for label in torch.aminmax(target[valid]))
            if lowest < 0:
                raise DataError(
                    f"a label is {lowest}: labels count from 0; where it means unlabelled, set ignore_index={lowest}"
                )
            if highest >= output.shape[1]:
                raise DataError(
                    f"the model's output has {output.shape[1]} channels, and a label is {highest}: give the model one "
                    f"output channel per class (at least {highest + 1})"
                )
        return output.float().masked_fill(~valid.unsqueeze(1), 0.0), valid


class CrossEntropyLoss(PixelLoss):
    """Cross-entropy.

    Args:
        ignore_index: label value of unlabelled pixels.
        class_weights: one weight per class.
        label_smoothing: share of the target spread evenly over the classes, in [0, 1) (Szegedy et al. 2016).
    """

    def __init__(
        self, ignore_index: int = 255, class_weights: Sequence[float] | None = None, label_smoothing: float = 0.0
    ) -> None:
        super().__init__(ignore_index, class_weights)
        if not 0.0 <= label_smoothing < 1.0:
            raise ConfigError("label_smoothing", label_smoothing, "give a number in [0, 1)")
        self.label_smoothing = label_smoothing

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over valid pixels, and their number."""
        logits, valid = self.check(output, target)
        total = F.cross_entropy(
            logits,
            target,
            weight=self.class_weights,
            ignore_index=self.ignore_index,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return total, valid.sum().float()


class FocalLoss(PixelLoss):
    """Focal loss, ``-(1 - p)^gamma log p`` of the label's probability p (Lin et al. 2017, equation 4).

    With d the label's logit less the log-sum-exp of the others, log p is log-sigmoid(d) and log(1 - p) is
    log-sigmoid(-d). Both are exact in float32 where p itself has been rounded to 1, so value and gradient are finite
    for every gamma.

    Args:
        gamma: how much easy pixels fade; 0 is cross-entropy.
        ignore_index: label value of unlabelled pixels.
        class_weights: one weight per class (the paper's alpha).
    """

    def __init__(
        self, gamma: float = 2.0, ignore_index: int = 255, class_weights: Sequence[float] | None = None
    ) -> None:
        super().__init__(ignore_index, class_weights)
        if gamma < 0:
            raise ConfigError("gamma", gamma, "give a number >= 0")
        self.gamma = gamma

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over valid pixels, and their number."""
        logits, valid = self.check(output, target)
        label = target.masked_fill(~valid, 0)
        channel = label.unsqueeze(1)
        others = logits.scatter(1, channel, torch.finfo(logits.dtype).min).logsumexp(1)
        margin = logits.gather(1, channel).squeeze(1) - others
        per_pixel = -(self.gamma * F.logsigmoid(-margin)).exp() * F.logsigmoid(margin)
        if self.class_weights is not None:
            per_pixel = per_pixel * self.class_weights[label]
        return (per_pixel * valid).sum(), valid.sum().float()


class DiceLoss(PixelLoss):
    """Soft Dice loss, one minus the mean over classes of ``2 sum(p g) / (sum(p) + sum(g))`` (Milletari et al. 2016).

    It is a statement about the batch, so its sum is the loss times the number of valid pixels. Classes that the
    batch's labels lack are left out of the mean: their overlap is 0 whatever is predicted.

    Args:
        ignore_index: label value of unlabelled pixels.
        class_weights: weights of the mean over classes.
        smooth: added to both parts of the fraction.
    """

    def __init__(
        self, ignore_index: int = 255, class_weights: Sequence[float] | None = None, smooth: float = 1.0
    ) -> None:
        super().__init__(ignore_index, class_weights)
        if smooth < 0:
            raise ConfigError("smooth", smooth, "give a number >= 0")
        self.smooth = smooth

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Loss times the number of valid pixels, and their number."""
        logits, valid = self.check(output, target)
        label = target.masked_fill(~valid, 0)
        mask = valid.unsqueeze(1)
        probability = logits.softmax(1) * mask
        truth = F.one_hot(label, logits.shape[1]).movedim(-1, 1) * mask
        axes = (0, *range(2, logits.ndim))
        labelled = truth.sum(axes).float()
        overlap = 2 * (probability * truth).sum(axes) + self.smooth
        dice = overlap / (probability.sum(axes) + labelled + self.smooth).clamp(min=torch.finfo(torch.float32).tiny)
        weights = (labelled > 0).float()
        if self.class_weights is not None:
            weights = weights * self.class_weights
        count = valid.sum().float()
        total = weights.sum()  # 0 where every labelled class has weight 0: a loss and a gradient of 0, not 0 / 0
        shares = torch.where(total > 0, weights / total, 0.0)
        return ((1 - dice) * shares).sum() * count, count


class CrossEntropyDiceLoss(nn.Module):
    """Cross-entropy plus Dice: pixels that are sure, and shapes that overlap.

    Args:
        ignore_index: label value of unlabelled pixels.
        class_weights: one weight per class, for both.
        dice_weight: factor of the Dice term.
    """

    def __init__(
        self, ignore_index: int = 255, class_weights: Sequence[float] | None = None, dice_weight: float = 1.0
    ) -> None:
        super().__init__()
        if dice_weight < 0:
            raise ConfigError("dice_weight", dice_weight, "give a number >= 0")
        self.ignore_index = ignore_index
        self.cross_entropy = CrossEntropyLoss(ignore_index, class_weights)
        self.dice = DiceLoss(ignore_index, class_weights)
        self.dice_weight = dice_weight

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over valid pixels, and their number."""
        pixels, count = self.cross_entropy(output, target)
        shapes, _ = self.dice(output, target)
        return pixels + self.dice_weight * shapes, count


class ValueLoss(nn.Module):
    """Base of losses of a regression: pixels whose target is NaN are unlabelled, and weigh nothing.

    Predictions and targets of ``ununennium.data`` are in standard deviations of the training fold's targets.
    """

    def check(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction minus target in float32, 0 where unlabelled, and the mask of labelled pixels.

        Raises:
            DataError: the shapes do not fit, or the target holds class numbers.
        """
        if not target.is_floating_point():
            raise DataError(f"the targets are {target.dtype}: a regression's are numbers; set data.task: regression")
        expected = (target.shape[0], 1, *target.shape[1:])
        if output.shape not in (expected, target.shape):
            raise DataError(
                f"the model's output {tuple(output.shape)} does not fit the targets {tuple(target.shape)}: it must be "
                f"{expected}"
            )
        valid = ~target.isnan()
        prediction = output.float().reshape(target.shape)
        # Filled before the subtraction and after it: neither a NaN here nor its gradient may reach a labelled pixel.
        return (prediction - target.float().masked_fill(~valid, 0.0)).masked_fill(~valid, 0.0), valid

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over labelled pixels, and their number."""
        difference, valid = self.check(output, target)
        return self.of(difference).sum(), valid.sum().float()

    def of(self, difference: Tensor) -> Tensor:
        """The loss of each pixel; 0 for a difference of 0."""
        raise NotImplementedError


class MSELoss(ValueLoss):
    """Squared error."""

    def of(self, difference: Tensor) -> Tensor:
        """``d^2``."""
        return difference.square()


class L1Loss(ValueLoss):
    """Absolute error: the median rather than the mean, and calm about outliers."""

    def of(self, difference: Tensor) -> Tensor:
        """``|d|``."""
        return difference.abs()


class HuberLoss(ValueLoss):
    """Squared for small errors and linear for large ones (Huber 1964): ``d^2 / 2``, or ``delta (|d| - delta / 2)``.

    Args:
        delta: transition from the one to the other, in standard deviations of the training fold's targets.

    Raises:
        ConfigError: ``delta`` is not above 0.
    """

    def __init__(self, delta: float = 1.0) -> None:
        super().__init__()
        if not delta > 0:
            raise ConfigError("delta", delta, "give a number > 0")
        self.delta = delta

    def of(self, difference: Tensor) -> Tensor:
        """The loss of each pixel."""
        return F.huber_loss(difference, torch.zeros_like(difference), reduction="none", delta=self.delta)


class PresenceLoss(nn.Module):
    """Binary cross-entropy of each class on its own, for patches that may show several.

    Takes logits (N, K) and targets (N, K), 1 where the class is present, 0 where it is not, and NaN where nobody knows;
    those weigh nothing. A patch weighs as much as its known classes.
    """

    def forward(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Sum over the known classes of all patches, and their number.

        Raises:
            DataError: the shapes do not fit.
        """
        if output.shape != target.shape:
            raise DataError(
                f"the model's output {tuple(output.shape)} does not fit the targets {tuple(target.shape)}: both "
                "must be (batch, classes)"
            )
        known = ~target.isnan()
        each = F.binary_cross_entropy_with_logits(output.float(), target.masked_fill(~known, 0.0), reduction="none")
        return each.masked_fill(~known, 0.0).sum(), known.sum().float()

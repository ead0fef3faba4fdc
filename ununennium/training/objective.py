"""From a batch and the user's loss function to a value with its weight.

The gradient of a window must be the gradient of the loss over *all* its valid pixels (correctness 2, 3). That needs
sums and counts, not means. A loss function may therefore return ``(sum, weight)``; a plain mean is weighted by the
number of samples; and torch's own classification losses, whose mean hides the count of valid pixels, are taken apart.

A micro-batch without a valid pixel has no loss: a mean over nothing is NaN or an error. Such a batch contributes
nothing, whatever the loss would return for it (correctness 4, 88).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ununennium.errors import ConfigError
from ununennium.moved import former_name
from ununennium.training.batches import prediction_of
from ununennium.training.ignoring import found_ignore_index

_NLL_KERNELS = {2: torch.ops.aten.nll_loss_forward.default, 4: torch.ops.aten.nll_loss2d_forward.default}
"""Dimensions of the output -> the negative log-likelihood that torch's losses end in: gives its mean and its weight."""
_MEAN = 1  # the kernels' number for it

LossFn = Any  # a callable; torch's loss modules carry attributes that are read here


class WeightedLoss(NamedTuple):
    """A loss over one micro-batch.

    Attributes:
        value: the sum over valid elements, or the mean if ``is_mean``; a 0-dim float32 tensor.
        weight: weight of the value: valid elements for a sum, samples for a mean.
        is_mean: whether ``value`` is already divided by what it weighs.
        full_weight: the weight if everything were valid; known without looking at the device.
    """

    value: Tensor
    weight: Tensor | float
    is_mean: bool
    full_weight: float


_TAKE_TENSORS = ("torch.nn", "torchvision", "segmentation_models_pytorch.losses", "ununennium.losses")
"""Packages whose losses take the tensor of predictions; any other loss is given what the model returned."""


class Objective:
    """The user's ``loss_fn``, called so that every answer carries its weight.

    Args:
        loss_fn: ``loss_fn(output, target)`` or ``loss_fn(output, target, valid)``, returning a mean (0-dim tensor) or
            ``(sum, weight)``.
        ignore_index: target value of what has no label; None takes the loss's, if it can be found.

    Attributes:
        ignore_index: the one that is used; None if there is none.
        declared_ignore_index: the one that was given, or that the loss itself states; metrics must ignore the same.

    Raises:
        ConfigError: ``loss_fn`` cannot be called, or ignores another value than ``ignore_index``.
    """

    def __init__(self, loss_fn: LossFn, ignore_index: float | None = None) -> None:
        if not callable(loss_fn):
            raise ConfigError("loss_fn", loss_fn, "give a callable loss_fn(output, target)")
        self.loss_fn = loss_fn
        if isinstance(ignore_index, bool) or not isinstance(ignore_index, int | float | None):
            raise ConfigError("ignore_index", ignore_index, "give the number that stands for no label, such as 255")
        own = getattr(loss_fn, "ignore_index", None)
        if ignore_index is not None and own is not None and own != ignore_index:
            remedy = f"the loss ignores {own}; make the loss with ignore_index={ignore_index}, or leave this out"
            raise ConfigError("ignore_index", ignore_index, remedy)
        self.declared_ignore_index = own if ignore_index is None else ignore_index
        self.ignore_index = (
            found_ignore_index(loss_fn) if self.declared_ignore_index is None else self.declared_ignore_index
        )
        self._counts_itself = bool(getattr(loss_fn, "is_zero_of_nothing", False))
        self._takes_valid = _takes_three(loss_fn)
        self._takes_tensor = _takes_tensor(loss_fn)
        # Exact types: a subclass may compute something else.
        self._split_mean = type(loss_fn) in (nn.CrossEntropyLoss, nn.NLLLoss) and loss_fn.reduction == "mean"

    def mask(self, target: Any, valid: Any) -> Any:
        """``target`` with ``ignore_index`` where ``valid`` is False, for losses that do not take a mask themselves.

        Raises:
            ConfigError: the mask cannot be expressed in the target.
        """
        if valid is None or self._takes_valid:
            return target
        if not isinstance(valid, Tensor) or valid.dtype != torch.bool:
            raise ConfigError(
                "loss_fn", type(self.loss_fn).__name__, "batches carry weights; give a loss_fn(output, target, weight)"
            )
        if self.ignore_index is None or target.is_floating_point():
            raise ConfigError(
                "loss_fn",
                type(self.loss_fn).__name__,
                "batches carry a valid mask; give a loss with an ignore_index, or a loss_fn(output, target, valid)",
            )
        return target.masked_fill(~valid, self.ignore_index)

    def __call__(self, output: Any, target: Any, valid: Any = None) -> WeightedLoss:
        """Loss of one micro-batch.

        Args:
            output: output of the model, in float32.
            target: the target, already masked (see ``mask``).
            valid: mask or weight for a loss that takes one.

        Raises:
            ConfigError: the loss is not a scalar.
        """
        if self._takes_tensor:
            output = prediction_of(output)
        if self._split_mean and not target.is_floating_point():
            return self._sum_and_count(output, target)
        has_any = True if self._counts_itself else self._has_any(target, valid)
        if has_any is False:
            return WeightedLoss(_zero_over(output), 0.0, is_mean=False, full_weight=_num_elements(target))
        if isinstance(has_any, Tensor):
            return self._unless_empty(has_any, output, target, valid)
        return self._call(output, target, valid)

    def _call(self, output: Any, target: Any, valid: Any) -> WeightedLoss:
        if self._takes_valid and valid is not None:
            answer = self.loss_fn(output, target, valid)
        else:
            answer = self.loss_fn(output, target)
        if isinstance(answer, tuple):
            total, weight = answer
            return WeightedLoss(_scalar(total), weight, is_mean=False, full_weight=_num_elements(target))
        samples = _num_samples(output, target)
        return WeightedLoss(_scalar(answer), samples, is_mean=True, full_weight=samples)

    def _has_any(self, target: Any, valid: Any) -> bool | Tensor:
        """Tell whether anything in ``target`` is valid: known here on the CPU, a 0-dim tensor on a device."""
        labelled = None
        if not isinstance(target, Tensor) and self.ignore_index is not None:
            parts = [_differs(part, self).any() for part in _tensors_in(target)]
            labelled = torch.stack(parts).any() if parts else None
        elif self.ignore_index is not None:
            if target.is_cpu and valid is None and target.numel() and _differs(target[(0,) * target.ndim], self):
                return True  # one look instead of a count, for most batches
            labelled = _differs(target, self)
        if self._takes_valid and isinstance(valid, Tensor):
            given = valid != 0
            same = labelled is not None and labelled.shape == given.shape
            labelled = given if labelled is None else labelled & given if same else labelled.any() & given.any()
        if labelled is None:
            return True
        return bool(labelled.any()) if labelled.is_cpu else labelled.any()

    def _unless_empty(self, has_any: Tensor, output: Any, target: Any, valid: Any) -> WeightedLoss:
        """The loss where ``has_any``, else zero with a zero gradient; decided on the device.

        A loss over nothing may be NaN, and so may its derivative, by which a zero would be multiplied. Hence where
        nothing is valid the loss is given a target in which all is, and its gradient is replaced by zeros.
        """
        if self.ignore_index is not None:
            target = _filled(target, has_any, 1 if self.ignore_index == 0 else 0)
        if isinstance(valid, Tensor):
            valid = torch.where(has_any, valid, torch.ones_like(valid))
        loss = self._call(_gated(output, has_any), target, valid)
        value = torch.where(has_any, loss.value, torch.zeros_like(loss.value))
        weight = loss.weight
        if not isinstance(weight, Tensor):  # filled on the device: a copy from the host would wait
            weight = torch.full((), float(weight), device=has_any.device)
        return loss._replace(value=value, weight=torch.where(has_any, weight, torch.zeros_like(weight)))

    def _sum_and_count(self, output: Tensor, target: Tensor) -> WeightedLoss:
        """Torch's mean over valid elements, together with how many they are (or weigh)."""
        loss = self.loss_fn
        weight: Tensor | float
        if target.device.type == "cpu":  # reading the weight waits for nothing
            mean, weight = self._mean_and_weight(output, target)
            if weight > 0:
                return WeightedLoss(mean, weight, is_mean=True, full_weight=target.numel())
        else:
            weight = self._weight(target)
        # The mean over nothing is NaN, and so would be its gradient; the sum over nothing is 0.
        arguments = {"weight": loss.weight, "ignore_index": loss.ignore_index, "reduction": "sum"}
        if isinstance(loss, nn.CrossEntropyLoss):
            total = F.cross_entropy(output, target, label_smoothing=loss.label_smoothing, **arguments)
        else:
            total = F.nll_loss(output, target, **arguments)
        return WeightedLoss(total, weight, is_mean=False, full_weight=target.numel())

    def _mean_and_weight(self, output: Tensor, target: Tensor) -> tuple[Tensor, float]:
        """Torch's mean, and what it was divided by: for most outputs the kernel that computes one tells the other.

        Counting again would take two more operations in each step, as long as all else that the loop adds.
        """
        loss = self.loss_fn
        kernel = _NLL_KERNELS.get(output.ndim) if output.dtype == torch.float32 else None
        is_cross_entropy = isinstance(loss, nn.CrossEntropyLoss)
        fits = target.shape == output.shape[:1] + output.shape[2:]  # else the module says what is wrong
        if kernel is None or not fits or (is_cross_entropy and loss.label_smoothing):
            return loss(output, target), float(self._weight(target))
        log_probability = F.log_softmax(output, 1) if is_cross_entropy else output
        mean, weight = kernel(log_probability, target, loss.weight, _MEAN, loss.ignore_index)
        return mean, weight.item()

    def _weight(self, target: Tensor) -> Tensor:
        """Number of valid labels, or the sum of their class weights; on a device without waiting for it."""
        labelled: Tensor = target != self.loss_fn.ignore_index
        class_weights: Tensor | None = self.loss_fn.weight
        if class_weights is None:
            return labelled.sum()
        return (class_weights[target.where(labelled, 0)] * labelled).sum()


class _Gate(torch.autograd.Function):
    """The identity, whose gradient is zero where ``is_open`` is false, NaN or not."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, is_open: Tensor) -> Tensor:
        ctx.save_for_backward(is_open)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, None]:
        (is_open,) = ctx.saved_tensors
        return torch.where(is_open, gradients[0], torch.zeros_like(gradients[0])), None


class _Zero(torch.autograd.Function):
    """Zero, as a function of tensors whose values do not matter: their gradients are zero, never NaN."""

    @staticmethod
    def forward(ctx: Any, *tensors: Tensor) -> Tensor:
        ctx.like = [(tensor.shape, tensor.dtype, tensor.device) for tensor in tensors]
        return torch.zeros((), device=tensors[0].device)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, ...]:
        return tuple(torch.zeros(shape, dtype=dtype, device=device) for shape, dtype, device in ctx.like)


def _gated(output: Any, is_open: Tensor) -> Any:
    """``output``, through whose tensors a gradient passes where ``is_open``; plain dicts, lists and tuples too."""
    if isinstance(output, Tensor):
        return _Gate.apply(output, is_open) if output.requires_grad else output
    if type(output) is dict:
        return {key: _gated(each, is_open) for key, each in output.items()}
    if type(output) in (list, tuple):
        return type(output)(_gated(each, is_open) for each in output)
    return output


def _zero_over(output: Any) -> Tensor:
    """Zero, from which a backward pass reaches all that made ``output``, as DistributedDataParallel needs it."""
    tensors = [tensor for tensor in _tensors_in(output) if tensor.requires_grad]
    zero: Tensor = _Zero.apply(*tensors) if tensors else torch.zeros((), requires_grad=torch.is_grad_enabled())
    return zero


def _filled(target: Any, is_kept: Tensor, value: int) -> Any:
    """``target`` where ``is_kept``, else ``value`` everywhere; plain dicts, lists and tuples too."""
    if isinstance(target, Tensor):
        return torch.where(is_kept, target, torch.full_like(target, value))
    if type(target) is dict:
        return {key: _filled(each, is_kept, value) for key, each in target.items()}
    if type(target) in (list, tuple):
        return type(target)(_filled(each, is_kept, value) for each in target)
    return target


def _tensors_in(parts: Any) -> Iterator[Tensor]:
    """The tensors of an output or a target."""
    if isinstance(parts, Tensor):
        yield parts
        return
    parts = parts.values() if isinstance(parts, Mapping) else parts if isinstance(parts, list | tuple) else ()
    for part in parts:
        yield from _tensors_in(part)


def _differs(target: Tensor, objective: Objective) -> Tensor:
    """Mask of labels in ``target``: NaN as ``ignore_index`` equals NaN."""
    ignored = objective.ignore_index
    assert ignored is not None
    return ~target.isnan() if math.isnan(ignored) else target != ignored


def _num_elements(target: Any) -> float:
    return float(target.numel()) if isinstance(target, Tensor) else float(len(target))


def _num_samples(output: Any, target: Any) -> float:
    """Samples of the batch: a target of several parts has as many as the output."""
    if not isinstance(target, Tensor):
        for part in _tensors_in(output):
            if part.ndim:
                return float(len(part))
    return float(len(target))


def _scalar(value: Any) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim != 0:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ConfigError("loss_fn", shape, "return a 0-dim tensor (a mean), or a tuple (sum, weight)")
    return value


def _takes_tensor(loss_fn: LossFn) -> bool:
    """Tell whether ``loss_fn`` is of a library whose losses take a tensor, whatever the model wraps it in."""
    home = getattr(loss_fn, "__module__", None) if inspect.isroutine(loss_fn) else type(loss_fn).__module__
    return any(home == package or str(home).startswith(f"{package}.") for package in _TAKE_TENSORS)


def _takes_three(loss_fn: LossFn) -> bool:
    """Tell whether ``loss_fn`` has a third positional parameter (a module's ``forward`` is looked at)."""
    try:
        parameters = inspect.signature(
            loss_fn.forward if isinstance(loss_fn, nn.Module) else loss_fn
        ).parameters.values()
    except (TypeError, ValueError):
        return False
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [p.name for p in parameters if p.kind in positional and p.name != "self"]
    return len(names) >= 3 and names[2] in {"valid", "mask", "weight", "weights", "sample_weight"}


def __getattr__(name: str) -> Any:
    return former_name(__name__, name)

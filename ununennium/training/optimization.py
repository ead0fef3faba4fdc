"""One optimizer step over a window of micro-batches: the true mean, scaling, the finite check, the clip."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ununennium.errors import ConfigError, NonFiniteError
from ununennium.training import distributed
from ununennium.training.objective import WeightedLoss
from ununennium.training.precision import Precision

logger = logging.getLogger(__name__)

_UNLABELLED = (
    "; if a batch may be without labels, give Trainer(ignore_index=...), or a loss that has an attribute ignore_index"
)


class StepResult(NamedTuple):
    """Result of an accumulation window.

    Attributes:
        ran: whether the optimizer stepped.
        is_empty: whether nothing was valid in the window, on any rank.
        norm: the gradient's global L2 norm: of the true (normalised, unscaled) gradient, before the clip.
    """

    ran: bool
    is_empty: bool
    norm: float


class Window:
    """Gathers the gradients of a window of micro-batches and makes one optimizer step of them.

    The gradient is that of the loss over the union of the window's valid elements, over all ranks: sums are
    back-propagated, and divided once, late, by the weight of the whole window. Where one micro-batch of one process
    is the window, its weight is known before the backward pass and divides the loss instead: to the bit what a plain
    loop computes.

    Args:
        optimizer: steps over the parameters.
        precision: holds the gradient scaler, if any.
        gradient_clip: max L2 norm; None for no clipping.
        accumulation_steps: micro-batches per window.
        device: device of the parameters.
        strangers: parameters of the optimizer that the model does not have, such as a loss's: nobody else shares their
            gradients among ranks.

    Raises:
        ConfigError: fp16 with parameters that are divided over ranks, or one group of divided and whole parameters.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        gradient_clip: float | None,
        accumulation_steps: int,
        device: torch.device,
        strangers: Sequence[nn.Parameter] = (),
    ) -> None:
        self._optimizer = optimizer
        self._strangers = list(strangers)
        self._scaler = precision.scaler
        self._clip = gradient_clip
        self._device = device
        self._world_size = distributed.world_size()
        self._is_single = accumulation_steps == 1 and self._world_size == 1
        groups = [group["params"] for group in optimizer.param_groups]
        self._parameters = list(dict.fromkeys(itertools.chain.from_iterable(groups)))
        if any(len(set(map(distributed.is_divided, group))) > 1 for group in groups):
            remedy = "fully_shard divides the model's parameters; put those of the loss into a group of their own"
            raise ConfigError("optimizer.param_groups", "divided and whole parameters in one group", remedy)
        if self._scaler is not None and any(map(distributed.is_divided, self._parameters)):
            remedy = "each rank would find other overflows in its part of the gradient; use 'bf16' with fully_shard"
            raise ConfigError("mixed_precision", "fp16", remedy)
        self._nominal_weight = 1.0
        self._weight: float | Tensor = 0.0

    def backward(self, loss: WeightedLoss) -> None:
        """Back-propagate one micro-batch."""
        value, weight, is_mean, full_weight = loss
        if self._is_single:
            if not is_mean:
                value = value / _or_one(weight)
        else:
            if is_mean:
                value = value * weight
            if self._scaler is not None:
                value = value / self._nominal(full_weight)
        if self._scaler is not None:
            value = self._scaler.scale(value)
        value.backward()  # type: ignore[no-untyped-call]
        self._weight = self._weight + weight

    def step(self) -> StepResult:
        """Normalise, unscale, check, clip, step, update, zero (correctness 12); or skip, on all ranks alike."""
        used = self._share_strangers()
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        weight, self._weight = self._weight, 0.0
        if not self._is_single:
            weight = self._normalise(gradients, weight)
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        norm = _total_norm(gradients)
        # The one place per step where the host waits for the device:
        norm_value, weight_value, *used_values = _read(distributed.whole(norm), weight, used)
        for parameter, was_used in zip(self._strangers, used_values, strict=False):
            if not was_used:
                parameter.grad = None
        is_empty = weight_value == 0.0
        ran = not is_empty and math.isfinite(norm_value)
        if ran:
            if self._clip is not None:
                _clip(self._parameters, self._clip, norm)
            if self._scaler is not None:
                self._scaler.step(self._optimizer)
            else:
                self._optimizer.step()
        if self._scaler is not None:
            self._scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        return StepResult(ran, is_empty, norm_value)

    def discard(self) -> None:
        """Forget the gradients of an unfinished window."""
        self._weight = 0.0
        self._optimizer.zero_grad(set_to_none=True)

    def _share_strangers(self) -> Tensor | None:
        """Average the gradients of strangers over ranks; returns how many ranks had each, or None if none is shared.

        A rank without a gradient takes part with zeros, so that all ranks step alike.
        """
        if self._world_size == 1 or not self._strangers:
            return None
        used = torch.zeros(len(self._strangers), dtype=torch.float64, device=self._device)
        for position, parameter in enumerate(self._strangers):
            used[position].fill_(parameter.grad is not None)
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.sum_tensor_over_ranks(parameter.grad).div_(self._world_size)
        return distributed.sum_tensor_over_ranks(used)

    def _normalise(self, gradients: list[Tensor], weight: float | Tensor) -> float | Tensor:
        """Divide summed gradients by the window's weight over its micro-batches and ranks; return that weight.

        DistributedDataParallel and FSDP2 have averaged over ranks, hence the world size. Without weight the gradients
        are zero and stay so.
        """
        if self._world_size > 1:
            total = torch.as_tensor(weight, dtype=torch.float64, device=self._device).reshape(()).clone()
            weight = distributed.sum_tensor_over_ranks(total)
        factor = self._world_size * self._nominal_weight / _or_one(weight)
        gradients = [distributed.local(gradient) for gradient in gradients]
        torch._foreach_mul_(gradients, factor if isinstance(factor, float) else factor.float())
        return weight

    def _nominal(self, full_weight: float) -> float:
        """A constant near a micro-batch's weight, without which a scaled sum over it would leave fp16's range.

        It is a power of two, so that dividing by it loses no bit, and a resumed run may choose another.
        """
        if self._nominal_weight == 1.0 and full_weight > 1.0:
            exponent = int(math.log2(full_weight))
            self._nominal_weight = 2.0 ** distributed.max_over_ranks(exponent, self._device)
        return self._nominal_weight


def _or_one(weight: float | Tensor) -> Any:
    """``weight``, but 1 where it is 0: what is divided by it is 0 then, and must not become NaN."""
    if isinstance(weight, Tensor):
        return torch.where(weight > 0, weight, torch.ones_like(weight))
    return weight or 1.0


class Skips:
    """Optimizer steps that were skipped, and how many of them in a row were not finite.

    Args:
        limit: so many non-finite ones in a row are an error.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._in_a_row = 0

    def clear(self) -> None:
        """A step ran."""
        self._in_a_row = 0

    def add(self, result: StepResult, position: str) -> None:
        """Log a step that was skipped at ``place``.

        Raises:
            NonFiniteError: it is one too many.
        """
        self._in_a_row = 0 if result.is_empty else self._in_a_row + 1
        why = f"the gradient's norm is {result.norm}{_UNLABELLED}"
        if result.is_empty:
            why = "no valid pixel in its window"
        logger.warning("%s: optimizer step skipped, %s", position, why)
        if self._in_a_row >= self._limit:
            raise NonFiniteError(
                f"the gradient was not finite in {self._in_a_row} optimizer steps in a row ({position}); lower the "
                "learning rate, look for NaN in the images, or train with mixed_precision='bf16' or False"
            )


def _total_norm(gradients: list[Tensor]) -> Tensor:
    """L2 norm over all gradients; where some are divided over ranks and some are not, of the whole."""
    divided = [gradient for gradient in gradients if distributed.is_divided(gradient)]
    total: Tensor
    if not divided or len(divided) == len(gradients):
        total = nn.utils.get_total_norm(gradients)
        return total
    plain = [gradient for gradient in gradients if not distributed.is_divided(gradient)]
    norms = [distributed.whole(nn.utils.get_total_norm(part)) for part in (divided, plain)]
    total = torch.linalg.vector_norm(torch.stack(norms))
    return total


def _clip(parameters: list[nn.Parameter], limit: float, norm: Tensor) -> None:
    """Scale the gradients to ``limit`` if ``norm`` is larger."""
    if distributed.is_divided(norm) or not any(map(distributed.is_divided, parameters)):
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
        return
    factor = torch.clamp(limit / (norm + 1e-6), max=1.0)
    torch._foreach_mul_([distributed.local(p.grad) for p in parameters if p.grad is not None], factor)


def _read(norm: Tensor, weight: float | Tensor, used: Tensor | None) -> list[float]:
    """All values on the host, with one wait."""
    if isinstance(weight, float) and used is None:
        return [norm.item(), weight]
    weight = torch.as_tensor(weight, dtype=torch.float64, device=norm.device)
    values = [norm.double().reshape(1), weight.reshape(1), *(() if used is None else (used,))]
    read: list[float] = torch.cat(values).tolist()
    return read

"""One optimizer step over a window of micro-batches: the true mean, scaling, the finite check, the clip."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ununennium.errors import ConfigError
from ununennium.training import distributed
from ununennium.training.objective import WeightedLoss
from ununennium.training.precision import Precision


class StepResult(NamedTuple):
    """What became of a window.

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
        device: where the parameters are.

    Raises:
        ConfigError: fp16 with parameters that are divided over ranks.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        precision: Precision,
        gradient_clip: float | None,
        accumulation_steps: int,
        device: torch.device,
    ) -> None:
        self._optimizer = optimizer
        self._scaler = precision.scaler
        self._clip = gradient_clip
        self._device = device
        self._world_size = distributed.world_size()
        self._is_single = accumulation_steps == 1 and self._world_size == 1
        self._parameters = [p for group in optimizer.param_groups for p in group["params"]]
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
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        weight, self._weight = self._weight, 0.0
        if not self._is_single:
            weight = self._normalise(gradients, weight)
        if self._scaler is not None:
            self._scaler.unscale_(self._optimizer)
        norm = nn.utils.get_total_norm(gradients)
        norm_value, weight_value = _read(
            distributed.whole(norm), weight
        )  # the one place per step where the host waits for the device
        is_empty = weight_value == 0.0
        ran = not is_empty and math.isfinite(norm_value)
        if ran:
            if self._clip is not None:
                nn.utils.clip_grads_with_norm_(self._parameters, self._clip, norm)
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


def _read(norm: Tensor, weight: float | Tensor) -> tuple[float, float]:
    """Both values on the host, with one wait."""
    if isinstance(weight, float):
        return norm.item(), weight
    values: list[float] = torch.stack((norm.double(), weight.double())).tolist()
    return values[0], values[1]

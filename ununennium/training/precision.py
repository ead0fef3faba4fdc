"""Mixed precision: which dtype the forward pass uses, and whether gradients need scaling."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ununennium.errors import ConfigError

logger = logging.getLogger(__name__)

_NOTHING: AbstractContextManager[Any] = contextlib.nullcontext()
MixedPrecision = bool | Literal["fp16", "bf16", "no"]


@dataclass(frozen=True)
class Precision:
    """Precision resolved from ``TrainerConfig.mixed_precision`` and the device.

    Attributes:
        name: ``fp32``, ``fp16`` or ``bf16``.
        device_type: ``cpu``, ``cuda`` ...
        scaler: the gradient scaler; for fp16 only, since bf16 has the range of fp32.
    """

    name: Literal["fp32", "fp16", "bf16"]
    device_type: str
    scaler: torch.amp.GradScaler | None = None

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of autocast operations."""
        return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[self.name]

    def autocast(self) -> AbstractContextManager[Any]:
        """The context of every forward pass, in training and in validation alike."""
        if self.name == "fp32":
            return _NOTHING
        return torch.autocast(self.device_type, dtype=self.dtype)


def resolve_precision(mixed_precision: MixedPrecision, device: torch.device) -> Precision:
    """Decide the precision on ``device``.

    ``True`` means fp16 with a gradient scaler on CUDA; elsewhere bf16 where the hardware computes it natively, and
    otherwise fp32 with a warning. A named precision is taken at its word.

    Raises:
        ConfigError: ``mixed_precision`` is none of the known values, or bf16 was named on a GPU without it.
    """
    if mixed_precision is False or mixed_precision == "no":
        return Precision("fp32", device.type)
    if mixed_precision is True:
        if device.type == "cuda":
            return Precision("fp16", "cuda", torch.amp.GradScaler("cuda"))
        if device.type != "cpu" or _cpu_computes_bf16():
            logger.info("mixed precision on %s: bf16", device.type)
            return Precision("bf16", device.type)
        warnings.warn(
            "mixed_precision=True asks for fp16, which needs a CUDA device, and this CPU does not compute bf16 "
            "natively: training in fp32. Pass mixed_precision='bf16' to emulate it, or False to silence this.",
            stacklevel=3,
        )
        return Precision("fp32", "cpu")
    if mixed_precision == "fp16":
        return Precision("fp16", device.type, torch.amp.GradScaler(device.type))
    if mixed_precision == "bf16":
        if device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise ConfigError("mixed_precision", "bf16", "this GPU does not compute bf16; use 'fp16' or True")
        return Precision("bf16", device.type)
    raise ConfigError("mixed_precision", mixed_precision, "choose True, False, 'fp16', 'bf16' or 'no'")


def _cpu_computes_bf16() -> bool:
    """Tell whether bf16 is faster than fp32 here; emulated bf16 is several times slower."""
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # private, hence the careful look-up
    return any(bool(getattr(torch.cpu, probe, lambda: False)()) for probe in probes)


def as_float32(output: Any) -> Any:
    """Half-precision logits in float32, so that loss and metrics lose nothing (correctness 20)."""
    if isinstance(output, Tensor) and output.dtype in (torch.float16, torch.bfloat16):
        return output.float()
    return output


@contextlib.contextmanager
def deterministic_kernels(enabled: bool) -> Iterator[None]:
    """Deterministic kernels only, for as long as the context lasts."""
    if not enabled:
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        torch.backends.cudnn.benchmark = before[1]

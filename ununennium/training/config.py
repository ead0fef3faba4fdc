"""Settings of the training loop."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field, replace

import torch

from ununennium.errors import ConfigError
from ununennium.training import distributed
from ununennium.training.precision import MixedPrecision
from ununennium.training.scheduling import Interval

_warned_devices: set[str] = set()


@dataclass(frozen=True)
class TrainerConfig:
    """Settings of the training loop.

    Args:
        epochs: max training epochs, counted from the very first.
        device: computation device; ``auto`` is CUDA, else MPS if it computes, else the CPU. ``cuda`` under torchrun is
            this rank's GPU; where CUDA is missing, the CPU is used with one warning.
        mixed_precision: ``True`` is fp16 (AMP) on CUDA, and bf16 on a CPU that computes it natively; or name one of
            ``fp16``, ``bf16``, ``no``.
        accumulation_steps: micro-batches per optimizer step.
        gradient_clip: max norm of the gradient; None for no clipping.
        require_device: raise, instead of going on on the CPU, where the device is missing.
        scheduler_interval: when the scheduler advances: ``step``, ``epoch``, or ``auto`` by its kind.
        scheduler_monitor: metric for ReduceLROnPlateau; None is ``val_loss`` (``train_loss`` without validation).
        channels_last: NHWC memory layout for the model and 4-d images.
        compile: compile the model with ``torch.compile``.
        deterministic: deterministic kernels only, while ``fit`` runs.
        seed: seed torch's generators at the start of a fresh ``fit``; None leaves them alone.
        time_limit_s: stop with ``StopReason.TIMED_OUT`` at the next optimizer step after so many seconds.
        max_nonfinite_steps: raise after so many optimizer steps in a row with a non-finite gradient (each is skipped).
        agree_every_steps: optimizer steps between two agreements of several ranks on whether to stop.
        sync_batchnorm: BatchNorm over the batches of all ranks, for a plain model on GPUs.
        fully_shard: divide parameters, gradients and optimizer state over the ranks (FSDP2), for a plain model whose
            training does not fit one device; bf16 or fp32. Checkpoints are as without.

    Raises:
        ConfigError: a value that cannot work.
    """

    epochs: int = 100
    device: str = "cuda"
    mixed_precision: MixedPrecision = True
    accumulation_steps: int = 1
    gradient_clip: float | None = 1.0
    require_device: bool = field(default=False, kw_only=True)
    scheduler_interval: Interval = field(default="auto", kw_only=True)
    scheduler_monitor: str | None = field(default=None, kw_only=True)
    channels_last: bool = field(default=False, kw_only=True)
    compile: bool = field(default=False, kw_only=True)
    deterministic: bool = field(default=False, kw_only=True)
    seed: int | None = field(default=None, kw_only=True)
    time_limit_s: float | None = field(default=None, kw_only=True)
    max_nonfinite_steps: int = field(default=25, kw_only=True)
    agree_every_steps: int = field(default=10, kw_only=True)
    sync_batchnorm: bool = field(default=False, kw_only=True)
    fully_shard: bool = field(default=False, kw_only=True)

    def __post_init__(self) -> None:
        for name in ("epochs", "accumulation_steps", "max_nonfinite_steps", "agree_every_steps"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ConfigError(name, value, "give a whole number >= 1")
        if self.gradient_clip is not None and not self.gradient_clip > 0:
            raise ConfigError("gradient_clip", self.gradient_clip, "give a norm > 0, or None for no clipping")
        if self.time_limit_s is not None and not self.time_limit_s > 0:
            raise ConfigError("time_limit_s", self.time_limit_s, "give seconds > 0, or None for no limit")


def resolve_device(config: TrainerConfig) -> torch.device:
    """The device that this process computes on.

    Raises:
        ConfigError: the name is no device, or it is missing here and ``require_device`` is set.
    """
    if config.device == "auto":
        best = _best_device()
        if best == "cpu" and config.require_device:
            raise ConfigError("device", "auto", "no GPU is usable here, and require_device is set")
        return resolve_device(replace(config, device=best))
    try:
        device = torch.device(config.device)
    except RuntimeError as error:
        remedy = "give 'auto', or a torch device such as 'cuda', 'cuda:1', 'cpu'"
        raise ConfigError("device", config.device, remedy) from error
    if device.type != "cuda":
        return device
    if torch.cuda.is_available():
        index = device.index if device.index is not None else distributed.local_rank()
        if index >= torch.cuda.device_count():
            raise ConfigError("device", config.device, f"index {index}, but there are {torch.cuda.device_count()} GPUs")
        device = torch.device("cuda", index)
        torch.cuda.set_device(device)  # before any other CUDA call, or every rank opens a context on GPU 0
        return device
    if config.require_device:
        raise ConfigError("device", config.device, "no CUDA device is visible, and require_device is set")
    if config.device not in _warned_devices:
        _warned_devices.add(config.device)
        warnings.warn(
            f"device={config.device!r}, but no CUDA device is visible: training on the CPU. Pass device='cpu' to "
            "silence this, or require_device=True to refuse it.",
            stacklevel=4,
        )
    return torch.device("cpu")


def _best_device() -> str:
    """Name of the fastest device that computes here."""
    if torch.cuda.is_available():
        return "cuda"
    try:
        if torch.backends.mps.is_available() and float(torch.ones(1, device="mps")) == 1.0:
            return "mps"
    except RuntimeError:  # it is there, and out of order
        pass
    return "cpu"

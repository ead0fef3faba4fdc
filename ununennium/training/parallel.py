"""How a model is spread over ranks: what is trained, what is validated and saved, and when gradients are shared."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from ununennium.errors import ConfigError
from ununennium.training import distributed
from ununennium.training.config import TrainerConfig


class ParallelModel:
    """The user's model on this rank's device, compiled and in DistributedDataParallel as far as asked and needed.

    Args:
        model: plain, or wrapped already.
        config: settings of the loop.
        device: where this process computes.

    Attributes:
        module: without wrappers; it is saved, and its modes and buffers are looked after.
        training: called in training.
        validation: called in validation: compiled perhaps, but without collectives (correctness 31).
        no_sync: the context of a micro-batch that does not end its window (correctness 8).

    Raises:
        ConfigError: ``sync_batchnorm`` on a device without it, or for a model that is wrapped already.
    """

    def __init__(self, model: nn.Module, config: TrainerConfig, device: torch.device) -> None:
        if config.sync_batchnorm and distributed.world_size() > 1:
            model = _with_synced_batchnorm(model, device)
        self.module = distributed.unwrap(model)
        self.module.to(device)
        if config.channels_last:
            self.module.to(memory_format=torch.channels_last)
        if config.compile:
            model = torch.compile(model)  # type: ignore[assignment]
        distributed.leave_quietly()
        if distributed.world_size() > 1 and distributed.without_ddp(model) is model:
            model = nn.parallel.DistributedDataParallel(model)
        self.training = model
        self.validation = distributed.without_ddp(model)
        self.no_sync: Callable[[], AbstractContextManager[Any]] = getattr(model, "no_sync", contextlib.nullcontext)


def _with_synced_batchnorm(model: nn.Module, device: torch.device) -> nn.Module:
    if device.type == "cpu":
        raise ConfigError(
            "sync_batchnorm", True, "torch computes SyncBatchNorm on accelerators only; leave it off on the CPU"
        )
    if distributed.unwrap(model) is not model:
        raise ConfigError(
            "sync_batchnorm",
            True,
            "the model is wrapped already; give the plain one, or convert it with "
            "torch.nn.SyncBatchNorm.convert_sync_batchnorm before wrapping",
        )
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return converted

"""Distribution of a model over ranks: the module to train, the one to validate and save, and gradient exchange."""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from ununennium.errors import ConfigError
from ununennium.training import distributed
from ununennium.training.config import TrainerConfig


class ParallelModel:
    """The user's model on this rank's device: compiled, and on every rank whole (DDP) or in parts (FSDP2), as asked.

    Args:
        model: plain, or wrapped already.
        optimizer: made over its parameters; where those are put in parts, it is given the parts.
        config: settings of the loop.
        device: device of this process.

    Attributes:
        module: without wrappers; it is saved, and its modes and buffers are looked after.
        training: called in training.
        validation: called in validation: compiled perhaps, but without collectives (correctness 31).
        no_sync: the context of a micro-batch that does not end its window (correctness 8).
        around_validation: the context of all of validation.

    Raises:
        ConfigError: settings that cannot work together, on this device, or for a model that is wrapped already.
    """

    def __init__(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainerConfig, device: torch.device
    ) -> None:
        world_size = distributed.world_size()
        distributed.leave_quietly()
        if config.sync_batchnorm and world_size > 1:
            model = _with_synced_batchnorm(model, device)
        self.module = distributed.unwrap(model)
        self.no_sync: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
        self.around_validation: Callable[[], AbstractContextManager[Any]] = contextlib.nullcontext
        twin = None
        if config.fully_shard and world_size > 1:
            twin = _WholeTwin(model)
            _fully_shard(model, optimizer, config, device)
        else:
            self.module.to(device)
            if config.channels_last:
                self.module.to(memory_format=torch.channels_last)
        if config.compile:
            model = torch.compile(model)  # type: ignore[assignment]
        if distributed.is_fully_sharded(self.module):
            self.no_sync = self._without_reduction
        elif world_size > 1 and distributed.without_ddp(model) is model:
            model = nn.parallel.DistributedDataParallel(model)
        self.training = model
        self.validation = distributed.without_ddp(model)
        if twin is not None:
            self.validation = twin.module
            self.around_validation = functools.partial(twin.filled, self.module)
        if isinstance(model, nn.parallel.DistributedDataParallel):
            self.no_sync = model.no_sync

    @contextlib.contextmanager
    def _without_reduction(self) -> Iterator[None]:
        assert distributed.is_fully_sharded(self.module)
        self.module.set_requires_gradient_sync(False)
        try:
            yield
        finally:
            self.module.set_requires_gradient_sync(True)


class _WholeTwin:
    """The same modules again, without weights but in ``filled``: then with all of them, gathered from all ranks.

    Ranks with other numbers of validation batches need not wait for each other so, and FSDP2, which expects a backward
    pass after each forward pass, never sees validation. Buffers, and so BatchNorm's statistics, are shared.
    """

    def __init__(self, model: nn.Module) -> None:
        shared = {id(tensor): tensor for tensor in [*model.parameters(), *model.buffers()]}
        self.module = copy.deepcopy(model, shared)
        self._empty()

    @contextlib.contextmanager
    def filled(self, live: nn.Module) -> Iterator[None]:
        for mine, its in zip(self.module.modules(), live.modules(), strict=True):
            mine._buffers = its._buffers
            for name, parameter in its._parameters.items():
                if parameter is not None:
                    weights = distributed.whole(parameter.detach())
                    mine._parameters[name] = nn.Parameter(weights, requires_grad=False)
        self.module.eval()
        try:
            yield
        finally:
            self._empty()

    def _empty(self) -> None:
        for module in self.module.modules():
            module._parameters.update(dict.fromkeys(module._parameters))


def _fully_shard(
    model: nn.Module, optimizer: torch.optim.Optimizer, config: TrainerConfig, device: torch.device
) -> None:
    """Divide parameters over the ranks, block by block, and have ``optimizer`` step over this rank's part."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if distributed.unwrap(model) is not model or distributed.is_fully_sharded(model):
        raise ConfigError("fully_shard", True, "the model is wrapped already; give the plain one")
    if optimizer.state:
        raise ConfigError("fully_shard", True, "the optimizer has stepped already; make a new one for this Trainer")
    if config.channels_last:
        raise ConfigError("channels_last", True, "FSDP2 divides contiguous parameters only; leave it off")
    mesh = init_device_mesh(device.type, (distributed.world_size(),))
    whole = list(model.parameters())
    for block in _blocks(model):
        fully_shard(block, mesh=mesh)
    fully_shard(model, mesh=mesh)
    part_of = dict(zip(map(id, whole), model.parameters(), strict=True))
    for group in optimizer.param_groups:
        group["params"] = [part_of.get(id(parameter), parameter) for parameter in group["params"]]


def _blocks(model: nn.Module) -> list[nn.Module]:
    """Modules to gather at once: the children of ``model``, and those of a list of modules, that have parameters."""
    found: list[nn.Module] = []
    for child in model.children():
        found += _blocks(child) if isinstance(child, nn.ModuleList | nn.ModuleDict) else [child]
    return [block for block in dict.fromkeys(found) if any(True for _ in block.parameters())]


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

"""The few collective operations that the loop needs; in one process each is a no-op."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import sys
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

if TYPE_CHECKING:
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.tensor import DTensor

_LEAVE_S = 10.0


def is_distributed() -> bool:
    """Tell whether a process group is up."""
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    """This process's rank; 0 without a process group."""
    return dist.get_rank() if is_distributed() else 0


def world_size() -> int:
    """Number of processes; 1 without a process group."""
    return dist.get_world_size() if is_distributed() else 1


def local_rank() -> int:
    """This process's rank on its machine, as torchrun states it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


@contextlib.contextmanager
def process_group(device: str = "cuda", *, timeout_s: float = 1800.0) -> Iterator[None]:
    """A process group while the block runs, if torchrun started several ranks; also a decorator of a function.

    Args:
        device: device of the ranks: NCCL for ``cuda...`` where there is one, else Gloo.
        timeout_s: seconds after which a collective that waits for another rank raises.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    use_cuda = device.startswith("cuda") and torch.cuda.is_available()
    if use_cuda:
        torch.cuda.set_device(local_rank())
    timeout = timedelta(seconds=timeout_s)
    store, rank, world_size = next(rendezvous("env://", timeout=timeout))
    store.set_timeout(timeout)
    # torchrun keeps its store over restarts: without a prefix a rank may connect to where one listened that is gone.
    store = PrefixStore(f"restart{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    backend = "nccl" if use_cuda else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    try:
        yield
    finally:
        dist.destroy_process_group()


@functools.cache
def leave_quietly() -> None:
    """Have this process wait, when Python ends, until Gloo's threads have nothing left to do.

    A Gloo thread that drops the last reference to a finished collective's tensor after Python has begun to end aborts
    the process (SIGABRT), so that a run that is done counts as failed. It takes a busy machine to be that late.
    """
    if is_distributed() and sys.platform == "linux":
        atexit.register(_wait_for_gloo)


def _wait_for_gloo() -> None:
    deadline, idle = time.monotonic() + _LEAVE_S, 0
    while idle < 3 and time.monotonic() < deadline:
        time.sleep(0.005)  # without the interpreter's lock, for which they may wait
        idle = 0 if any(_is_busy_gloo(task) for task in Path("/proc/self/task").iterdir()) else idle + 1


def _is_busy_gloo(task: Path) -> bool:
    try:
        name, _, rest = (task / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")
    except OSError:  # it has ended
        return False
    return "(pt_gloo" in name and rest.split()[0] != "S"


def sum_over_ranks(values: list[float], device: torch.device) -> list[float]:
    """Element-wise sum of ``values`` over all ranks, in float64; one collective."""
    if not is_distributed():
        return values
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return [float(value) for value in tensor.tolist()]


def sum_tensor_over_ranks(tensor: Tensor) -> Tensor:
    """``tensor``, summed in place over all ranks."""
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def max_over_ranks(value: int, device: torch.device) -> int:
    """The largest ``value`` of any rank: how one rank's wish becomes everyone's decision."""
    if not is_distributed():
        return value
    tensor = torch.tensor(value, dtype=torch.int64, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor.item())


def broadcast(value: Any) -> Any:
    """Rank 0's ``value`` on every rank."""
    if not is_distributed():
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def gather(value: Any) -> list[Any]:
    """Every rank's ``value``, in the order of ranks, on every rank."""
    if not is_distributed():
        return [value]
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_buffers(module: nn.Module) -> None:
    """Make every rank's buffers (BatchNorm statistics) rank 0's, so that all validate the model that is saved."""
    if is_distributed():
        for buffer in module.buffers():
            dist.broadcast(buffer, src=0)


def broadcast_tensor(tensor: Tensor) -> None:
    """Make ``tensor`` rank 0's on every rank, in place."""
    if is_distributed():
        dist.broadcast(tensor.detach(), src=0)


def is_divided(value: Any) -> TypeGuard[DTensor]:
    """Tell whether ``value`` is a tensor divided over ranks.

    Asked without importing DTensor, which takes seconds: whoever made one has imported it.
    """
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(value, module.DTensor)


def is_fully_sharded(module: nn.Module) -> TypeGuard[FSDPModule]:
    """Tell whether ``fully_shard`` has been applied to ``module``; asked without importing it, as in ``is_divided``."""
    fsdp = sys.modules.get("torch.distributed.fsdp")
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def local(tensor: Tensor) -> Tensor:
    """This rank's part of ``tensor``, sharing its memory; the tensor itself if it is not divided."""
    return tensor.to_local() if is_divided(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of ``tensor``, if it is divided over ranks: a collective."""
    return tensor.full_tensor() if is_divided(tensor) else tensor


def divided_like(like: Tensor, tensor: Tensor) -> Tensor:
    """``tensor``, which every rank has, on the device of ``like``, and divided over ranks as that is."""
    if is_divided(like) and not is_divided(tensor):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements)
    return tensor.to(like.device)


def gathered(value: Any) -> Any:
    """``value``, a tree of dicts and lists, with its divided tensors whole: on rank 0, in its memory; None elsewhere.

    Every rank calls it. What is not divided is returned as it is.
    """
    if is_divided(value):
        full = value.full_tensor()
        return full.cpu() if rank() == 0 else None
    if isinstance(value, dict):
        return {key: gathered(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(gathered(each) for each in value)
    return value


def unwrap(module: nn.Module) -> nn.Module:
    """The user's module inside DistributedDataParallel and ``torch.compile`` wrappers."""
    while True:
        inner = getattr(module, "_orig_mod", None)
        if inner is None and isinstance(module, nn.parallel.DistributedDataParallel):
            inner = module.module
        if inner is None:
            return module
        module = inner


def without_ddp(model: nn.Module) -> nn.Module:
    """``model`` without DistributedDataParallel, still compiled if the compiled module is inside the wrapper."""
    inner = getattr(model, "_orig_mod", model)
    return inner.module if isinstance(inner, nn.parallel.DistributedDataParallel) else model

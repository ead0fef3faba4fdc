"""Resource usage of training: chips, memory, hardware."""

from __future__ import annotations

import os
import platform
import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ununennium.training.trainer import Trainer

_KIB = 1024


def cost_of(trainer: Trainer) -> dict[str, Any]:
    """Figures for ``result.json``, of this process.

    Returns:
        ``chips_per_epoch`` (of all ranks; None for a dataset without a length), ``peak_memory_bytes``,
        ``peak_device_memory_bytes`` (None without CUDA) and ``hardware``, with the names of processor and device.
    """
    on_cuda = trainer.device.type == "cuda"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "chips_per_epoch": _num_chips(trainer),
        "peak_memory_bytes": peak if sys.platform == "darwin" else peak * _KIB,  # Linux counts in KiB
        "peak_device_memory_bytes": torch.cuda.max_memory_allocated(trainer.device) if on_cuda else None,
        "hardware": {
            "system": f"{platform.system()} {platform.machine()}",
            "processor": _processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "device": torch.cuda.get_device_name(trainer.device) if on_cuda else str(trainer.device),
        },
    }


def _num_chips(trainer: Trainer) -> int | None:
    try:
        return len(trainer.train_loader.dataset)
    except (AttributeError, TypeError):
        return None


def _processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()

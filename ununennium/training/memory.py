"""Memory of a device, and how much of it this process has used at most."""

from __future__ import annotations

import os
import resource
import sys

import torch

_KIB = 1024


def memory_of(device: torch.device) -> int:
    """Bytes of memory that ``device`` has in all; 0 if unknown."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type != "cpu":
        return 0
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 0


def peak_memory(device: torch.device) -> int:
    """Most bytes that this process has used so far: of the device's memory on CUDA, else of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * _KIB  # Linux counts in KiB


def size_text(size: float) -> str:
    """Bytes for people: ``2.1 GB``."""
    return f"{size / 1e9:,.1f} GB" if size >= 1e8 else f"{size / 1e6:,.1f} MB"

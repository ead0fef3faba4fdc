"""Memory that was freed goes back to the system, where the C library would keep it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache


def return_freed_memory() -> None:
    """Let glibc give back the pages that it holds of freed blocks; elsewhere nothing happens.

    Its heap keeps what lies between blocks that live on: a map of many bands would hold about 50 MB of it. It costs
    milliseconds, see malloc_trim(3).
    """
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        trim: Callable[[int], int] = ctypes.CDLL("libc.so.6").malloc_trim
    except (OSError, AttributeError):  # musl, macOS, Windows
        return None
    return trim

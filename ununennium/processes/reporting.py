"""Error report of a training process, and whether a restart may help."""

from __future__ import annotations

import contextlib
import time
import traceback
from pathlib import Path

import torch.distributed as dist

from ununennium.errors import ConfigError, ProcessLost, UnunenniumError
from ununennium.files import write_json
from ununennium.redaction import redact

_GLOO, _LOADER = "gloo", "DataLoader worker (pid"


def report_error(file: Path, rank: int, error: BaseException) -> None:
    """Write what ended this process where the launcher looks for it."""
    with contextlib.suppress(OSError):  # a full disk must not hide the error itself, which goes to stderr as well
        write_json(
            file,
            {
                "rank": rank,
                "time": time.time(),
                "type": type(error).__name__,
                "message": redact(str(error)),
                "traceback": redact("".join(traceback.format_exception(error))),
                "expected": isinstance(error, UnunenniumError),
                "lost": is_lost(error),
                "setting": _setting(error),
            },
        )


def _setting(error: BaseException) -> dict[str, str] | None:
    """The parts of a ConfigError, so that another process can raise it again."""
    if not isinstance(error, ConfigError):
        return None
    value = str(error)[len(error.field) + 3 :].removesuffix(f": {redact(error.remedy)}")
    return {"field": error.field, "value": value, "remedy": redact(error.remedy)}


def is_lost(error: BaseException) -> bool:
    """Tell whether ``error`` says only that another process is gone: a peer, the rendezvous, or a loader's worker."""
    if isinstance(error, dist.DistError | ProcessLost):
        return True
    # Gloo raises a plain RuntimeError that names its source file; so does a DataLoader whose worker was killed.
    return type(error) is RuntimeError and any(word in str(error) for word in (_GLOO, _LOADER))

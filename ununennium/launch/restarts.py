"""Restarts of training processes by torchrun: which are worth another start."""

from __future__ import annotations

import contextlib
import os

from ununennium.errors import ConfigError
from ununennium.launch.result import rank_error_file, read_errors
from ununennium.processes.errors import read_error
from ununennium.runs.directory import RunDirectory, read_json


def restarts() -> int:
    """Number of times that torchrun has started this process again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def ended_for_good(run: RunDirectory, rank: int) -> int | None:
    """The exit status to repeat if the start before this one ended by what a restart cannot mend; None to go on.

    Only lost processes are worth another try: an exception would come again, and a run that was asked to stop has
    stopped. All ranks decide alike, as each takes back only its own word, and only of a loss.
    """
    if not restarts():
        return None
    if any(not error.lost for error in read_errors(run)):
        return 1
    with contextlib.suppress(ConfigError):
        if read_json(run.result_file)["stop_reason"] == "preempted":
            return 128 + 15
    own = rank_error_file(run, rank)
    if read_error(own) is not None:
        own.unlink(missing_ok=True)
    return None

"""Run one of the library's modules in a process of its own, with one rule for what is lost and what failed.

=====================================================  ===================================================
the worker is killed, or does not end in ``timeout_s``  ``ProcessLost``: nothing is known; a new try may help
it lost a peer, or the storage did not answer           ``ProcessLost``, ``StorageUnavailable``: likewise
it left an error of its own                             that error, with the worker's traceback in its notes
it ended otherwise with another status than 0           ``TrainingError`` with its last lines in its notes
=====================================================  ===================================================
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ununennium.errors import ProcessLost, TrainingError
from ununennium.processes.errors import failed_process
from ununennium.processes.supervise import Outcome, how_it_ended, supervise

_KILLED = tuple(128 + number for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
"""Exit statuses by which a shell or a container says that a signal ended the process."""


class ProcessTimedOut(ProcessLost):
    """A process did not end in the time that it was given."""


def run_worker(
    module: str,
    arguments: Sequence[str | Path],
    *,
    what: str,
    error_file: Path,
    timeout_s: float | None = None,
    grace_s: float = 5.0,
    on_line: Callable[[str], None] = print,
    on_wait: Callable[[], None] | None = None,
) -> Outcome:
    """Run ``python -m module arguments`` to its end; it is ended whatever happens to the caller.

    Args:
        module: with a ``main`` that reports what ends it in ``error_file`` (``failures.report_error``).
        arguments: for the module.
        what: the process in an error message, such as ``evaluation``.
        error_file: an earlier one is removed first.
        timeout_s: deadline in seconds; None waits for ever.
        grace_s: seconds between SIGTERM and SIGKILL.
        on_line: called with each line of output, from a thread.
        on_wait: called in this thread every quarter of a second; what it raises ends the process.

    Raises:
        ProcessLost: it was killed, did not end in time (``ProcessTimedOut``), or lost a connection; try again.
        StorageUnavailable: the storage did not answer it; try again.
        ConfigError: it refused a setting (also a ``TrainingError``).
        TrainingError: it failed otherwise.
        LaunchError: it could not be started.
    """
    error_file.unlink(missing_ok=True)
    tail: list[str] = []

    def on_output(line: str) -> bool:
        tail.append(line)
        del tail[:-20]
        on_line(line)
        return True

    command = [sys.executable, "-m", module, *map(str, arguments)]
    outcome = supervise(command, timeout_s=timeout_s, grace_s=grace_s, on_line=on_output, on_wait=on_wait)
    if outcome.timed_out:
        raise ProcessTimedOut(f"the {what} did not end in {timeout_s:g} s; another try may help")
    if outcome.returncode == 0:
        return outcome
    if outcome.returncode < 0 or (outcome.returncode in _KILLED and not error_file.exists()):
        code = outcome.returncode if outcome.returncode < 0 else 128 - outcome.returncode
        raise ProcessLost(f"the {what} {how_it_ended(code)}; another try may help")
    failure: TrainingError | Exception = failed_process(error_file, what, outcome.returncode)
    if not error_file.exists():
        failure.add_note("Its last lines:\n" + "\n".join(tail))
    raise failure

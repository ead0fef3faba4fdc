"""Programs that run for the time of a test."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path


@contextlib.contextmanager
def running(
    command: Sequence[str],
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    stop_s: float = 30.0,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run ``command`` in ``folder``, and stop it at the end; it takes Ctrl-C even if whoever runs the tests ignores it.

    Args:
        command: the program and its arguments.
        log: takes what it prints, behind what is there.
        environment: all of its environment; this process's if None.
        folder: its working directory; this process's if None.
        stop_s: seconds that it has to end before it is killed.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            env=environment,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(stop_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

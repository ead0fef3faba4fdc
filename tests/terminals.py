"""A program on a terminal of its own, and what that terminal was sent."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import termios
import time
from collections.abc import Sequence
from pathlib import Path

from tests.processes import LONG_S

ROOT = Path(__file__).parents[1]


def on_terminal(command: Sequence[str], folder: Path, *, columns: int = 120) -> tuple[int, str]:
    """Run ``command`` in ``folder`` with standard output and error on a terminal; its exit status, and all of it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("UNUNENNIUM_", "COLUMNS"))}
    environment = {**kept, "PYTHONPATH": f"{ROOT}:{folder}", "TERM": "xterm"}
    outer, inner = pty.openpty()
    fcntl.ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    process = subprocess.Popen(
        command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=inner, stderr=inner
    )
    os.close(inner)
    screen, deadline = b"", time.monotonic() + LONG_S
    try:
        while time.monotonic() < deadline:
            if select.select([outer], [], [], 1.0)[0]:
                try:
                    screen += os.read(outer, 65_536)
                except OSError:  # the last process that had it open has ended
                    break
        return process.wait(30), screen.decode()
    finally:
        process.kill()
        process.wait()
        os.close(outer)

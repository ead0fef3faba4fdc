"""A Prefect server of this process's own, gone with it whatever ends it.

Prefect would start one by itself. That one shares the terminal's process group, so that Ctrl-C stops it before the
flow, which then waits for minutes to tell it so; and it stays for ever if this process is killed.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from ununennium.errors import LaunchError

START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 5.0
_UNUSED_SERVICES = ("SCHEDULER", "LATE_RUNS", "FOREMAN", "PAUSE_EXPIRATIONS", "CANCELLATION_CLEANUP")


class EmbeddedServer:
    """Started when made; ``wait_until_ready`` gives it the time that it needs, so that other work can be done before.

    It is stopped when Python exits, after what Prefect itself still has to send: make it before Prefect is imported.

    Args:
        home: folder of the database and the log.
    """

    def __init__(self, home: Path) -> None:
        self.log = home / "server.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.api_url = f"http://127.0.0.1:{port}/api"
        guard = ["setpriv", "--pdeathsig", "TERM", "--"] if shutil.which("setpriv") else []
        command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        unused = {f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false" for name in _UNUSED_SERVICES}
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                [*guard, *command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, **unused},
                start_new_session=True,
            )
        atexit.register(self.stop)

    def wait_until_ready(self) -> None:
        """Return when it answers.

        Raises:
            LaunchError: it ended, or took longer than ``START_TIMEOUT_S``.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._process.poll() is None and time.monotonic() < deadline:
            with (
                contextlib.suppress(urllib.error.URLError, OSError),
                urllib.request.urlopen(f"{self.api_url}/health", timeout=5) as answer,
            ):
                if answer.status == 200:
                    return
            time.sleep(0.2)
        last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
        raise LaunchError(f"the embedded Prefect server does not start ({self.log}): {' '.join(last)}")

    def stop(self) -> None:
        """Ask it to end, with all that it started, and kill it if it does not."""
        if self._process.poll() is None:
            self._signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._signal(signal.SIGKILL)
                self._process.wait()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

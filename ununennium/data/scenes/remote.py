"""Files on object storage and web servers, read through GDAL's virtual file systems.

Credentials come from the environment as every S3 client reads it (``AWS_ACCESS_KEY_ID``, ``AWS_SECRET_ACCESS_KEY``,
``AWS_PROFILE``, ``AWS_NO_SIGN_REQUEST=YES`` for public buckets), and so does the server's address
(``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``), which GDAL alone knows by another name.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from typing import TypeVar
from urllib.parse import urlsplit

from rasterio.errors import RasterioError

T = TypeVar("T")

_FILE_SYSTEMS = {"s3": "/vsis3/", "gs": "/vsigs/", "az": "/vsiaz/", "abfs": "/vsiadls/"}
_REMOTE = re.compile(r"/vsi(s3|gs|az|adls|curl|oss|swift|webhdfs)(_streaming)?[/?]|^(s3|gs|az|abfs|https?)://")
_PERMANENT = re.compile(
    r"\b(401|403|404)\b|does not exist|no such file|Access ?Denied|NoSuch|signature|InvalidAccessKey|access key id"
    r"|not recognized as|AWS_SECRET_ACCESS_KEY",
    re.IGNORECASE,
)
_NO_CREDENTIALS = re.compile(
    r"AWS_SECRET_ACCESS_KEY|InvalidCredentials|Access ?Denied|signature|InvalidAccessKey|access key id|\b40[13]\b",
    re.IGNORECASE,
)

RETRY_WAITS_S = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each new try of what failed on a server, after GDAL's own two quick ones."""

_OPTIONS: dict[str, str] = {
    # Sidecars (masks, world files, statistics) are asked for by name; the folder, which may be huge, is not listed.
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_HTTP_MULTIPLEX": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "60",
    "GDAL_HTTP_MAX_RETRY": "2",
    "GDAL_HTTP_RETRY_DELAY": "0.2",
    # What a closed file said is forgotten: a failure is not remembered, and a file that changed is read anew.
    "CPL_VSIL_CURL_NON_CACHED": "/vsis3/:/vsigs/:/vsiaz/:/vsicurl/",
}


class RetryCount:
    """Count of this process's retries on remote faults."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = 0

    @property
    def total(self) -> int:
        """New tries since the process began."""
        return self._total

    def add(self) -> None:
        """One more."""
        with self._lock:
            self._total += 1


RETRIES = RetryCount()


def is_remote(path: str) -> bool:
    """Tell whether a path, a URL or the text of a virtual raster leads to a server."""
    return _REMOTE.search(path) is not None


def gdal_path(path: str) -> str:
    """Path that GDAL opens: its own virtual path for a URL, and anything else as it is."""
    scheme, separator, rest = path.partition("://")
    if not separator or path.startswith("<"):
        return path
    if scheme in ("http", "https"):
        return f"/vsicurl/{path}"
    return f"{_FILE_SYSTEMS[scheme]}{rest}" if scheme in _FILE_SYSTEMS else path


def gdal_options() -> dict[str, str]:
    """GDAL's options for remote files; what the user set in the environment is left out, and so stays."""
    options = dict(_OPTIONS)
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        address = urlsplit(endpoint if "://" in endpoint else f"https://{endpoint}")
        options["AWS_S3_ENDPOINT"] = address.netloc + address.path.rstrip("/")
        options["AWS_HTTPS"] = "NO" if address.scheme == "http" else "YES"
        options["AWS_VIRTUAL_HOSTING"] = "FALSE"
    return {name: value for name, value in options.items() if name not in os.environ}


def with_retries(path: str, act: Callable[[], T], again: Callable[[], None] | None = None) -> T:
    """Result of ``act``; on a remote fault that may pass it is done again, after ``RETRY_WAITS_S``.

    Args:
        path: path to read; local files are not tried again.
        act: opens or reads it.
        again: called before each new try, such as to close a handle.
    """
    waits = RETRY_WAITS_S if is_remote(path) else ()
    for wait in waits:
        try:
            return act()
        except (RasterioError, OSError) as error:
            if _PERMANENT.search(str(error)):
                raise
            time.sleep(wait)
            RETRIES.add()
            if again is not None:
                again()
    return act()


def remedy(path: str, error: Exception) -> str:
    """Remedy for a file that cannot be opened."""
    if "/vsis3/" in gdal_path(path) and _NO_CREDENTIALS.search(str(error)):
        return (
            "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (or AWS_PROFILE) to credentials that may read it, or "
            "AWS_NO_SIGN_REQUEST=YES for a public bucket; AWS_ENDPOINT_URL_S3 where the server is not Amazon's"
        )
    return "check the path and the file"

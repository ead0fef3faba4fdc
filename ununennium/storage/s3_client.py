"""Set-up of s3fs: as it comes, it can wait for ever, remembers listings for ever, and takes 1 GB for one upload."""

from __future__ import annotations

import functools
import math
import os
from typing import Any

from ununennium.errors import ConfigError
from ununennium.storage.base import CHUNK_BYTES

PUT_OPTIONS = {"chunksize": CHUNK_BYTES, "max_concurrency": 2}
"""Two parts in memory at a time; not slower than s3fs's own ten of 50 MB."""

ATTEMPTS = 2
"""Tries of one request by botocore; as often again by s3fs, which also tries bodies again that broke off."""

REQUEST_TIMEOUT = "UNUNENNIUM_REQUEST_TIMEOUT_S"
_REQUEST_TIMEOUT_S = 60.0
_CONNECT_TIMEOUT_S = 5.0


def request_timeout_s() -> float:
    """Seconds that one request may take in all; enough for a part of 8 MiB at 140 kB/s.

    Raises:
        ConfigError: ``UNUNENNIUM_REQUEST_TIMEOUT_S`` is no positive number.
    """
    text = os.environ.get(REQUEST_TIMEOUT) or str(_REQUEST_TIMEOUT_S)
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds < math.inf:
        raise ConfigError(REQUEST_TIMEOUT, text, "give the seconds that one request to storage may take, such as 60")
    return seconds


def s3_options() -> dict[str, Any]:
    """Arguments for ``s3fs.S3FileSystem`` with which every request ends within ``request_timeout_s``.

    Raises:
        ImportError: s3fs is not installed.
        ConfigError: ``UNUNENNIUM_REQUEST_TIMEOUT_S`` is no positive number.
    """
    seconds = request_timeout_s()
    return {
        "config_kwargs": {
            "connect_timeout": min(_CONNECT_TIMEOUT_S, seconds),
            "read_timeout": min(30.0, seconds),
            "retries": {"total_max_attempts": ATTEMPTS, "mode": "standard"},
            "http_session_cls": _bounded_session(seconds),
        }
    }


@functools.cache
def _bounded_session(seconds: float) -> Any:
    """aiobotocore's HTTP session, with a bound on the whole of a request.

    botocore asks the server to say ``100 Continue`` before it sends a body, and aiohttp waits for that, as for the
    sending itself, without any timer: a server that accepts the connection and says nothing holds it for ever.
    """
    import aiohttp
    from aiobotocore.httpsession import AIOHTTPSession

    class BoundedSession(AIOHTTPSession):  # type: ignore[misc]
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            given: Any = vars(self)["_timeout"]  # private: test_s3 has a black hole that notices if it is gone
            self._timeout = aiohttp.ClientTimeout(
                total=seconds, sock_connect=given.sock_connect, sock_read=given.sock_read
            )

    return BoundedSession

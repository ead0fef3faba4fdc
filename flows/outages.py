"""Requests to Prefect's server that wait while it, or its database, is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

import httpx
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

Log = logging.Logger | logging.LoggerAdapter[logging.Logger]
Answer = TypeVar("Answer")

RETRY_S = 5.0
WAIT_S = 24 * 3600.0
"""Longest wait for the server in seconds; then the run fails, and what it trained stays in the storage."""
REQUEST_S = 10.0
_AWAY = (500, 502, 503, 504)


def is_away(error: BaseException) -> bool:
    """Tell whether ``error`` says that the server, or its database, does not answer at the moment."""
    if isinstance(error, PrefectHTTPStatusError):
        return error.response.status_code in _AWAY
    return isinstance(error, httpx.TransportError)


def answered(call: Callable[[], Answer], log: Log, *, wait_s: float = WAIT_S) -> Answer:
    """Answer of the server to ``call``, tried every ``RETRY_S`` while the server is away.

    Args:
        call: sends one request, without an effect if it fails.
        log: gets one warning per outage.
        wait_s: seconds after which the error is raised.

    Raises:
        httpx.TransportError: the server was away for longer.
        PrefectHTTPStatusError: likewise, or it refused the request.
    """
    deadline = time.monotonic() + wait_s
    warned = False
    while True:
        try:
            with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
                found = call()
        except Exception as error:
            if not is_away(error) or time.monotonic() > deadline:
                raise
            if not warned:
                log.warning("Prefect's server is away; waiting for it with the run's result: %r", error)
            warned = True
            time.sleep(RETRY_S)
        else:
            if warned:
                log.info("Prefect's server is back")
            return found


def wait_for_server(log: Log) -> None:
    """Return when the server and its database answer: an event that is emitted before would be lost."""

    def ready() -> None:
        with get_client(sync_client=True, httpx_settings={"timeout": REQUEST_S}) as client:
            client.request("GET", "/ready").raise_for_status()

    answered(ready, log)

"""Slot of a deployment's concurrency limit, kept through an outage of Prefect's server; its loss ends no run.

Prefect's engine renews a run's lease every 225 s, tries three times within seconds, and then ends the run. No setting
forbids it (``raise_on_lease_renewal_failure=True`` in ``prefect.flow_engine``), so its context manager is replaced.
"""

from __future__ import annotations

import contextlib
import contextvars
import logging
import threading
from collections.abc import Callable, Iterator
from uuid import UUID

from prefect import flow_engine
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.outages import Log

LEASE_S = 300.0
RENEWAL_S = 45.0
"""Seconds between renewals: a server that is away for four minutes finds the lease still valid."""
RETRY_S = 5.0
REQUEST_S = 10.0
_GONE = 410


def keep_slots_through_outages() -> None:
    """Make Prefect's engine use ``maintain_lease`` in this process."""
    flow_engine.maintain_concurrency_lease = maintain_lease  # type: ignore[attr-defined]


@contextlib.contextmanager
def maintain_lease(
    lease_id: UUID,
    lease_duration: float = LEASE_S,
    raise_on_lease_renewal_failure: bool = False,
    suppress_warnings: bool = False,
) -> Iterator[None]:
    """Renew a lease in a thread; the signature is that of ``prefect.concurrency._leases.maintain_concurrency_lease``.

    Args:
        lease_id: lease of the flow run.
        lease_duration: ignored, ``LEASE_S`` is used.
        raise_on_lease_renewal_failure: ignored, nothing is raised.
        suppress_warnings: ignored, an outage and a loss give one warning each.
    """
    over = threading.Event()
    context = contextvars.copy_context()  # with the settings, such as the server's address, and the run's logger

    def follow() -> None:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            _renew(lease_id, over.wait, _logger())

    thread = threading.Thread(target=context.run, args=(follow,), name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(2.0)


def _renew(lease_id: UUID, wait: Callable[[float], bool], log: Log) -> None:
    away = False
    delay_s = 0.0
    while not wait(delay_s):
        try:
            with get_client(sync_client=True, httpx_settings={"timeout": REQUEST_S}) as client:
                client.renew_concurrency_lease(lease_id=lease_id, lease_duration=LEASE_S)
        except Exception as error:
            if isinstance(error, PrefectHTTPStatusError) and error.response.status_code == _GONE:
                log.warning("the run has lost its slot of the deployment's limit; it continues beside later runs")
                return
            if not away:
                log.warning("Prefect's server does not renew the run's slot; the run continues: %r", error)
            away, delay_s = True, RETRY_S
        else:
            if away:
                log.info("Prefect's server renews the run's slot again")
            away, delay_s = False, RENEWAL_S


def _logger() -> Log:
    try:
        return get_run_logger()
    except Exception:  # outside of a run's context
        return logging.getLogger(__name__)

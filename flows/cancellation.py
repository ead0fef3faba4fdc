"""Cancellation of a flow run that no worker carries out: the run asks the server itself.

Prefect leaves it to the worker that started a run to end its process. If that worker is gone, the run would train on,
and be ``Cancelled`` in name alone after five minutes.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterator
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import get_client
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.outages import REQUEST_S, Log

ASK_S = 10.0
"""Seconds between questions; each is a request of a few hundred bytes."""


class RunCancelled(BaseException):
    """Somebody cancelled the flow run; no ``Exception``, so that nothing takes it for a failure and tries again."""


class CancellationWatch:
    """Answer of the server to whether the flow run was cancelled; ``check`` is what stages call while they wait."""

    def __init__(self) -> None:
        self.cancelled = threading.Event()

    def check(self) -> None:
        """Raise if the run was cancelled; costs nothing.

        Raises:
            RunCancelled: it was.
        """
        if self.cancelled.is_set():
            raise RunCancelled("The run was cancelled, and ended itself")


@contextlib.contextmanager
def watched(log: Log) -> Iterator[CancellationWatch]:
    """Watch of the current flow run, asked for in a thread every ``ASK_S``; an outage is waited for.

    Args:
        log: told that the run was cancelled.
    """
    watch, over = CancellationWatch(), threading.Event()
    flow_run_id = runtime.flow_run.id

    def follow() -> None:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
            while not over.wait(ASK_S):
                with contextlib.suppress(Exception):  # the server is away: nobody can cancel anything there either
                    if _is_cancelled(UUID(flow_run_id)):
                        log.warning("the run was cancelled: it ends now")
                        watch.cancelled.set()
                        return

    if flow_run_id:
        # The context has the settings, such as the server's address; a plain thread would not have them.
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(follow,), name="cancellation", daemon=True).start()
    try:
        yield watch
    finally:
        over.set()


def _is_cancelled(flow_run_id: UUID) -> bool:
    with get_client(sync_client=True, httpx_settings={"timeout": REQUEST_S}) as client:
        state = client.read_flow_run(flow_run_id).state
    return state is not None and (state.is_cancelling() or state.is_cancelled())

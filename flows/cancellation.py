"""Cancellation of a flow run that no worker carries out: the run asks the server itself.

Prefect leaves it to the worker that started a run to end its process. If that worker is gone, the run would train on,
and be ``Cancelled`` in name alone after five minutes.
"""

from __future__ import annotations

import contextlib
import contextvars
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.objects import State, StateType
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Running

from flows.outages import REQUEST_S, Log

NO_HEARTBEAT = "No heartbeat came from the run"
"""Message of the automation ``crash-silent-runs``, which an outage of the server makes fire, too."""
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
                    if _look(UUID(flow_run_id), log):
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


def _look(flow_run_id: UUID, log: Log) -> bool:
    """Tell whether the run was cancelled; mark it as running if the server only missed its heartbeats."""
    with get_client(sync_client=True, httpx_settings={"timeout": REQUEST_S}) as client:
        state = client.read_flow_run(flow_run_id).state
        if state is None or not (state.is_crashed() and state.message == NO_HEARTBEAT):
            return state is not None and (state.is_cancelling() or state.is_cancelled())
        if was_cancelled(client, flow_run_id):
            return True
        running: State[Any] = Running(message="The run is alive; the server had missed its heartbeats")
        client.set_flow_run_state(flow_run_id, running, force=True)
    log.warning("the server missed the heartbeats of the run, which is alive and marked as running again")
    return False


def was_cancelled(client: SyncPrefectClient, flow_run_id: UUID) -> bool:
    """Tell whether somebody cancelled the run, whatever was reported of it later."""
    states = client.read_flow_run_states(flow_run_id)
    return any(state.type in (StateType.CANCELLING, StateType.CANCELLED) for state in states)

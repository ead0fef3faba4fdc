"""Resume crashed flow runs: once each, a few times at most, and never one that somebody cancelled.

Two flows do so. ``resume`` follows the event of a crash at once. Prefect tells of a crash up to three times: the
runner, the worker and the automation that misses its heartbeat each do. ``sweep`` looks every minute for crashed runs
without a successor: events are late or lost after a restart of the server, and the limit of a deployment may have had
no slot. The new run's idempotency key makes one run of all of them.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterEndTime,
    FlowRunFilterIdempotencyKey,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import ConcurrencyLimitStrategy, FlowRun, StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Scheduled

from flows.cancellation import ASK_S, NO_HEARTBEAT, was_cancelled
from flows.outages import Log

_TRY = re.compile(r"^resumed-(\d+)$")
SETTLE_S = 2.5 * ASK_S
"""Seconds for which a run that only lacks heartbeats is not resumed."""
_ATTEMPTS = 50
"""Most new runs for one crash, of which each but the last found no slot."""


@flow(name="resume")
def resume(flow_run_id: str, max_times: int = 3) -> str | None:
    """Start a crashed flow run again with its own parameters; training resumes from its newest checkpoint.

    Args:
        flow_run_id: the flow run that crashed.
        max_times: a run that was started again so often, and crashed each time, is left alone: something kills it.

    Returns:
        The id of the new flow run, or None if none was made.
    """
    log = get_run_logger()
    with get_client(sync_client=True) as client:
        crashed = client.read_flow_run(UUID(flow_run_id))
        if not _is_settled(crashed):
            time.sleep(SETTLE_S)
            crashed = client.read_flow_run(crashed.id)
        return resume_run(client, crashed, log, max_times=max_times)


@flow(name="sweep")
def sweep(flow_name: str = "retrain", max_times: int = 3, within_hours: float = 72.0) -> list[str]:
    """Resume each crashed run of a flow that has no successor.

    Args:
        flow_name: flow whose runs are resumed.
        max_times: as in ``resume``.
        within_hours: runs that crashed longer ago are left alone.

    Returns:
        The ids of the new flow runs.
    """
    with get_client(sync_client=True) as client:
        return resume_crashed(client, get_run_logger(), flow_name, max_times=max_times, within_hours=within_hours)


def resume_crashed(
    client: SyncPrefectClient, log: Log, flow_name: str = "retrain", *, max_times: int = 3, within_hours: float = 72.0
) -> list[str]:
    """Resume crashed runs as ``sweep`` does, with its arguments and result."""
    since = datetime.now(UTC) - timedelta(hours=within_hours)
    crashed = client.read_flow_runs(
        flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.CRASHED])),
            end_time=FlowRunFilterEndTime(after_=since),  # type: ignore[arg-type]
        ),
    )
    found = [resume_run(client, run, log, max_times=max_times) for run in crashed if _is_settled(run)]
    return [each for each in found if each is not None]


def resume_run(client: SyncPrefectClient, crashed: FlowRun, log: Log, *, max_times: int) -> str | None:
    """Make the successor of a crashed run, unless it has one, was cancelled, or there is no slot for it.

    Args:
        client: of the server.
        crashed: the flow run.
        log: told what is done, or why nothing is.
        max_times: successors in a row.

    Returns:
        The id of the successor; None if none was made.
    """
    if crashed.deployment_id is None:
        log.warning("flow run %s is of no deployment: start it again where it was started", crashed.name)
        return None
    if crashed.state_type != StateType.CRASHED:
        log.info("flow run %s has not crashed: it is %s", crashed.name, crashed.state_name)
        return None
    if was_cancelled(client, crashed.id):
        client.set_flow_run_state(
            crashed.id, Cancelled(message="Cancelled; that it crashed was told later"), force=True
        )
        log.warning("flow run %s was cancelled before it crashed: it stays cancelled", crashed.name)
        return None
    times = max([int(match[1]) for tag in crashed.tags if (match := _TRY.match(tag))], default=0)
    if times >= max_times:
        log.error("flow run %s crashed %d times and is left alone; see why its process ends", crashed.name, times + 1)
        return None
    attempt, successor = _successor(client, crashed.id)
    if successor is not None:
        log.info("flow run %s has been resumed by %s", crashed.name, successor.name)
        return None
    if (limit := _limit_without_slot(client, crashed.deployment_id)) is not None:
        log.warning(
            "flow run %s waits: the limit of its deployment (%d) is reached; the sweep tries again each minute",
            crashed.name,
            limit,
        )
        return None
    again = client.create_flow_run_from_deployment(
        crashed.deployment_id,
        parameters={**crashed.parameters, "continues": str(crashed.id)},
        state=Scheduled(message=f"Resumes {crashed.name}, which crashed" + (", again" if attempt else "")),
        tags=[*(tag for tag in crashed.tags if not _TRY.match(tag)), f"resumed-{times + 1}"],
        idempotency_key=_key(crashed.id, attempt),
    )
    log.info("flow run %s resumes %s", again.name, crashed.name)
    return str(again.id)


def _is_settled(crashed: FlowRun) -> bool:
    """Tell whether a run has had the time to deny that it crashed (``flows.cancellation``)."""
    state = crashed.state
    if state is None or state.message != NO_HEARTBEAT:
        return True
    return datetime.now(UTC) - state.timestamp > timedelta(seconds=SETTLE_S)


def _key(flow_run_id: UUID, attempt: int) -> str:
    return f"resume-{flow_run_id}" + (f"-{attempt}" if attempt else "")


def _successor(client: SyncPrefectClient, flow_run_id: UUID) -> tuple[int, FlowRun | None]:
    """Number of attempts that found no slot, and the run that resumes ``flow_run_id``, if there is one."""
    keys = [_key(flow_run_id, attempt) for attempt in range(_ATTEMPTS)]
    found = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(idempotency_key=FlowRunFilterIdempotencyKey(any_=keys)), limit=_ATTEMPTS
    )
    by_key: dict[Any, FlowRun] = {run.idempotency_key: run for run in found}
    for attempt, key in enumerate(keys):
        run = by_key.get(key)
        if run is None or not _found_no_slot(client, run):
            return attempt, run
    return _ATTEMPTS - 1, by_key[keys[-1]]


def _found_no_slot(client: SyncPrefectClient, run: FlowRun) -> bool:
    """Tell whether the limit of the deployment cancelled ``run``, and no person did: it never began."""
    if run.state_type != StateType.CANCELLED or run.run_count > 0:
        return False
    return "concurrency limit" in ((run.state.message if run.state else None) or "").lower()


def _limit_without_slot(client: SyncPrefectClient, deployment_id: UUID) -> int | None:
    """Limit of a deployment that cancels runs beyond it, if no slot is free now; else None."""
    try:
        deployment = client.read_deployment(deployment_id)
    except ObjectNotFound:
        return None
    limit, options = deployment.global_concurrency_limit, deployment.concurrency_options
    if limit is None or options is None or options.collision_strategy != ConcurrencyLimitStrategy.CANCEL_NEW:
        return None
    return limit.limit if limit.active_slots >= limit.limit else None

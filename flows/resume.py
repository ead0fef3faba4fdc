"""Start a crashed flow run again, once, and not for ever.

Prefect tells of a crash up to three times: the runner, the worker and the automation that misses its heartbeat each do.
The new run's idempotency key makes one of them all.
"""

from __future__ import annotations

import re

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.states import Scheduled

_TRY = re.compile(r"^resumed-(\d+)$")


@flow(name="resume")
def resume(flow_run_id: str, max_times: int = 3) -> str | None:
    """Start what crashed again, with its own parameters; training goes on from its newest checkpoint.

    Args:
        flow_run_id: the flow run that crashed.
        max_times: a run that was started again so often, and crashed each time, is left alone: something kills it.

    Returns:
        The id of the new flow run, or None if there is none.
    """
    log = get_run_logger()
    with get_client(sync_client=True) as client:
        crashed = client.read_flow_run(flow_run_id)  # type: ignore[arg-type]
        if crashed.deployment_id is None:
            log.warning("flow run %s is of no deployment: start it again where it was started", crashed.name)
            return None
        if crashed.state_type is None or crashed.state_type.value != "CRASHED":
            log.info("flow run %s has not crashed: it is %s", crashed.name, crashed.state_name)
            return None
        times = max([int(match[1]) for tag in crashed.tags if (match := _TRY.match(tag))], default=0)
        if times >= max_times:
            log.error(
                "flow run %s has crashed %d times: it is left alone; see why its process ends", crashed.name, times + 1
            )
            return None
        again = client.create_flow_run_from_deployment(
            crashed.deployment_id,
            parameters={**crashed.parameters, "continues": str(crashed.id)},
            state=Scheduled(message=f"Goes on with {crashed.name}, which crashed"),
            tags=[*(tag for tag in crashed.tags if not _TRY.match(tag)), f"resumed-{times + 1}"],
            idempotency_key=f"resume-{crashed.id}",
        )
    log.info("flow run %s goes on with %s", again.name, crashed.name)
    return str(again.id)

"""What the flows' events have in common."""

from __future__ import annotations

from prefect import runtime


def related() -> list[dict[str, str]]:
    """The flow run that emits, so that its page shows the event."""
    flow_run_id = runtime.flow_run.id
    if flow_run_id is None:
        return []
    return [{"prefect.resource.id": f"prefect.flow-run.{flow_run_id}", "prefect.resource.role": "flow-run"}]

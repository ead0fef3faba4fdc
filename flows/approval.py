"""Ask a person in Prefect whether a model may become the champion, and tell a flow run that waits what they said.

The flow run is suspended meanwhile: its process is gone, and a worker starts it again when somebody resumes it, in
Prefect's UI, by its API, or by ``ununennium promote``, which settles the run and then wakes its flow run: ``wake`` is
registered for it in the entry point group ``ununennium.commands``.
"""

from __future__ import annotations

from typing import Any

from prefect import runtime, suspend_flow_run
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.input import RunInput
from pydantic import Field

from ununennium.pipeline import approval
from ununennium.pipeline.approval import Answer
from ununennium.runs.directory import RunDirectory


class Approval(RunInput):
    """Fields of Prefect's form when the flow run is resumed."""

    approve: bool = Field(description="Whether the model may replace the champion.")
    by: str = Field(default="", description="Who says so.")
    reason: str = Field(default="", description="Why.")


def suspended_before() -> bool:
    """Tell whether this flow run was suspended, and somebody has resumed it."""
    context = FlowRunContext.get()
    policy = None if context is None or context.flow_run is None else context.flow_run.empirical_policy
    return bool(policy and policy.pause_keys)


def can_wait() -> bool:
    """Tell whether Prefect can start this flow run again: only one of a deployment can be suspended."""
    return runtime.deployment.id is not None


def ask(run: RunDirectory, reason: str) -> Answer:
    """Suspend this flow run until somebody answers; what they said, in the process that goes on.

    Args:
        run: a run that waits for a person.
        reason: why it may be promoted, for the form.
    """
    question = approval.record_of(run)
    number = 1 if question is None else question.round
    answer = suspend_flow_run(
        wait_for_input=Approval.with_initial_data(description=f"**{run.run_id}** {reason}"),
        timeout=run.config().gate.approval_timeout_s,
        # Of this question: the answer to an earlier one, before another champion came, is no answer to it.
        key=f"round-{number}",
    )
    return Answer(answer.approve, answer.by, answer.reason)


def wake(flow_run_id: str, answer: dict[str, Any]) -> str:
    """Resume a suspended flow run with an answer; in words what came of it."""
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(flow_run_id)  # type: ignore[arg-type]
        if flow_run.state is None or not flow_run.state.is_paused():
            return f"flow run {flow_run.name} is not suspended: it is {flow_run.state_name}"
        said = client.resume_flow_run(flow_run.id, run_input=answer)
        if said.status.value != "ACCEPT":
            return f"flow run {flow_run.name} cannot be resumed: {getattr(said.details, 'reason', said.status.value)}"
    return f"flow run {flow_run.name} goes on"

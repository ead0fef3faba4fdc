"""The flows' own events: their names, what they carry, and how they are emitted.

``flows/schemas`` holds a JSON schema of each one's payload: what chains, alerts and other systems may rely on.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jsonschema
from prefect import runtime
from prefect.events import emit_event

SCHEMAS = Path(__file__).parent / "schemas"

FINISHED = "ununennium.training.finished"
EARLY_STOPPED = "ununennium.training.early_stopped"
PROMOTED = "ununennium.checkpoint.promoted"
"""Chains hang on this event: a final state with a name of its own no longer emits ``prefect.flow-run.Completed``."""
ROLLED_BACK = "ununennium.checkpoint.rolled_back"
DEGRADED = "ununennium.champion.degraded"
ARRIVED = "ununennium.data.arrived"
MADE = "ununennium.map.made"

logger = logging.getLogger(__name__)


def schema(event: str) -> dict[str, Any]:
    """The JSON schema of an event's payload."""
    found: dict[str, Any] = json.loads((SCHEMAS / f"{event}.json").read_text(encoding="utf-8"))
    return found


def emit(event: str, *, resource: tuple[str, str], payload: Mapping[str, Any]) -> None:
    """Emit one of the flows' own events.

    A payload that is not what its schema says is a mistake of ours. It is logged as an error, and emitted all the same:
    what has happened has happened, and a chain must not break at it.

    Args:
        event: its name, one of those above.
        resource: subject of the event: id, such as ``ununennium.model.roads``, and name.
        payload: as ``flows/schemas`` describes it.
    """
    content = json.loads(json.dumps(payload))
    for error in jsonschema.Draft202012Validator(schema(event)).iter_errors(content):
        logger.error("the payload of %s is not what its schema says: %s", event, error.message)
    identifier, name = resource
    emit_event(
        event,
        resource={"prefect.resource.id": identifier, "prefect.resource.name": name},
        related=related(),
        payload=content,
    )


def related() -> list[dict[str, str]]:
    """The flow run that emits, so that its page shows the event."""
    flow_run_id = runtime.flow_run.id
    if flow_run_id is None:
        return []
    return [{"prefect.resource.id": f"prefect.flow-run.{flow_run_id}", "prefect.resource.role": "flow-run"}]

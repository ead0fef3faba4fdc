"""Make an earlier model champion again, and tell: the maps follow by themselves.

``ununennium registry rollback`` does the same without Prefect, and so without an event.
"""

from __future__ import annotations

from typing import Any

from prefect import State, flow, get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from flows import lineage
from flows.events import ROLLED_BACK, emit
from ununennium import pipeline
from ununennium.checkpoints.registry import Registry
from ununennium.errors import ConfigError
from ununennium.storage.open import resolve_storage


@flow(name="rollback")
def rollback(model: str, to_generation: int | None = None, reason: str = "", storage: str = "storage") -> State[Any]:
    """Make the version of an earlier generation the champion, as a new generation.

    Args:
        model: its name.
        to_generation: the generation to restore; if not given, the one before the present champion's own.
        reason: why, in words, for the record.
        storage: storage of the registry.

    Returns:
        ``Completed``, with what is champion now as its data.
    """
    restored = restore(model, to_generation, reason, storage)
    return Completed(message=restored["message"], data=restored)


@task(cache_policy=NO_CACHE)
def restore(model: str, to_generation: int | None, reason: str, storage: str) -> dict[str, Any]:
    """Write the record, and emit the event."""
    root = resolve_storage(storage)
    registry = Registry(root, model)
    before = registry.current()
    if before is None:
        raise ConfigError("model", model, f"has no champion in {root}; 'ununennium registry list' shows who has")
    record = registry.rollback(
        actor=f"flow run {runtime.flow_run.name}",
        to_generation=to_generation,
        expected_generation=before.generation,
        reason=reason,
        flow_run_id=str(runtime.flow_run.id or ""),
    )
    champion = pipeline.champion_summary(root, model, record)
    payload = {"restored_from": record.restored_from, "replaced": before.version, "reason": reason, "storage": root}
    emit(ROLLED_BACK, resource=(f"ununennium.model.{model}", model), payload={**champion.to_json(), **payload})
    lineage.of_version(model, champion)
    message = (
        f"generation {record.generation} of {model} is version {record.version} again, of generation "
        f"{record.restored_from}; it was {before.version}"
    )
    get_run_logger().info("%s", message)
    return {**champion.to_json(), **payload, "message": message}

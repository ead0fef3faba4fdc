"""Look whether there are other data, and say so once: what a retraining on new data waits for.

``deployments/prefect.yaml`` looks every hour. Whoever delivers data can emit the event instead::

    prefect event emit ununennium.data.arrived --resource-id ununennium.data.NAME --payload '{"model": "NAME"}'
"""

from __future__ import annotations

from typing import Any

from prefect import State, flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from flows.events import ARRIVED, emit
from flows.logs import passed_on
from ununennium.config import RunConfig, apply_overrides
from ununennium.pipeline import arrivals

_MOST_NAMED = 50


@flow(name="watch")
def watch(config: RunConfig, settle_minutes: float = 10.0, overrides: list[str] | None = None) -> State[Any]:
    """Look at the catalogue, and tell if it shows other data than at the last look.

    Args:
        config: run configuration: its ``data`` is the catalogue; its ``name`` is the model's.
        settle_minutes: files that were changed more recently are still being delivered: they are told of by a later
            look.
        overrides: changes to the configuration, such as ``data.catalog.folder=s3://bucket/labels``.

    Returns:
        ``Completed(name="Arrived")`` if there are other data, ``Completed(name="Settling")`` if they are still being
        delivered, else ``Completed``.
    """
    if overrides:
        config = RunConfig.parse(apply_overrides(config.model_dump(mode="json"), overrides), source="overrides")
    found = look(config)
    if not found.is_new:
        return Completed(message=f"{len(found.scenes)} scene(s), all as they were", data=found.fingerprint)
    if found.newest_s is not None and found.newest_s < 60 * settle_minutes:
        message = f"{_in_words(found)}; the newest file is {found.newest_s / 60:.1f} min old: still being delivered"
        return Completed(name="Settling", message=message, data=found.fingerprint)
    tell(found)
    return Completed(name="Arrived", message=_in_words(found), data=found.fingerprint)


@task(cache_policy=NO_CACHE)
def look(config: RunConfig) -> arrivals.Arrival:
    """Compare the catalogue with what the last look found."""
    log = get_run_logger()
    found = arrivals.check_for_new_data(config, on_line=passed_on(log))
    log.info("%s", _in_words(found) if found.is_new else "all is as it was")
    if found.is_first and not found.is_new:
        found.remember()
    return found


@task(cache_policy=NO_CACHE)
def tell(found: arrivals.Arrival) -> None:
    """Emit the event, and remember what was told of; in this order: told twice is better than never."""
    emit(
        ARRIVED,
        resource=(f"ununennium.data.{found.model}", found.model),
        payload={
            "model": found.model,
            "fingerprint": found.fingerprint,
            "previous": found.previous,
            "scenes": len(found.scenes),
            "added": found.added[:_MOST_NAMED],
            "changed": found.changed[:_MOST_NAMED],
            "removed": found.removed[:_MOST_NAMED],
            "storage": found.storage,
        },
    )
    found.remember()


def _in_words(found: arrivals.Arrival) -> str:
    parts = [f"{len(names)} {what}" for what in ("added", "changed", "removed") if (names := getattr(found, what))]
    return f"{len(found.scenes)} scene(s): {', '.join(parts)}"

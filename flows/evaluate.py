"""Watch over the champion: measure it on the labels as they are now, and say so when it has become worse.

``deployments/prefect.yaml`` does it every week; the event starts a retraining there.
"""

from __future__ import annotations

from typing import Any

from prefect import State, flow, get_run_logger, runtime, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from flows.events import DEGRADED, emit
from flows.leases import keep_slots_through_outages
from flows.logs import passed_on
from ununennium.config import RunConfig, apply_overrides
from ununennium.errors import ProcessLost, StorageUnavailable
from ununennium.files import finite
from ununennium.pipeline import drift
from ununennium.storage.open import resolve_storage

_MOST_CHECKS = 20

keep_slots_through_outages()


@flow(name="evaluate")
def evaluate(config: RunConfig, tolerance: float = 0.02, overrides: list[str] | None = None) -> State[Any]:
    """Measure the champion, keep what comes out, tell.

    Args:
        config: the data, the split and the metric (``gate.metric``); its ``name`` is the model's.
        tolerance: how much worse than when it was trained is still all right, in the metric's own unit.
        overrides: changes to the configuration, such as ``gate.metric=F1.road``.

    Returns:
        ``Completed``, or ``Completed(name="Degraded")`` if the champion is worse than that, with the record as its
        data.
    """
    if overrides:
        config = RunConfig.parse(apply_overrides(config.model_dump(mode="json"), overrides), source="overrides")
    found = measure(config, tolerance)
    publish(config, found)
    if found.degraded:
        return Completed(name="Degraded", message=found.reason, data=found.to_json())
    return Completed(message=found.reason, data=found.to_json())


def _was_lost(task: Any, task_run: Any, state: State[Any]) -> bool:
    try:
        state.result()
    except (ProcessLost, StorageUnavailable):
        return True
    except BaseException:
        return False
    return False


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5, retry_condition_fn=_was_lost)
def measure(config: RunConfig, tolerance: float) -> drift.Drift:
    """Index the data as they are now, and evaluate the champion on the holdout, in a process of its own."""
    log = get_run_logger()
    actor = f"flow run {runtime.flow_run.name}"
    found = drift.check_champion(config, tolerance=tolerance, actor=actor, on_line=passed_on(log))
    (log.warning if found.degraded else log.info)("generation %d: %s", found.generation, found.reason)
    return found


@task(cache_policy=NO_CACHE)
def publish(config: RunConfig, found: drift.Drift) -> None:
    """The event, if there is something to tell, and a table of the last checks."""
    storage = resolve_storage(config.storage)
    if found.degraded:
        shown = ("model", "generation", "version", "metric", "value", "baseline", "tolerance", "reason", "data_changed")
        payload = {name: getattr(found, name) for name in shown}
        emit(
            DEGRADED,
            resource=(f"ununennium.model.{found.model}", found.model),
            payload=finite({**payload, "record": found.url, "storage": storage}),
        )
    rows = [_row(check) for check in drift.drift_history(storage, found.model)[:_MOST_CHECKS]]
    key = f"{found.model.replace('_', '-')}-drift"
    create_table_artifact(table=rows, key=key, description=f"Generation {found.generation}: {found.reason}")


def _row(check: drift.Drift) -> dict[str, Any]:
    return {
        "checked": check.checked[:16].replace("T", " "),
        "generation": check.generation,
        "metric": check.metric,
        "now": "not measured" if check.value is None else f"{check.value:.4f}",
        "when trained": "not measured" if check.baseline is None else f"{check.baseline:.4f}",
        "labelled": check.num_pixels,
        "new data": "yes" if check.data_changed else "no",
        "degraded": "yes" if check.degraded else "no",
    }

"""Map scenes with the champion: by hand, on a schedule, or when another model has been promoted.

``deployments/prefect.yaml`` has a deployment for each. This process never imports torch: the maps are made in a process
of their own.
"""

from __future__ import annotations

from typing import Any

from prefect import State, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed

from flows import lineage
from flows.events import MADE, emit
from flows.logs import passed_on
from ununennium import mapping, report
from ununennium.checkpoints.registry import Registry
from ununennium.checkpoints.storage import open_storage
from ununennium.config.maps import MapsConfig
from ununennium.errors import ProcessLost

_MOST_PICTURES = 3


@flow(name="predict")
def predict(config: MapsConfig, version: str | None = None) -> State[Any]:
    """Find the scenes, map what is not mapped yet, tell.

    Args:
        config: which scenes, which model, and where the maps go.
        version: this version of the model; the champion at the start of the run if not given.

    Returns:
        ``Completed``, with a row per scene as its data; ``Failed`` if a scene failed: the others are mapped, and a
        second run makes only what is missing.
    """
    job = find(config, version)
    mapped = make(job, config.timeout_s)
    publish(mapped)
    if not mapped.failures:
        return Completed(
            message=f"{len(job.scenes)} scene(s) are mapped with version {job.version}", data=mapped.rows()
        )
    name, why = next(iter(mapped.failures.items()))
    made = len(job.scenes) - len(mapped.failures)
    message = f"{len(mapped.failures)} of {len(job.scenes)} scene(s) failed, such as {name}: {why}; {made} are mapped"
    return Failed(message=message, data=mapped.rows())


@task(cache_policy=NO_CACHE)
def find(config: MapsConfig, version: str | None) -> mapping.MapJob:
    """Decide which model maps what."""
    job = mapping.make_job(config, version)
    who = "an earlier version" if job.generation is None else f"generation {job.generation}"
    get_run_logger().info(
        "%d scene(s) into %s with %s, version %s (%s)", len(job.scenes), job.output, job.model, job.version, who
    )
    return job


def _was_lost(task: Any, task_run: Any, state: State[Any]) -> bool:
    try:
        state.result()
    except ProcessLost:
        return True
    except BaseException:
        return False
    return False


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5, retry_condition_fn=_was_lost)
def make(job: mapping.MapJob, timeout_s: float | None) -> mapping.Mapped:
    """Make the maps. Called directly, never submitted: a cancellation must reach the thread that waits."""
    log = get_run_logger()
    return mapping.run_job(job, timeout_s=timeout_s, on_line=passed_on(log))


@task(cache_policy=NO_CACHE)
def publish(mapped: mapping.Mapped) -> None:
    """An event for each new map, a table of all, and the first pictures."""
    job = mapped.job
    for name, item in mapped.items.items():
        if name in mapped.reused:
            continue
        url = f"{job.output}/{name}"
        emit(
            MADE,
            resource=(f"ununennium.map.{job.model}.{name}", name),
            payload={"url": url, "item": f"{url}/{mapping.ITEM}", "model": job.model, "version": job.version,
                     "areas": item["properties"]["ununennium:areas"]},
        )  # fmt: skip
        version = lineage.key(Registry(job.storage, job.model).version_url(job.version))
        lineage.made(lineage.key(url), name, of=[version], metadata={"model": job.model, "version": job.version})
    key = job.model.replace("_", "-")
    create_table_artifact(
        table=mapped.rows(), key=f"{key}-maps", description=f"Maps in {job.output}, with version {job.version}"
    )
    pages = [f"# Maps by {job.model}", f"version `{job.version}`, in `{job.output}`"]
    for name in list(mapped.items)[:_MOST_PICTURES]:
        pages += [f"## {name}", _picture(job, name)]
    create_markdown_artifact(markdown="\n\n".join(pages), key=f"{key}-map-pictures")


def _picture(job: mapping.MapJob, name: str) -> str:
    place = f"{name}/quicklook.png"
    return report.data_uri(open_storage(job.output).read_bytes(place), name, f"{job.output}/{place}")

"""Map scenes with the champion: by hand, on a schedule, or when another model has been promoted.

``deployments/prefect.yaml`` has a deployment for each. This process never imports torch: the maps are made in a process
of their own, one after the other or, with ``fan_out``, many at once on Dask.
"""

from __future__ import annotations

from typing import Any

from prefect import State, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed, Failed

from flows import lineage
from flows.events import MADE, emit
from flows.fan_out import make_all
from flows.leases import keep_slots_through_outages
from ununennium import report
from ununennium.checkpoints.registry import Registry
from ununennium.config.maps import MapsConfig
from ununennium.inference import jobs as mapping
from ununennium.storage.open import open_storage

_MOST_PICTURES = 3

keep_slots_through_outages()


@flow(name="predict")
def predict(config: MapsConfig, version: str | None = None) -> State[Any]:
    """Find the scenes, map what is not mapped yet, tell.

    Args:
        config: scenes, model, and folder of the maps.
        version: this version of the model; the champion at the start of the run if not given.

    Returns:
        ``Completed``, with a row per scene as its data; ``Failed`` if a scene failed: the others are mapped, and a
        second run makes only what is missing.
    """
    job = find(config, version)
    mapped = make_all(job, config.fan_out, config.timeout_s)
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


@task(cache_policy=NO_CACHE)
def publish(mapped: mapping.JobResult) -> None:
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
        item = mapped.items[name]
        pages += [f"## {name}", _picture(job, name, item, "quicklook"), *_change(job, name, item)]
    create_markdown_artifact(markdown="\n\n".join(pages), key=f"{key}-map-pictures")


def _change(job: mapping.MapJob, name: str, item: dict[str, Any]) -> list[str]:
    """What changed since the last map, as a table and a picture; nothing if there was none."""
    change = item["properties"].get("ununennium:change")
    if change is None:
        return []
    lines = [f"{change['share']:.1%} changed since `{change['since']}`", ""]
    lines += ["| class | gained | lost |", "| --- | ---: | ---: |"]
    for each, about in change["classes"].items():
        lines.append(f"| {each} | {_area(about['gained'])} | {_area(about['lost'])} |")
    return ["\n".join(lines), _picture(job, name, item, "change_picture")]


def _area(about: dict[str, Any]) -> str:
    return f"{about['pixels']:,} px" if about["area_m2"] is None else f"{about['area_m2'] / 1e4:,.2f} ha"


def _picture(job: mapping.MapJob, name: str, item: dict[str, Any], asset: str) -> str:
    """A picture of a map, if it has that asset."""
    if asset not in item["assets"]:
        return ""
    place = f"{name}/{item['assets'][asset]['href'].removeprefix('./')}"
    return report.data_uri(open_storage(job.output).read_bytes(place), name, f"{job.output}/{place}")

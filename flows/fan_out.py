"""Scenes one after the other in a process, or many at once on Dask: a task for each few of them, with tries of its own.

The process of the flow, and Dask's workers, only wait for a process that has the model. A scene that fails stops no
other, and whatever is asked for twice is made once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from prefect import State, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from flows.logs import passed_on
from ununennium.config.maps import FanOutConfig
from ununennium.errors import ConfigError, ProcessLost, StorageUnavailable
from ununennium.importing import import_object
from ununennium.inference import jobs as mapping

Submit = Callable[[mapping.MapJob], Any]


def _another_try_may_help(task: Any, task_run: Any, state: State[Any]) -> bool:
    """A process that was killed, or storage that did not answer; never a scene that does not fit."""
    try:
        state.result()
    except (ProcessLost, StorageUnavailable, mapping.ScenesFailed):
        return True
    except BaseException:
        return False
    return False


@task(cache_policy=NO_CACHE, retry_condition_fn=_another_try_may_help)
def make(job: mapping.MapJob, ends_at: float | None) -> mapping.JobResult:
    """Make the maps of a job that are not there yet.

    Raises:
        ScenesFailed: some failed that another try may mend.
    """
    log = get_run_logger()
    timeout_s = None if ends_at is None else max(ends_at - time.time(), 0.1)
    mapped = mapping.run_job(job, timeout_s=timeout_s, on_line=passed_on(log))
    if mapped.transient:
        raise mapping.ScenesFailed(mapped)
    return mapped


def make_all(job: mapping.MapJob, settings: FanOutConfig, timeout_s: float | None) -> mapping.JobResult:
    """Make the maps of a job, as ``settings`` says.

    Raises:
        ProcessLost: without Dask, the process was killed once more than it is tried again.
    """
    ends_at = None if timeout_s is None else time.time() + timeout_s
    patient = make.with_options(retries=settings.retries, retry_delay_seconds=settings.retry_delay_s)
    if not settings.on_dask:
        try:  # called, never submitted: a cancellation must reach the thread that waits
            return patient(job, ends_at)
        except mapping.ScenesFailed as error:
            return error.mapped
    known, missing = mapping.split_known(job)
    if not missing:
        return mapping.JobResult(job, known, sorted(known), {})
    groups = [
        replace(job, scenes=missing[first : first + settings.scenes_per_task])
        for first in range(0, len(missing), settings.scenes_per_task)
    ]
    parts = [mapping.JobResult(job, known, sorted(known), {})]
    with _on_dask(patient, settings, ends_at) as submit:
        futures = [(group, submit(group)) for group in groups]
        for group, future in futures:
            future.wait()
            parts.append(_part(group, future.state))
    return mapping.join_results(job, parts)


def _part(group: mapping.MapJob, state: State[Any]) -> mapping.JobResult:
    """What came of a task."""
    try:
        mapped: mapping.JobResult = state.result()
    except mapping.ScenesFailed as error:
        return error.mapped
    except Exception as error:
        names = [scene.name for scene in group.scenes]
        made = {name: item for name in names if (item := group.item(name)) is not None}
        made = {name: item for name, item in made.items() if item["properties"]["ununennium:version"] == group.version}
        lost = {name: f"{type(error).__name__}: {error}" for name in names if name not in made}
        return mapping.JobResult(group, made, [], lost)
    return mapped


@contextmanager
def _on_dask(patient: Any, settings: FanOutConfig, ends_at: float | None) -> Iterator[Submit]:
    """What submits a job as a task; the cluster ends with the block, unless it was there before."""
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError as error:
        remedy = "needs prefect-dask: pip install 'ununennium-eo[dask]'"
        raise ConfigError("fan_out.workers", settings.workers, remedy) from error
    options: dict[str, Any] = {"address": settings.address}
    if settings.cluster is not None:
        kwargs = dict(settings.cluster_kwargs)
        options = {"cluster_class": import_object(settings.cluster, field="fan_out.cluster"), "cluster_kwargs": kwargs}
    elif settings.address is None:
        options = {
            "cluster_class": "distributed.LocalCluster",
            "cluster_kwargs": {
                "n_workers": settings.workers,
                "threads_per_worker": 1,
                "processes": not settings.threads,
                "dashboard_address": None,
                "memory_limit": 0,  # what needs memory is the process with the model, which Dask does not see
            },
        }
    with DaskTaskRunner(**options) as runner:
        yield lambda job: runner.submit(patient, parameters={"job": job, "ends_at": ends_at})

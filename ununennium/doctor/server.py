"""Prefect's server: does it answer, make the runs that schedules ask for, and have workers that take them?"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from ununennium.doctor.api import Api, NoAnswer
from ununennium.doctor.clock import look_at_clock
from ununennium.doctor.finding import Finding

_YOUNG_S = 180.0
"""The scheduler looks every minute, by default."""
_ZOMBIES = "crash-silent-runs"
_PAGE = 200


def look_at_server(api: Api | None) -> Iterator[Finding]:
    """Findings about the Prefect server; nothing is changed.

    Args:
        api: the server; None if no setting names one.
    """
    if api is None:
        remedy = "set PREFECT_API_URL, if there is one: . .ununennium/stack/env after make stack"
        yield Finding("server", "note", "no server is named: flows start one of their own", remedy)
        return
    asked = time.time()
    try:
        headers = api.headers("/health")
        version = str(api.get("/admin/version"))
    except NoAnswer as error:
        yield Finding("server", "problem", str(error), error.remedy)
        return
    yield from _version(api.url, version)
    yield from look_at_clock(f"Prefect's server ({api.url})", headers.get("Date"), asked)
    try:
        deployments = _all(api, "/deployments/filter")
        pools = {pool["name"]: pool for pool in _all(api, "/work_pools/filter")}
        yield from _schedules(api, deployments)
        yield from _pools(api, deployments, pools)
        yield from _automations(api)
    except NoAnswer as error:
        yield Finding("server", "problem", str(error), error.remedy)


def _version(url: str, version: str) -> Iterator[Finding]:
    try:
        ours = importlib.metadata.version("prefect")
    except importlib.metadata.PackageNotFoundError:
        yield Finding("server", "ok", f"{url} answers: Prefect {version}")
        return
    if version.split(".")[:2] == ours.split(".")[:2]:
        yield Finding("server", "ok", f"{url} answers: Prefect {version}")
        return
    remedy = "install the same on both, the server first"
    yield Finding("server", "warning", f"{url} is Prefect {version}, and here is {ours}", remedy)


def _schedules(api: Api, deployments: list[dict[str, Any]]) -> Iterator[Finding]:
    """Does each deployment with an active schedule have a run to come?"""
    active = [
        each for each in deployments if not each["paused"] and any(one["active"] for one in each.get("schedules") or [])
    ]
    if not active:
        says = "no deployment has an active schedule" if deployments else "there are no deployments"
        remedy = "prefect deploy --all --prefect-file deployments/prefect.yaml"
        yield Finding("schedules", "note", says, "" if deployments else remedy)
        return
    now = datetime.now(UTC)
    idle: list[str] = []
    young: list[str] = []
    for deployment in active:
        asked = {
            "deployments": {"id": {"any_": [deployment["id"]]}},
            "flow_runs": {"expected_start_time": {"after_": now.isoformat()}},
            "limit": 1,
        }
        if api.post("/flow_runs/filter", asked):
            continue
        since = max(str(one["updated"]) for one in deployment["schedules"] if one["active"])
        age_s = (now - datetime.fromisoformat(since.replace("Z", "+00:00"))).total_seconds()
        (young if age_s < _YOUNG_S else idle).append(str(deployment["name"]))
    if idle:
        remedy = (
            "see the server's log for errors of its scheduler; is `prefect server services start` running, and is "
            "sqlalchemy below 2.1 there (docs/dependencies.md)?"
        )
        says = f"no run is to come of {', '.join(idle)}: the scheduler makes none"
        yield Finding("schedules", "problem", says, remedy)
    if young:
        says = f"no run is to come of {', '.join(young)} yet, deployed less than {_YOUNG_S / 60:.0f} minutes ago"
        yield Finding("schedules", "note", says, "ask again in some minutes")
    if not idle and not young:
        yield Finding("schedules", "ok", f"each of {len(active)} deployment(s) with a schedule has a run to come")


def _pools(api: Api, deployments: list[dict[str, Any]], pools: dict[str, dict[str, Any]]) -> Iterator[Finding]:
    """Does every work pool that a deployment uses have a worker, and does nothing wait in vain?"""
    used = sorted({str(each["work_pool_name"]) for each in deployments if each.get("work_pool_name")})
    for name in used:
        if pools[name]["is_paused"]:
            yield Finding("workers", "problem", f"the work pool {name} is paused", f"prefect work-pool resume {name}")
            continue
        workers = api.post(f"/work_pools/{name}/workers/filter", {})
        online = [worker["name"] for worker in workers if worker["status"] == "ONLINE"]
        if online:
            yield Finding("workers", "ok", f"{len(online)} of the work pool {name}: {', '.join(online)}")
            continue
        gone = f"; {len(workers)} are known, and none has been heard of lately" if workers else ""
        remedy = f"prefect worker start --pool {name}"
        yield Finding("workers", "problem", f"the work pool {name} has none{gone}: its runs wait for ever", remedy)
    late = api.post("/flow_runs/filter", {"flow_runs": {"state": {"name": {"any_": ["Late"]}}}, "limit": _PAGE})
    if late:
        names = ", ".join(run["name"] for run in late[:3])
        remedy = (
            "start a worker, or see what holds the limit: prefect work-pool ls, prefect flow-run ls --state RUNNING"
        )
        yield Finding("workers", "warning", f"{len(late)} run(s) are late, such as {names}", remedy)


def _automations(api: Api) -> Iterator[Finding]:
    """Is there what finds runs whose machine is gone?"""
    found = [each for each in _all(api, "/automations/filter") if each["name"] == _ZOMBIES]
    if not found:
        says = f"there is no {_ZOMBIES}: a run whose machine is gone would be Running for ever"
        yield Finding("automations", "problem", says, "python -m infra.bootstrap")
    elif not found[0]["enabled"]:
        says = f"{_ZOMBIES} is paused: a run whose machine is gone would be Running for ever"
        yield Finding("automations", "problem", says, "python -m infra.bootstrap")
    else:
        yield Finding("automations", "ok", "runs whose machine is gone are found")


def _all(api: Api, path: str) -> list[dict[str, Any]]:
    """All of a listing, page by page."""
    found: list[dict[str, Any]] = []
    while True:
        page = api.post(path, {"limit": _PAGE, "offset": len(found)})
        found += page
        if len(page) < _PAGE:
            return found

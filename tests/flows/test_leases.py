"""Lease of a run's slot: renewed across a restart of the server, and no loss of it raises anything."""

from __future__ import annotations

import contextlib
import inspect
import logging
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import flow_engine
from prefect.concurrency._leases import maintain_concurrency_lease
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import leases
from infra.stack.system import State, services
from tests.processes import wait_until
from tests.servers.prefect_server import ROOT, post, prefect_server, serving

SETTING = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"
FILES = "prefect.server.concurrency.lease_storage.filesystem"


def test_the_engine_uses_our_renewal() -> None:
    """Prefect's engine looks the name up when a run starts, and calls it with what ours takes."""
    import flows.retrain  # noqa: F401

    assert flow_engine.maintain_concurrency_lease is leases.maintain_lease
    ours, theirs = inspect.signature(leases.maintain_lease), inspect.signature(maintain_concurrency_lease)
    assert list(ours.parameters) == list(theirs.parameters)
    source = inspect.getsource(flow_engine.FlowRunEngine.setup_run_context)
    assert "maintain_concurrency_lease(" in source


def test_the_servers_of_stack_and_cluster_keep_leases_in_files(tmp_path: Path) -> None:
    state = State.new(tmp_path, ROOT)
    with contextlib.suppress(RuntimeError):  # PostgreSQL or SeaweedFS is not installed
        (server,) = [each for each in services(state) if each.name == "server"]
        assert server.environment[SETTING] == FILES
    assert f"{SETTING}={FILES}" in (ROOT / "infra" / "kubernetes" / "kustomization.yaml").read_text()
    volume = "mountPath: /home/ununennium/prefect/concurrency_leases"
    assert volume in (ROOT / "infra" / "kubernetes" / "server.yaml").read_text()
    assert f"{SETTING}: prefect_redis.lease_storage" in (ROOT / "infra" / "compose" / "compose.yaml").read_text()


@pytest.mark.slow
def test_a_lease_outlives_its_server(
    tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(leases, "RENEWAL_S", 0.5)
    monkeypatch.setattr(leases, "RETRY_S", 0.5)
    with prefect_server(tmp_path, database=empty_database, **{SETTING: FILES}) as environment:
        api = environment["PREFECT_API_URL"]
        limit = post(api, "/v2/concurrency_limits/", {"name": "slot", "limit": 1, "active": True})
        taken = post(
            api,
            "/v2/concurrency_limits/increment-with-lease",
            {"names": ["slot"], "slots": 1, "mode": "concurrency", "lease_duration": 60},
        )
    caplog.set_level(logging.INFO, logger=leases.__name__)
    with temporary_settings({PREFECT_API_URL: api}), leases.maintain_lease(UUID(taken["lease_id"])):
        assert wait_until(lambda: "does not renew" in caplog.text, 30)
        time.sleep(2.0)
        with serving({**environment, SETTING: FILES}, tmp_path / "server.log"):
            assert wait_until(lambda: "renews the run's slot again" in caplog.text, 30)
            assert post(api, "/v2/concurrency_limits/filter", {})[0]["active_slots"] == 1
            assert limit["name"] == "slot"
            for file in (tmp_path / "prefect" / "concurrency_leases").glob("*-*.json"):
                file.unlink()
            assert wait_until(lambda: "lost its slot" in caplog.text, 30)
            time.sleep(1.0)
    assert caplog.text.count("does not renew") == caplog.text.count("lost its slot") == 1

"""``ununennium doctor`` and a Prefect server with a password, whose scheduler does not work, and that has no worker."""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.servers.prefect_server import prefect_server
from ununennium.doctor import server as looks
from ununennium.doctor.api import Api

pytestmark = pytest.mark.slow
SECRET = "team:s3cr3t"


def test_a_server_with_every_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {
        "PREFECT_SERVER_SERVICES_SCHEDULER_ENABLED": "false",
        "PREFECT_SERVER_API_AUTH_STRING": SECRET,
    }
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "none"))
    with prefect_server(tmp_path, **settings) as environment:
        api = Api(environment["PREFECT_API_URL"])

        def look() -> dict[str, tuple[str, str]]:
            return {each.what: (each.level, each.says) for each in looks.look_at_server(api)}

        level, says = look()["server"]
        assert (level, "refuses these credentials (401)" in says) == ("problem", True)
        monkeypatch.setenv("PREFECT_API_AUTH_STRING", SECRET)
        found = look()
        assert (found["server"][0], found["clock"][0]) == ("ok", "ok")
        assert found["schedules"] == ("note", "there are no deployments")
        assert found["automations"][0] == "problem"

        flow = api.post("/flows/", {"name": "retrain"})
        api.post("/work_pools/", {"name": "local", "type": "process"})
        schedule = {"schedule": {"cron": "* * * * *"}, "active": True}
        described = {"name": "nightly", "flow_id": flow["id"], "work_pool_name": "local", "schedules": [schedule]}
        deployment = api.post("/deployments/", described)
        assert look()["schedules"][0] == "note"  # it is young
        monkeypatch.setattr(looks, "_YOUNG_S", 0.0)
        level, says = look()["schedules"]
        assert (level, says) == ("problem", "no run is to come of nightly: the scheduler makes none")
        level, says = look()["workers"]
        assert (level, says) == ("problem", "the work pool local has none: its runs wait for ever")

        # A run to come, a worker that is heard of, and the automation: all is well again.
        later = {"type": "SCHEDULED", "state_details": {"scheduled_time": "2999-01-01T00:00:00Z"}}
        api.post(f"/deployments/{deployment['id']}/create_flow_run", {"state": later})
        _send(api, "POST", "/work_pools/local/workers/heartbeat", {"name": "w1", "heartbeat_interval_seconds": 60})
        automation = {
            "name": "crash-silent-runs",
            "trigger": {"type": "event", "posture": "Reactive", "expect": ["x"], "threshold": 1},
            "actions": [{"type": "do-nothing"}],
        }
        created = _send(api, "POST", "/automations/", automation)
        found = look()
        assert {level for level, _ in found.values()} == {"ok"}, found
        assert found["workers"][1] == "1 of the work pool local: w1"

        _send(api, "PATCH", f"/automations/{created['id']}", {"enabled": False})
        assert look()["automations"][0] == "problem"
        _send(api, "PATCH", "/work_pools/local", {"is_paused": True})
        assert look()["workers"] == ("problem", "the work pool local is paused")


def _send(api: Api, method: str, path: str, body: dict[str, Any]) -> Any:
    import base64

    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Basic {base64.b64encode(SECRET.encode()).decode()}",
    }
    request = urllib.request.Request(f"{api.url}{path}", json.dumps(body).encode(), headers, method=method)
    with urllib.request.urlopen(request, timeout=60) as answer:
        content = answer.read()
    return json.loads(content) if content else None

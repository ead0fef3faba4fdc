"""``python -m infra.bootstrap`` on a real server: twice is once, and what was changed by hand is said and mended."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.flows.conftest import ROOT, bootstrap, post, prefect_cli

pytestmark = pytest.mark.slow


def test_twice_is_once_and_changes_by_hand_are_found(server_environment: dict[str, str]) -> None:
    said = bootstrap(server_environment, ROOT, "--dry-run", status=3)
    assert said.splitlines() == [
        "work pool gpu: is missing",
        "work pool local: is missing",
        "automation crash-silent-runs: is missing",
        "3 thing(s) would be changed",
    ]
    api = server_environment["PREFECT_API_URL"]
    assert post(api, "/work_pools/filter") == []
    assert "3 thing(s) changed" in bootstrap(server_environment, ROOT)
    assert bootstrap(server_environment, ROOT) == "all is as it should be\n"
    (automation,) = post(api, "/automations/filter")

    prefect_cli(server_environment, ROOT, "work-pool", "update", "gpu", "--concurrency-limit", "7")
    prefect_cli(server_environment, ROOT, "automation", "pause", "crash-silent-runs")
    assert bootstrap(server_environment, ROOT, "--dry-run", "--silent-after", "300", status=3).splitlines() == [
        "work pool gpu: differs",
        "  concurrency_limit: 7 -> 1",
        "automation crash-silent-runs: differs",
        "  enabled: false -> true",
        "  trigger.within: 100.0 -> 300.0",
        "2 thing(s) would be changed",
    ]
    bootstrap(server_environment, ROOT)
    assert bootstrap(server_environment, ROOT) == "all is as it should be\n"
    (mended,) = post(api, "/automations/filter")
    assert mended["id"] == automation["id"]
    assert mended["enabled"]


def test_without_a_server_it_says_so() -> None:
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    command = [sys.executable, "-m", "infra.bootstrap"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "PREFECT_API_URL" in done.stderr
    assert "Traceback" not in done.stderr

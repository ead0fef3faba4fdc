"""``python -m infra.bootstrap`` on a real server: twice is once, and what was changed by hand is said and mended."""

from __future__ import annotations

import http.server
import json
import os
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.processes import wait_until
from tests.servers.prefect_server import ROOT, bootstrap, post, prefect_cli

pytestmark = pytest.mark.slow
UNTOLD = "nobody is told of failures and promotions: give --notify FILE, or set UNUNENNIUM_NOTIFY\n"


@pytest.fixture
def told() -> Iterator[tuple[str, str, list[Any]]]:
    """Addresses of a webhook and of a mail server, and what they were sent."""
    received: list[Any] = []

    class Hook(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Mail(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 mail\r\n")
            for line in self.rfile:
                verb = line.split()[0].upper() if line.split() else b""
                if verb == b"DATA":
                    self.wfile.write(b"354 go on\r\n")
                    lines = iter(self.rfile.readline, b".\r\n")
                    received.append(b"".join(lines).decode())
                self.wfile.write(b"221 bye\r\n" if verb == b"QUIT" else b"250 fine\r\n")
                if verb == b"QUIT":
                    return

    hook = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook)
    mail = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Mail)
    for server in (hook, mail):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    yield (
        f"http://127.0.0.1:{hook.server_address[1]}/hook?key=s3cr3t",
        f"mailto://127.0.0.1:{mail.server_address[1]}?from=eo@example.org&to=team@example.org",
        received,
    )
    for server in (hook, mail):
        server.shutdown()
        server.server_close()


def test_twice_is_once_and_changes_by_hand_are_found(
    server_environment: dict[str, str], told: tuple[str, str, list[Any]], tmp_path: Path
) -> None:
    said = bootstrap(server_environment, ROOT, "--dry-run", status=3)
    assert said.splitlines() == [
        "work pool gpu: is missing",
        "work pool local: is missing",
        "automation crash-silent-runs: is missing",
        "3 thing(s) would be changed",
        UNTOLD.strip(),
    ]
    api = server_environment["PREFECT_API_URL"]
    assert post(api, "/work_pools/filter") == []
    assert "3 thing(s) changed" in bootstrap(server_environment, ROOT)
    assert bootstrap(server_environment, ROOT) == "all is as it should be\n" + UNTOLD
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
        UNTOLD.strip(),
    ]
    bootstrap(server_environment, ROOT)
    assert bootstrap(server_environment, ROOT) == "all is as it should be\n" + UNTOLD
    (mended,) = post(api, "/automations/filter")
    assert mended["id"] == automation["id"]
    assert mended["enabled"]
    _assert_people_are_told(server_environment, *told, tmp_path)
    pool = str(ROOT / "infra" / "kubernetes" / "gpu-job.json")
    said = bootstrap(server_environment, ROOT, "--pool", pool)
    assert said.splitlines()[0] == "work pool gpu-job: is missing"
    (made,) = [each for each in post(api, "/work_pools/filter") if each["name"] == "gpu-job"]
    assert made["type"] == "kubernetes"
    assert "all is as it should be" in bootstrap(server_environment, ROOT, "--pool", pool)


def _assert_people_are_told(
    environment: dict[str, str], webhook: str, email: str, received: list[Any], folder: Path
) -> None:
    api, settings = environment["PREFECT_API_URL"], folder / "notify.yaml"
    places = [
        {"name": "pager", "webhook": webhook, "on": ["failure", "promotion"]},
        {"name": "mail", "email": email, "on": ["degradation"]},
    ]
    settings.write_text(yaml.safe_dump(places))
    arguments = ("--notify", str(settings))
    said = bootstrap(environment, ROOT, *arguments)
    assert said.splitlines() == [
        "notification block ununennium-pager: is missing",
        "automation notify-pager-failure: is missing",
        "automation notify-pager-promotion: is missing",
        "notification block ununennium-mail: is missing",
        "automation notify-mail-degradation: is missing",
        "5 thing(s) changed",
    ]
    assert bootstrap(environment, ROOT, *arguments) == "all is as it should be\n"

    # The address moves: said without showing it, and mended.
    places[0]["webhook"] = webhook.replace("s3cr3t", "s3cr3t2")
    settings.write_text(yaml.safe_dump(places))
    said = bootstrap(environment, ROOT, *arguments, "--dry-run", status=3)
    assert said.splitlines() == [
        "notification block ununennium-pager: differs",
        "  secrets: differs (not shown)",
        "1 thing(s) would be changed",
    ]
    bootstrap(environment, ROOT, *arguments)
    assert bootstrap(environment, ROOT, *arguments) == "all is as it should be\n"

    # They arrive.
    flow = post(api, "/flows/", {"name": "retrain"})
    run = post(api, "/flow_runs/", {"flow_id": flow["id"], "name": "unlucky", "state": {"type": "PENDING"}})
    state = {"type": "FAILED", "message": "the disk is full"}
    post(api, f"/flow_runs/{run['id']}/set_state", {"state": state, "force": True})
    assert wait_until(lambda: received, 60)
    assert received[0]["subject"] == "retrain, run unlucky: Failed"
    assert "the disk is full" in received[0]["body"]
    for event, payload in (
        ("ununennium.checkpoint.promoted", {"generation": 7, "version": "ab", "metrics": {"IoU": 0.5}}),
        ("ununennium.champion.degraded", {"reason": "IoU has fallen"}),
    ):
        where = ("--resource-id", "ununennium.model.roads", "--resource", "prefect.resource.name=roads")
        prefect_cli(environment, ROOT, "event", "emit", event, *where, "--payload", json.dumps(payload))
    assert wait_until(lambda: len(received) == 3, 60), received
    (mail,) = (each for each in received if isinstance(each, str))
    assert "Subject: roads: the champion is worse than it was" in mail
    assert "IoU has fallen" in mail
    assert [each["subject"] for each in received if isinstance(each, dict)][1] == "roads: generation 7 is champion"


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ([{"name": "a", "slack": "https://hooks.slack.com/services/S3/CR/ET", "email": "mailto://x"}], "exactly one"),
        ([{"name": "a", "email": "https://s3cr3t"}], "mailto"),
        ([{"name": "a", "webhook": "https://s3cr3t", "on": ["sunrise"]}], "0.on.0"),
        ([{"name": "a", "webhook": "https://s3cr3t"}, {"name": "a", "webhook": "https://s3cr3t"}], "one name"),
        ({"name": "a"}, "the file"),
    ],
)
def test_a_wrong_setting_is_named_without_its_address(places: Any, words: str, tmp_path: Path) -> None:
    from infra.notifications import Notifications

    file = tmp_path / "notify.yaml"
    file.write_text(yaml.safe_dump(places))
    with pytest.raises(ValueError, match=words) as caught:
        Notifications.load(str(file))
    assert "s3cr3t" not in str(caught.value)
    assert "S3/CR" not in str(caught.value)


def test_without_a_server_it_says_so() -> None:
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:9/api", "PREFECT_CLIENT_MAX_RETRIES": "0"}
    command = [sys.executable, "-m", "infra.bootstrap"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "PREFECT_API_URL" in done.stderr
    assert "Traceback" not in done.stderr

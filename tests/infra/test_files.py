"""The files of infra/, read by the programs that they are for."""

from __future__ import annotations

import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.stack.ports import free_ports
from tests.processes import wait_until
from tests.servers.programs import running

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
COMPOSE = ROOT / "infra" / "compose" / "compose.yaml"


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=120, check=False, **options
    )


@pytest.fixture(scope="module")
def composed() -> dict[str, Any]:
    """What Docker Compose understands."""
    done = run(BIN / "docker-compose", "-f", COMPOSE, "config", "--format", "json")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_only_the_server_is_reachable_and_only_from_this_machine(composed: dict[str, Any]) -> None:
    ports = [port for service in composed["services"].values() for port in service.get("ports", [])]
    assert [(port["host_ip"], port["published"]) for port in ports] == [("127.0.0.1", "4200")]


def test_every_image_is_pinned_and_what_others_wait_for_tells_its_health(composed: dict[str, Any]) -> None:
    services = composed["services"]
    for name, service in services.items():
        assert service.get("build") or re.search(r":\d+\.\d+", service["image"]), name
        assert service["init"], name
        assert service["restart"] == ("no" if name == "setup" else "unless-stopped")
        for other, condition in service.get("depends_on", {}).items():
            healthy = condition["condition"] == "service_healthy"
            assert not healthy or "healthcheck" in services[other], other
    assert services["worker"]["stop_grace_period"] == "2m0s"


def test_the_deployments_of_compose_keep_their_runs_in_its_object_store(composed: dict[str, Any]) -> None:
    """correctness 112: storage is on the object store of the file, so the schedules may be active."""
    script = composed["services"]["setup"]["command"][-1]
    render = next(part for part in script.split("&&") if "infra.deployments" in part).partition(">")[0]
    environment = {"PATH": f"{BIN}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = run("sh", "-ec", render, cwd=ROOT, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    bucket = re.search(r"-bucket=(\S+)", composed["services"]["objects"]["command"][-1])
    assert bucket is not None
    found = yaml.safe_load(done.stdout)["deployments"]
    held = [each.get("parameters", {}).get("config", each.get("parameters", {})).get("storage") for each in found]
    assert set(held) - {None} == {f"s3://{bucket[1]}/eo"}
    assert all(schedule["active"] for each in found for schedule in each.get("schedules", []))
    assert "> /tmp/prefect.yaml && prefect deploy --all --prefect-file /tmp/prefect.yaml" in script


def test_every_service_has_limits_and_tells_its_health(composed: dict[str, Any]) -> None:
    """`services` has no port to ask; it ends, and is started again, if it fails."""
    for name, service in composed["services"].items():
        limits = service["deploy"]["resources"]["limits"]
        assert int(limits["memory"]) >= 512 * 2**20, name
        assert float(limits.get("cpus", 0)) <= 1 or name == "worker", name
    assert {name for name, service in composed["services"].items() if "healthcheck" not in service} == {
        "services",
        "setup",
    }


@pytest.mark.skipif(shutil.which("redis-server") is None, reason="needs Redis (Debian: apt-get install redis-server)")
def test_redis_asks_for_the_password_of_the_secret(composed: dict[str, Any], tmp_path: Path) -> None:
    """The command and the health check of the file, run here."""
    (tmp_path / "REDIS_PASSWORD").write_text("of-the-secret")
    (port,) = free_ports(1)

    def here(words: str) -> str:
        return words.replace("$$", "$").replace("/run/secrets", str(tmp_path))

    service = composed["services"]["redis"]
    *shell, script = service["command"]
    script = here(script).replace("appendonly yes", f"appendonly yes\nport {port}\ndir {tmp_path}")
    check = here(service["healthcheck"]["test"][-1]).replace("redis-cli", f"redis-cli -p {port}")
    with running([*shell, script], tmp_path / "redis.log"):
        assert wait_until(lambda: run("sh", "-c", check).returncode == 0, 30), (tmp_path / "redis.log").read_text()
        assert "NOAUTH" in run("redis-cli", "-p", port, "ping").stdout
        (tmp_path / "REDIS_PASSWORD").write_text("another")
        assert run("sh", "-c", check).returncode != 0


def test_no_secret_is_in_the_file(composed: dict[str, Any]) -> None:
    for name, service in composed["services"].items():
        for variable, value in (service.get("environment") or {}).items():
            secret = re.search(r"PASSWORD|SECRET|ACCESS_KEY|AUTH", variable)
            assert not secret or str(value).startswith("/run/secrets/"), f"{name}: {variable}"
    assert set(composed["secrets"]) == {
        secret["source"] for service in composed["services"].values() for secret in service.get("secrets", [])
    }


def test_secrets_are_made_once_and_reach_the_command(tmp_path: Path) -> None:
    script = tmp_path / "make-secrets"
    script.write_text((COMPOSE.parent / "make-secrets").read_text())
    for _ in range(2):
        done = run("sh", script)
        assert done.returncode == 0, done.stderr
        made = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    assert set(made) == {
        *("DATABASE_PASSWORD", "REDIS_PASSWORD", "API_AUTH", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
    }
    assert len(set(made.values())) == 5
    assert (tmp_path / "secrets").stat().st_mode & 0o077 == 0
    again = run("sh", script)
    assert again.returncode == 0
    assert {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()} == made

    environment = {"PATH": os.environ["PATH"], "SECRETS_FOLDER": str(tmp_path / "secrets"), "DATABASE_HOST": "db"}
    done = run(ROOT / "infra" / "docker" / "with-secrets", "env", env=environment)
    seen = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert seen["AWS_ACCESS_KEY_ID"] == made["AWS_ACCESS_KEY_ID"]
    assert seen["PREFECT_API_AUTH_STRING"] == seen["PREFECT_SERVER_API_AUTH_STRING"] == made["API_AUTH"]
    assert f":{made['DATABASE_PASSWORD']}@db:5432/" in seen["PREFECT_SERVER_DATABASE_CONNECTION_URL"]


def test_the_linter_finds_nothing_in_the_image_and_it_holds_all_that_it_copies() -> None:
    file = ROOT / "infra" / "docker" / "worker.Dockerfile"
    done = run(BIN / "hadolint", file)
    assert done.returncode == 0, done.stdout
    text = file.read_text()
    for line in re.findall(r"^COPY (?!--from)(?:--\S+ )?(.+) \S+$", text, re.MULTILINE):
        for source in line.split():
            assert (ROOT / source).exists(), source
    assert "USER 1000" in text


def test_the_unit_writes_below_its_state_folder_alone() -> None:
    """With a home below /home, which ProtectHome hides, Prefect could not write its profile."""
    text = (ROOT / "infra" / "systemd" / "ununennium-worker.service").read_text()
    words = " ".join(re.findall(r"^Environment=(.+)$", text, re.MULTILINE)).split()
    variables = dict(word.split("=", 1) for word in words)
    assert "ProtectHome=true" in text
    state = re.search(r"^StateDirectory=(\S+)$", text, re.MULTILINE)
    assert state is not None
    places = ("HOME", "PREFECT_HOME", "UNUNENNIUM_WORK", "UNUNENNIUM_SPOOL", "UNUNENNIUM_CACHE")
    assert all(variables[name].startswith(f"/var/lib/{state[1]}") for name in places)
    assert len({variables[name] for name in places}) == len(places)


def test_the_unit_stops_a_worker_gently_and_starts_it_again() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "infra" / "systemd" / "ununennium-worker.service")
    service = unit["Service"]
    assert service["Restart"] == "always"
    assert int(service["TimeoutStopSec"]) >= 60
    pool = re.search(r"--pool (\S+)", service["ExecStart"])
    assert pool is not None
    assert (ROOT / "infra" / "work-pools" / f"{pool[1]}.json").exists()

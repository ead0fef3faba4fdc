"""The deployments of the project on a real server with a worker: schedules, limits, chains, refusals."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pystac
import pytest
import rasterio

from tests.flows.conftest import copy_checkout
from tests.processes import assert_nothing_left, has_checkpoint, newest_checkpoint, wait_until
from tests.servers.prefect_server import deployed_server, ended, events, flow_runs, post, prefect_cli, worker_of
from ununennium.config import RunConfig
from ununennium.runs.directory import RunDirectory

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
Tiny = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory, deployed_database: Path) -> Iterator[tuple[dict[str, str], Path]]:
    """One server and one worker for these tests, with the checkout that it works in."""
    folder = tmp_path_factory.mktemp("deployments")
    checkout = copy_checkout(folder / "checkout")
    with deployed_server(folder, deployed_database, checkout) as environment, worker_of(environment, checkout):
        yield environment, checkout


@pytest.fixture
def checkout(kept: tuple[dict[str, str], Path]) -> Path:
    """The checkout without what earlier tests made in it."""
    for made in ("storage", "maps", ".ununennium"):
        shutil.rmtree(kept[1] / made, ignore_errors=True)
    return kept[1]


@pytest.fixture
def working(kept: tuple[dict[str, str], Path]) -> dict[str, str]:
    """The server without the runs of earlier tests."""
    api = kept[0]["PREFECT_API_URL"]
    for run in post(api, "/flow_runs/filter"):
        post(api, f"/flow_runs/{run['id']}", method="DELETE")
    return kept[0]


def deployment_id(api: str, name: str) -> str:
    (found,) = (each["id"] for each in post(api, "/deployments/filter") if each["name"] == name)
    return str(found)


def test_a_schedule_makes_a_run_that_stops_early_and_whose_champion_makes_the_map(
    working: dict[str, str], checkout: Path, tiny: Tiny
) -> None:
    """The promotion's event starts predict, which records the promoted version; by hand nothing is made twice."""
    api = working["PREFECT_API_URL"]
    nightly = deployment_id(api, "nightly")
    early = "early_stopping={monitor: train_loss, patience: 1, min_delta: 1000}"
    parameters = {"config": tiny("trainer.epochs=20", early, "storage=storage").model_dump(mode="json")}
    each_minute = {"schedule": {"cron": "* * * * *", "timezone": "UTC"}, "active": True, "parameters": parameters}
    (schedule,) = post(api, f"/deployments/{nightly}/schedules", [each_minute])

    def scheduled(*states: str) -> list[dict[str, Any]]:
        runs = post(api, "/flow_runs/filter", {"flows": {"name": {"any_": ["retrain"]}}})
        return [run for run in runs if run["auto_scheduled"] and run["state_type"] in states]

    assert wait_until(lambda: scheduled("RUNNING"), 300)
    post(api, f"/deployments/{nightly}/schedules/{schedule['id']}", method="DELETE")  # one run is enough
    assert wait_until(lambda: scheduled("COMPLETED"), 300)
    (run,) = scheduled("COMPLETED")
    assert run["state_name"] == "EarlyStopped"
    assert "train_loss has not improved" in run["state"]["message"]
    predicted = ended(api, "predict")
    assert (predicted["state_type"], predicted["created_by"]["type"]) == ("COMPLETED", "AUTOMATION"), predicted
    item = pystac.Item.from_file(str(checkout / "maps" / "atlanta_pan_05m" / "item.json"))
    (promotion,) = (checkout / "storage" / "models" / "atlanta-buildings" / "promotions").glob("*.json")
    champion = json.loads(promotion.read_text())
    about = item.properties
    assert predicted["parameters"]["version"] == champion["version"] == about["ununennium:version"]
    assert about["ununennium:generation"] == champion["generation"] == 1
    assert about["ununennium:run_id"] == champion["run_id"]
    finished = [event["payload"] for event in events(api, "ununennium.training.finished")]
    assert {each["stop_reason"] for each in finished if each["run_id"] == champion["run_id"]} == {"early_stopped"}
    with rasterio.open(checkout / "maps" / "atlanta_pan_05m" / "map.tif") as made:
        assert (made.height, made.width, made.crs.to_epsg()) == (900, 900, 32616)
    (made_event,) = events(api, "ununennium.map.made")
    assert made_event["payload"]["version"] == champion["version"]

    prefect_cli(working, checkout, "deployment", "run", "predict/on-demand", "--watch")
    assert len(flow_runs(api, "predict")) == 2
    assert item.properties == pystac.Item.from_file(item.self_href).properties


def test_a_second_nightly_run_is_left_out_and_a_cancelled_one_leaves_a_checkpoint(
    working: dict[str, str], checkout: Path, tiny: Tiny
) -> None:
    api, work = working["PREFECT_API_URL"], checkout / ".ununennium" / "runs"
    nightly = deployment_id(api, "nightly")
    endless = tiny("trainer.epochs=100000", "data.batch_size=2", "checkpoints.every_n_steps=3", "storage=storage")
    asked = {"parameters": {"config": endless.model_dump(mode="json")}, "state": {"type": "SCHEDULED"}}
    first = post(api, f"/deployments/{nightly}/create_flow_run", asked)

    def begun() -> RunDirectory | None:
        found = [RunDirectory.open(file) for file in work.glob("*/run.json")]
        return found[0] if found and has_checkpoint(found[0]) else None

    assert wait_until(begun)
    run = begun()
    assert run is not None
    post(api, f"/deployments/{nightly}/create_flow_run", asked)
    second = ended(api, "retrain", 1)
    assert second["state_name"] == "Cancelled"
    assert "concurrency limit" in second["state"]["message"]

    post(api, f"/flow_runs/{first['id']}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert ended(api, "retrain", 0)["state_name"] == "Cancelled"
    assert_nothing_left(run, 60)
    assert newest_checkpoint(run)["world_size"] == 1


def test_a_bad_parameter_is_refused_when_it_is_given(working: dict[str, str], checkout: Path, tiny: Tiny) -> None:
    wrong = tiny().model_dump(mode="json")
    wrong["trainer"]["epochs"] = 0
    done = subprocess.run(
        [
            *(sys.executable, "-m", "prefect", "--no-prompt", "deployment", "run", "retrain/on-demand"),
            *("--param", f"config={json.dumps(wrong)}"),
        ],
        env=working,
        cwd=checkout,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert "trainer.epochs" in done.stdout + done.stderr
    assert flow_runs(working["PREFECT_API_URL"], "retrain") == []


def test_a_wrong_override_fails_the_run_before_anything_is_trained(
    working: dict[str, str], checkout: Path, tiny: Tiny
) -> None:
    config = tiny("storage=storage").model_dump(mode="json")
    prefect_cli(
        working, checkout, "deployment", "run", "retrain/on-demand",
        "--param", f"config={json.dumps(config)}", "--param", 'overrides=["trainer.epoch=5"]',
    )  # fmt: skip
    run = ended(working["PREFECT_API_URL"], "retrain")
    assert run["state_type"] == "FAILED"
    assert "did you mean 'epochs'?" in run["state"]["message"]
    assert not (checkout / "storage").exists()

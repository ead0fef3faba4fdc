"""The flow ``predict``: by itself after a promotion, through deployments and a worker; and when a scene fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pystac
import pytest
import rasterio

from tests.flows.conftest import ROOT, bootstrap, post, prefect_cli
from ununennium.config import RunConfig
from ununennium.config.maps import MapsConfig

pytestmark = pytest.mark.slow
Tiny = Callable[..., RunConfig]
LONG_S = 300.0


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What of the project a worker needs, in a folder of its own, where it may write."""
    folder = tmp_path / "checkout"
    for name in ("deployments", "flows", "infra", "examples"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


@pytest.fixture
def working(server_environment: dict[str, str], checkout: Path) -> Iterator[dict[str, str]]:
    """A server with the deployments of the project, and a worker; gives the environment of its clients."""
    environment = {**server_environment, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    bootstrap(environment, checkout)
    prefect_cli(environment, checkout, "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    with (checkout / "worker.log").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local", "--type", "process"],
            cwd=checkout,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        try:
            yield environment
        finally:
            process.terminate()
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def test_a_promotion_makes_the_map(working: dict[str, str], checkout: Path, tiny: Tiny) -> None:
    """Retrain by hand; the promotion's event starts predict, which records the promoted version."""
    config = tiny("storage=storage").model_dump(mode="json")
    prefect_cli(working, checkout, "deployment", "run", "retrain/on-demand", "--param", f"config={json.dumps(config)}")
    api = working["PREFECT_API_URL"]
    retrained = _ended(api, "retrain")
    assert retrained["state_type"] == "COMPLETED", retrained
    predicted = _ended(api, "predict")
    assert (predicted["state_type"], predicted["created_by"]["type"]) == ("COMPLETED", "AUTOMATION"), predicted
    item = pystac.Item.from_file(str(checkout / "maps" / "atlanta_pan_05m" / "item.json"))
    (promotion,) = (checkout / "storage" / "models" / "atlanta-buildings" / "promotions").glob("*.json")
    champion = json.loads(promotion.read_text())
    about = item.properties
    assert predicted["parameters"]["version"] == champion["version"] == about["ununennium:version"]
    assert about["ununennium:generation"] == champion["generation"] == 1
    assert about["ununennium:run_id"] == champion["run_id"]
    with rasterio.open(checkout / "maps" / "atlanta_pan_05m" / "map.tif") as made:
        assert (made.height, made.width, made.crs.to_epsg()) == (900, 900, 32616)
    (made_event,) = _events(api, "ununennium.map.made")
    assert made_event["payload"]["version"] == champion["version"]

    # By hand, with nothing new: nothing is made twice.
    prefect_cli(working, checkout, "deployment", "run", "predict/on-demand", "--watch")
    assert len(_runs(api, "predict")) == 2
    assert item.properties == pystac.Item.from_file(item.self_href).properties


@pytest.mark.usefixtures("server")
def test_a_scene_that_fails_fails_the_run_and_the_others_are_mapped(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atlanta: Path
) -> None:
    from flows.predict import predict
    from flows.retrain import retrain

    storage = str(tmp_path / "storage")
    assert retrain(tiny(f"storage={storage}"), return_state=True).is_completed()
    whole = atlanta.parent / "data" / "atlanta_pan_05m.tif"
    shutil.copy(whole, tmp_path / "good.tif")
    (tmp_path / "bad.tif").write_bytes(whole.read_bytes()[:20_000])
    config = {"model": "atlanta-buildings", "images": [f"{tmp_path}/*.tif"], "storage": storage, "device": "cpu"}
    state: Any = predict(MapsConfig.parse({**config, "output": f"{tmp_path}/maps"}), return_state=True)
    assert state.is_failed()
    assert state.message.startswith("1 of 2 scene(s) failed, such as bad: ")
    assert state.message.endswith("; 1 are mapped")
    assert (tmp_path / "maps" / "good" / "item.json").exists()
    os.remove(tmp_path / "bad.tif")
    state = predict(MapsConfig.parse({**config, "output": f"{tmp_path}/maps"}), return_state=True)
    assert state.is_completed()
    assert [row["state"] for row in state.result()] == ["was there"]


def _runs(api: str, flow: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = post(api, "/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}})
    return found


def _events(api: str, name: str) -> list[dict[str, Any]]:
    """The events of that name, which arrive some seconds after they were emitted."""
    deadline = time.monotonic() + LONG_S
    found: list[dict[str, Any]] = []
    while not found and time.monotonic() < deadline:
        found = post(api, "/events/filter", {"filter": {"event": {"name": [name]}}})["events"]
        time.sleep(0.5)
    return found


def _ended(api: str, flow: str) -> dict[str, Any]:
    """The run of a flow, when it has ended."""
    deadline = time.monotonic() + LONG_S
    runs: list[dict[str, Any]] = []
    while time.monotonic() < deadline:
        runs = [run for run in _runs(api, flow) if run["state_type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")]
        if runs:
            return runs[0]
        time.sleep(1)
    raise AssertionError(f"no run of {flow} has ended: {_runs(api, flow)}")

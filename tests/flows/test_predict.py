"""The flow ``predict``: by itself after a promotion, through deployments and a worker; and when a scene fails."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pystac
import pytest
import rasterio

from tests.servers.prefect_server import ended, events, flow_runs, prefect_cli
from ununennium.config import RunConfig
from ununennium.config.maps import MapsConfig

pytestmark = pytest.mark.slow
Tiny = Callable[..., RunConfig]


def test_a_promotion_makes_the_map(working: dict[str, str], checkout: Path, tiny: Tiny) -> None:
    """Retrain by hand; the promotion's event starts predict, which records the promoted version."""
    config = tiny("storage=storage").model_dump(mode="json")
    prefect_cli(working, checkout, "deployment", "run", "retrain/on-demand", "--param", f"config={json.dumps(config)}")
    api = working["PREFECT_API_URL"]
    retrained = ended(api, "retrain")
    assert retrained["state_type"] == "COMPLETED", retrained
    predicted = ended(api, "predict")
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
    (made_event,) = events(api, "ununennium.map.made")
    assert made_event["payload"]["version"] == champion["version"]

    # By hand, with nothing new: nothing is made twice.
    prefect_cli(working, checkout, "deployment", "run", "predict/on-demand", "--watch")
    assert len(flow_runs(api, "predict")) == 2
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

"""The flow ``predict`` when a scene fails; after a promotion it is in ``test_deployments.py``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ununennium.config import RunConfig
from ununennium.config.maps import MapsConfig

pytestmark = pytest.mark.slow
Tiny = Callable[..., RunConfig]


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

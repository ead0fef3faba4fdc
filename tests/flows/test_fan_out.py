"""Many scenes at once on Dask: what fails is named, what dies is tried again, and nothing is made twice."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

from tests.bright_model import expected, promote_bright
from tests.rasters import write_raster
from ununennium.config.maps import MapsConfig
from ununennium.errors import ConfigError
from ununennium.processes.entry_points import Worker

pytestmark = pytest.mark.slow
NAMES = [f"scene{number}" for number in range(6)]


@pytest.fixture
def scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """Six scenes and a champion; of one scene the file is cut short."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    promote_bright(tmp_path)
    found = {}
    for number, name in enumerate(NAMES):
        found[name] = np.random.default_rng(number).integers(0, 40, (100, 130)).astype(np.uint8)
        grid = rasterio.Affine(0.5, 0, 733601, 0, -0.5, 3725139)
        write_raster(tmp_path / f"{name}.tif", found[name], crs="EPSG:32616", transform=grid)
    return found


def config(**changes: Any) -> MapsConfig:
    return MapsConfig.parse({"model": "bright", "images": ["*.tif"], "device": "cpu", **changes})


def mapping_processes(work: Path) -> list[int]:
    """Processes that map a job in ``work``."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if Worker.MAP.encode() in command and str(work).encode() in command and b"setpriv" not in command:
            found.append(int(folder.name))
    return found


@pytest.mark.usefixtures("server")
def test_six_scenes_on_two_workers_one_of_them_corrupt(
    scenes: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five maps and one failure that is named, though one mapping process is killed; then only the sixth is made."""
    from prefect.settings import PREFECT_API_URL

    from flows.predict import predict

    # Dask's workers are other processes, each of which would start a server of its own.
    monkeypatch.setenv("PREFECT_API_URL", str(PREFECT_API_URL.value()))
    corrupt = tmp_path / "scene3.tif"
    whole = corrupt.read_bytes()
    corrupt.write_bytes(whole[: len(whole) // 2])
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 240
        while not killed and time.monotonic() < deadline:
            for pid in mapping_processes(tmp_path / "work")[:1]:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
            time.sleep(0.1)

    killer = threading.Thread(target=kill_one)
    killer.start()
    fan_out = {"workers": 2, "retry_delay_s": 0.1}
    state: Any = predict(config(fan_out=fan_out), return_state=True)
    killer.join()
    assert killed
    assert state.is_failed()
    assert state.message.startswith("1 of 6 scene(s) failed, such as scene3: ")
    assert state.message.endswith("; 5 are mapped")
    made = {}
    for name, pixels in scenes.items():
        file = tmp_path / "maps" / name / "map.tif"
        assert file.exists() == (name != "scene3")
        if file.exists():
            made[name] = file.stat().st_mtime_ns
            with rasterio.open(file) as dataset:
                np.testing.assert_array_equal(dataset.read(1), expected(pixels))

    with get_client(sync_client=True) as client:
        of_flow_run = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
        runs = client.read_task_runs(flow_run_filter=of_flow_run)
    tries = [run.run_count for run in runs if run.name.startswith("make-")]
    assert len(tries) == 6
    assert max(tries) > 1, "the killed process was not replaced"

    corrupt.write_bytes(whole)
    state = predict(config(fan_out={"workers": 2, "threads": True, "scenes_per_task": 2}), return_state=True)
    assert state.is_completed()
    assert [row["state"] for row in state.result()] == ["was there"] * 3 + ["made"] + ["was there"] * 2
    assert {name: (tmp_path / "maps" / name / "map.tif").stat().st_mtime_ns for name in made} == made
    assert not list((tmp_path / "work").iterdir())
    assert not mapping_processes(tmp_path / "work")


@pytest.mark.parametrize(
    ("fan_out", "message"),
    [
        ({"address": "tcp://a:1", "cluster": "x:Y"}, "not both"),
        ({"cluster_kwargs": {"n_workers": 3}}, "cluster_kwargs goes with cluster"),
        ({"workers": 0}, "at least 1"),
    ],
)
def test_places_that_cannot_be(fan_out: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config(fan_out=fan_out)

"""What is killed, or cut off from its storage, loses no more than the band under way, and leaves no half a map."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch

from tests.bright_model import expected, promote_bright
from ununennium.config.maps import MapsConfig
from ununennium.inference import Predictor
from ununennium.inference.jobs import make_job, run_job
from ununennium.models import UNet

OUTPUTS = ["map", "probabilities", "confidence", "polygons", "areas"]
CLASSES = ["water", "forest", "town"]


def predictor() -> Predictor:
    torch.manual_seed(0)
    contract = {
        "classes": CLASSES,
        "bands": [1],
        "statistics": {"mean": [0.0], "std": [1.0]},
        "nodata": None,
        "resolution": [0.5, 0.5],
        "crs": "EPSG:32616",
        "chip_size": 64,
        "weights_sha256": "0",
    }
    return Predictor(UNet(1, 3, base_channels=4, depth=2), contract)


def map_it(image: str, output: Path, **options: Any) -> list[int]:
    """Map ``image``; returns how many rows were done each time that a band was."""
    rows: list[int] = []
    predictor().map(image, output, OUTPUTS, on_rows=lambda done, _: rows.append(done), **options)
    return rows


KILLED = """
    import os, signal
    from pathlib import Path
    from tests.inference.test_faults import OUTPUTS, predictor

    def on_rows(done, total):
        if done > total // 2:
            os.kill(os.getpid(), signal.SIGKILL)

    predictor().map({image!r}, Path({output!r}), OUTPUTS, on_rows=on_rows)
"""


@pytest.mark.slow
def test_a_killed_process_is_gone_on_from_to_the_same_bytes(
    make_scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    pixels = np.random.default_rng(0).normal(size=(1, 1500, 300)).astype(np.float32)
    image = make_scene(pixels).images[0]
    whole = map_it(image, tmp_path / "undisturbed" / "map.tif", resume=False)
    assert len(whole) > 4

    code = textwrap.dedent(KILLED.format(image=image, output=str(tmp_path / "killed" / "map.tif")))
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, timeout=180, check=False, capture_output=True, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not list((tmp_path / "killed").glob("map*"))  # nothing under a final name, and nothing half

    rest = map_it(image, tmp_path / "killed" / "map.tif")
    assert 0 < len(rest) < len(whole)
    assert whole[-len(rest) :] == rest  # the bands that were kept are not predicted again
    made = sorted(file.name for file in (tmp_path / "undisturbed").iterdir())
    assert sorted(file.name for file in (tmp_path / "killed").iterdir()) == made
    assert len(made) == 6
    for name in made:
        if not name.endswith(".parquet"):  # whose writer may note times
            assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "undisturbed" / name).read_bytes(), name
    assert not list((tmp_path / "work").glob("maps/*"))


def test_a_band_that_a_crash_damaged_is_made_again(
    make_scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    image = make_scene(np.random.default_rng(0).normal(size=(1, 700, 100)).astype(np.float32)).images[0]
    whole = map_it(image, tmp_path / "whole.tif", resume=False)

    def stop(done: int, total: int) -> None:
        if done > total // 2:
            raise OSError("the machine goes down")

    with pytest.raises(OSError, match="goes down"):
        predictor().map(image, tmp_path / "map.tif", OUTPUTS, on_rows=stop)
    first = min((tmp_path / "work" / "maps").glob("*/band-*.npz"))
    first.write_bytes(first.read_bytes()[:-100])
    assert whole[0] in map_it(image, tmp_path / "map.tif")
    assert (tmp_path / "map.tif").read_bytes() == (tmp_path / "whole.tif").read_bytes()


@pytest.fixture
def bright(make_scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """A champion, and one scene for it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    promote_bright(tmp_path)
    pixels = np.random.default_rng(1).integers(0, 40, (1, 400, 130)).astype(np.uint8)
    make_scene(pixels)
    return pixels[0]


def job(output: str, **changes: Any) -> Any:
    return make_job(
        MapsConfig.parse({"model": "bright", "images": ["*.tif"], "device": "cpu", "output": output, **changes})
    )


def stored(url: str) -> np.ndarray:
    with rasterio.Env(AWS_HTTPS="NO", AWS_VIRTUAL_HOSTING="FALSE"), rasterio.MemoryFile(_bytes(url)) as file:
        with file.open() as dataset:
            return dataset.read(1)


def _bytes(url: str) -> bytes:
    from ununennium.storage.open import open_storage

    folder, _, name = url.rpartition("/")
    return open_storage(folder).read_bytes(name)


@pytest.mark.slow
def test_an_outage_of_the_storage_while_a_map_is_written_loses_nothing(
    proxy: Any, s3: str, bright: np.ndarray, tmp_path: Path
) -> None:
    """The server goes away as the map's file is on its way, and comes back after seconds: the run waits for it."""
    url = f"{s3}/maps-outage"
    struck = threading.Event()

    def cut(request: Any) -> None:
        if request.method in {"PUT", "POST"} and "map.tif" in request.target and not struck.is_set():
            struck.set()
            proxy.connected = False
            threading.Timer(5.0, proxy.heal).start()

    proxy.on_request = cut
    mapped = run_job(job(url), on_line=lambda line: None)
    assert struck.is_set()
    assert mapped.failures == {}
    np.testing.assert_array_equal(stored(f"{url}/scene/map.tif"), expected(bright))
    assert not list((tmp_path / "work").glob("maps/*"))


@pytest.mark.slow
def test_storage_that_refuses_fails_the_scene_and_keeps_its_bands(
    proxy: Any, s3: str, bright: np.ndarray, tmp_path: Path
) -> None:
    """No item is there that says that a map were; the next run uploads what was kept."""
    url = f"{s3}/maps-refused"
    proxy.inject("refuse", method="PUT", part="map.tif", times=10_000)
    mapped = run_job(job(url), on_line=lambda line: None)
    assert list(mapped.failures) == ["scene"]
    assert "map.tif" in mapped.failures["scene"]
    assert list((tmp_path / "work" / "maps").glob("*/band-*.npz"))
    assert not mapped.items

    proxy.heal()
    mapped = run_job(job(url), on_line=lambda line: None)
    assert (mapped.failures, mapped.reused) == ({}, [])
    np.testing.assert_array_equal(stored(f"{url}/scene/map.tif"), expected(bright))
    assert os.listdir(tmp_path / "work") == []

"""Many scenes are mapped by one model: what is there is not made again, and what fails is named."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pystac
import pytest
import rasterio
from rasterio.warp import transform_bounds

from tests.bright_model import THRESHOLD, expected, promote_bright
from ununennium.config.maps import MapsConfig
from ununennium.errors import CheckpointError, ConfigError, ProcessLost
from ununennium.inference.jobs import make_job, run_job
from ununennium.processes.entry_points import Worker

Promote = Callable[[float], str]


@pytest.fixture
def promote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Promote:
    """``promote(20)`` makes a champion of the model ``bright`` that finds pixels above 20."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))

    def make(threshold: float) -> str:
        return promote_bright(tmp_path, threshold)

    make(THRESHOLD)
    return make


@pytest.fixture
def scenes(make_scene: Any, tmp_path: Path) -> dict[str, np.ndarray]:
    """Three scenes of 100 x 130 pixels in ``tmp_path``; a corner has no data."""
    found = {}
    for number, name in enumerate(["east", "north", "west"]):
        pixels = np.random.default_rng(number).integers(1, 40, (1, 100, 130)).astype(np.uint8)
        pixels[:, :10, :20] = 0
        make_scene(pixels, name=name)
        found[name] = pixels[0]
    return found


def config(**changes: Any) -> MapsConfig:
    return MapsConfig.parse({"model": "bright", "images": ["*.tif"], "device": "cpu", **changes})


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def pixel_m2(path: Path) -> float:
    """Square metres on the ellipsoid of a pixel in the middle of a scene."""
    with rasterio.open(path) as image:
        corners = [image.xy(50 + row, 65 + col, offset="ul") for row, col in ((0, 0), (0, 1), (1, 1), (1, 0))]
        x, y = pyproj.Transformer.from_crs(image.crs, "EPSG:4326", always_xy=True).transform(
            *zip(*corners, strict=True)
        )
    return abs(pyproj.Geod(ellps="WGS84").polygon_area_perimeter(x, y)[0])


@pytest.mark.slow
def test_each_scene_gets_its_map_its_picture_and_its_item(
    promote: Promote, scenes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    job = make_job(config())
    said: list[str] = []
    mapped = run_job(job, on_line=said.append)
    assert (mapped.failures, mapped.reused) == ({}, [])
    assert said == [f"scene {n} of 3, {name}: mapped" for n, name in enumerate(scenes, 1)]
    for name, pixels in scenes.items():
        folder = tmp_path / "maps" / name
        assert (read(folder / "map.tif") == expected(pixels)).all()
        assert (folder / "quicklook.png").read_bytes().startswith(b"\x89PNG")
        item = pystac.Item.from_file(str(folder / "item.json"))
        assert item.to_dict(include_self_link=False)["properties"] == mapped.items[name]["properties"]
        about = item.properties
        assert (about["ununennium:version"], about["ununennium:generation"]) == (job.version, 1)
        bright = int((pixels > THRESHOLD).sum())
        area, size = about["ununennium:areas"]["bright"], pixel_m2(tmp_path / f"{name}.tif")
        assert area == {"pixels": bright, "area_m2": pytest.approx(bright * size, rel=1e-4)}
        assert about["ununennium:unmapped_pixels"] == 200
        assert about["proj:code"] == "EPSG:32616"
        with rasterio.open(tmp_path / f"{name}.tif") as image:
            assert item.bbox == pytest.approx(transform_bounds(image.crs, "EPSG:4326", *image.bounds), abs=2e-7)
        source, model = item.get_links("derived_from")
        assert source.href == str(tmp_path / f"{name}.tif")
        assert model.href == f"../_models/bright-{job.version[:16]}.json"
        assert item.get_assets()["map"].media_type == pystac.MediaType.COG
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.slow
def test_what_is_there_and_made_alike_is_not_made_again(
    promote: Promote, scenes: dict[str, np.ndarray], make_scene: Any, tmp_path: Path
) -> None:
    run_job(make_job(config()), on_line=lambda line: None)
    made = {name: (tmp_path / "maps" / name / "map.tif").stat().st_mtime_ns for name in scenes}

    changed = np.full((1, 100, 130), 39, np.uint8)
    make_scene(changed, name="north")
    again = run_job(make_job(config()), on_line=lambda line: None)
    assert again.reused == ["east", "west"]
    now = {name: (tmp_path / "maps" / name / "map.tif").stat().st_mtime_ns for name in scenes}
    assert [name for name in scenes if now[name] != made[name]] == ["north"]
    assert (read(tmp_path / "maps" / "north" / "map.tif") == 1).all()

    assert run_job(make_job(config(tta=True)), on_line=lambda line: None).reused == []


@pytest.mark.slow
def test_a_promotion_during_a_run_changes_nothing_in_it(
    promote: Promote, scenes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    first = make_job(config())
    second = promote(10)
    run_job(first, on_line=lambda line: None)
    assert (read(tmp_path / "maps" / "east" / "map.tif") == expected(scenes["east"])).all()
    job = make_job(config())
    assert (job.version, job.generation) == (second, 2)
    assert run_job(job, on_line=lambda line: None).reused == []
    assert (read(tmp_path / "maps" / "east" / "map.tif") == expected(scenes["east"], 10)).all()
    named = make_job(config(), first.version)
    assert (named.version, named.generation) == (first.version, None)


@pytest.mark.slow
def test_a_scene_that_fails_is_named_and_stops_no_other(
    promote: Promote, scenes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    broken = tmp_path / "north.tif"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    mapped = run_job(make_job(config()), on_line=lambda line: None)
    assert sorted(mapped.items) == ["east", "west"]
    assert list(mapped.failures) == ["north"]
    assert "north" in mapped.failures["north"]
    assert not (tmp_path / "maps" / "north").exists()
    assert [row["state"] for row in mapped.rows()] == ["made", "failed", "made"]
    assert mapped.rows()[0]["bright"].endswith("%")

    broken.write_bytes(whole)
    assert run_job(make_job(config()), on_line=lambda line: None).reused == ["east", "west"]
    assert (read(tmp_path / "maps" / "north" / "map.tif") == expected(scenes["north"])).all()


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_whole_maps_and_a_second_call_goes_on(
    promote: Promote, scenes: dict[str, np.ndarray], tmp_path: Path
) -> None:
    def kill(line: str) -> None:
        if "scene 1 of 3" in line:
            for folder in Path("/proc").glob("[0-9]*"):
                if str(tmp_path / "work").encode() in _command(folder) and Worker.MAP.encode() in _command(folder):
                    os.kill(int(folder.name), signal.SIGKILL)

    with pytest.raises(ProcessLost, match="SIGKILL"):
        run_job(make_job(config()), on_line=kill)
    there = [folder.name for folder in (tmp_path / "maps").iterdir() if (folder / "item.json").exists()]
    assert "east" in there
    mapped = run_job(make_job(config()), on_line=lambda line: None)
    assert mapped.reused == sorted(there)
    for name, pixels in scenes.items():
        assert (read(tmp_path / "maps" / name / "map.tif") == expected(pixels)).all()


def test_the_time_that_is_given_is_kept(promote: Promote, scenes: dict[str, np.ndarray]) -> None:
    mapped = run_job(make_job(config()), timeout_s=0.1, on_line=lambda line: None)
    assert set(mapped.failures) == set(scenes)
    assert "timeout_s = 0.1 passed" in mapped.failures["east"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "nobody"}, r"model = 'nobody': has no champion in .*registry list"),
        ({"images": ["*.jp2"]}, r"images = '\*.jp2': no file matches"),
        ({"scenes": [{"image": "else/east.tif"}]}, "scenes = 'east': is the name of two scenes"),
    ],
)
def test_what_cannot_be_mapped_is_refused_before_anything_starts(
    promote: Promote, scenes: dict[str, np.ndarray], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        make_job(config(**changes))


def test_settings_that_cannot_work_are_refused(promote: Promote, scenes: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="give scenes, or patterns"):
        MapsConfig.parse({"model": "bright"})
    with pytest.raises(ConfigError, match="did you mean 'images'"):
        MapsConfig.parse({"model": "bright", "image": "a.tif"})
    with pytest.raises(CheckpointError, match="has no version 'abc'"):
        make_job(config(), "abc")
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="which is no folder"):
        run_job(make_job(config(output="file")), on_line=lambda line: None)
    file = tmp_path / "maps.yaml"
    file.write_text(json.dumps({"model": "bright", "images": ["*.tif"]}))
    assert MapsConfig.load(file, ["output=here"]).output == "here"


def _command(folder: Path) -> bytes:
    try:
        return (folder / "cmdline").read_bytes()
    except OSError:
        return b""

"""A map is made anew when a file changes that its imagery depends on (correctness 76)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

from tests.bright_model import promote_bright
from ununennium.config.maps import MapsConfig
from ununennium.inference.jobs import make_job, run_job

BRIGHT = np.full((1, 100, 130), 40, np.uint8)
DARK = np.full((1, 100, 130), 10, np.uint8)
VRT = (
    '<VRTDataset rasterXSize="130" rasterYSize="100"><SRS>EPSG:32616</SRS>'
    '<GeoTransform>733601, 0.5, 0, 3725139, 0, -0.5</GeoTransform><VRTRasterBand dataType="Byte" band="1">'
    '<SimpleSource><SourceFilename relativeToVRT="1">part.tif</SourceFilename><SourceBand>1</SourceBand>'
    "</SimpleSource></VRTRasterBand></VRTDataset>"
)


def mask_beside(folder: Path, make_scene: Callable[..., Any]) -> None:
    """Half of the scene has no data from now on."""
    make_scene(BRIGHT, name="other")
    mask = np.repeat([0, 255], [50 * 130, 50 * 130]).reshape(100, 130).astype(np.uint8)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(folder / "other.tif", "r+") as dataset:
        dataset.write_mask(mask)
    shutil.move(folder / "other.tif.msk", folder / "scene.tif.msk")


def same_size_and_time(folder: Path, make_scene: Callable[..., Any]) -> None:
    """Other pixels, in a copy that keeps times."""
    before = (folder / "scene.tif").stat()
    make_scene(DARK, name="scene")
    assert (folder / "scene.tif").stat().st_size == before.st_size
    os.utime(folder / "scene.tif", ns=(before.st_atime_ns, before.st_mtime_ns))


def source_of_a_virtual_raster(folder: Path, make_scene: Callable[..., Any]) -> None:
    make_scene(DARK, name="part")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "image", "bright"),
    [(mask_beside, "scene.tif", 6500), (same_size_and_time, "scene.tif", 0), (source_of_a_virtual_raster, "m.vrt", 0)],
)
def test_a_map_follows_what_its_imagery_depends_on(
    change: Any,
    image: str,
    bright: int,
    make_scene: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    promote_bright(tmp_path)
    make_scene(BRIGHT, name="scene")
    make_scene(BRIGHT, name="part")
    (tmp_path / "m.vrt").write_text(VRT)
    config = MapsConfig.parse({"model": "bright", "images": [image], "device": "cpu", "outputs": ["map"]})

    def bright_pixels() -> int:
        assert run_job(make_job(config), on_line=lambda line: None).failures == {}
        with rasterio.open(tmp_path / "maps" / Path(image).stem / "map.tif") as dataset:
            return int((dataset.read(1) == 1).sum())

    assert bright_pixels() == 13000
    assert run_job(make_job(config), on_line=lambda line: None).reused == [Path(image).stem]
    change(tmp_path, make_scene)
    assert bright_pixels() == bright

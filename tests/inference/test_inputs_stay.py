"""Maps, pictures and items are refused, before anything is predicted, where they are inputs. correctness 80."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from tests.bright_model import promote_bright
from tests.rasters import write_raster
from ununennium.cli import run
from ununennium.config.maps import MapsConfig
from ununennium.errors import ConfigError
from ununennium.inference import Predictor
from ununennium.inference.jobs import make_job

PIXELS = np.full((1, 40, 50), 40, np.uint8)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    promote_bright(tmp_path, resolution=None, crs=None)
    write("scene.tif")
    return tmp_path


def write(name: str, **profile) -> None:
    write_raster(name, PIXELS, **profile)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def refused(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The message of a ``predict`` that changes no file."""
    before = contents(folder)
    assert run(["predict", *arguments, "--model", "bright"]) == 2
    assert contents(folder) == before
    return " ".join(capsys.readouterr().err.split())


def test_the_image_is_not_written_over(folder, capsys):
    os.symlink("scene.tif", "link.tif")
    os.link("scene.tif", "hard.tif")
    for image, output in (("scene.tif", "scene.tif"), ("link.tif", "scene.tif"), ("scene.tif", "hard.tif")):
        said = refused(folder, capsys, image, "-o", output)
        assert f"output = '{output}'" in said
        assert f"the map is the input {image}" in said
    assert "is the input" in refused(folder, capsys, f"file://{folder}/scene.tif", "-o", f"file://{folder}/scene.tif")


def test_files_beside_the_map_and_its_picture_are_outputs_too(folder, capsys):
    write("photo.png", driver="PNG")
    assert "the picture is the input photo.png" in refused(folder, capsys, "photo.png", "-o", "photo.tif")
    write("town-probabilities.tif")
    said = refused(folder, capsys, "town-probabilities.tif", "-o", "town.tif", "--outputs", "probabilities")
    assert "the probabilities is the input" in said
    assert "the picture" in refused(folder, capsys, "scene.tif", "-o", "map.tif", "--quicklook", "scene.tif")
    assert "at once" in refused(folder, capsys, "scene.tif", "-o", "map.png")
    shutil.copy("scene.tif", "map-areas.csv")  # GDAL reads by content
    assert "the areas is the input" in refused(folder, capsys, "map-areas.csv", "-o", "map.tif", "--outputs", "areas")


def test_sources_sidecars_and_the_model_are_inputs_too(folder, capsys):
    rasterio.shutil.copy("scene.tif", "inner.vrt", driver="VRT")
    Path("outer.vrt").write_text(Path("inner.vrt").read_text().replace("scene.tif", "inner.vrt"))
    for output in ("scene.tif", "inner.vrt", "outer.vrt", "scene.tif.msk", "scene.tfw"):
        assert "input" in refused(folder, capsys, "outer.vrt", "-o", output)
    weights = next((folder / "storage" / "models").rglob("*.safetensors"))
    assert "which is read" in refused(folder, capsys, "scene.tif", "-o", str(weights))


def test_the_library_refuses_as_the_command_does(folder):
    predictor = Predictor.champion("bright", storage=str(folder / "storage"))
    before = contents(folder)
    for image in ("scene.tif", {"red": "scene.tif"}, {"red": ("scene.tif", 1)}, ["scene.tif"]):
        for resume in (True, False):
            with pytest.raises(ConfigError, match="the map is the input"):
                predictor.map(image, "scene.tif", resume=resume)
    assert contents(folder) == before
    predictor.map("scene.tif", "map.tif")
    predictor.map("scene.tif", "map.tif")  # a map is written over the last one


def test_a_job_writes_over_none_of_its_scenes(folder):
    write("maps/scene/map.tif")
    write("maps/other/confidence.tif")
    os.symlink(folder / "maps" / "scene", "elsewhere")
    for scenes, what in (
        ([{"image": "scene.tif"}, {"image": "maps/scene/map.tif", "name": "old"}], "map of scene"),
        ([{"image": "elsewhere/map.tif", "name": "scene"}], "map of scene"),
        ([{"image": {"red": "maps/scene/map.tif"}, "name": "scene"}], "map of scene"),
        ([{"image": "maps/other/confidence.tif", "name": "other"}], "confidence of other"),
    ):
        with pytest.raises(ConfigError, match=f"the {what} is the input"):
            make_job(MapsConfig.parse({"model": "bright", "scenes": scenes}))
    make_job(MapsConfig.parse({"model": "bright", "scenes": [{"image": "maps/scene/map.tif", "name": "new"}]}))


def test_other_commands_write_over_no_input(folder, capsys):
    before = contents(folder)
    weights = next((folder / "storage" / "models").rglob("*.safetensors"))
    assert run(["registry", "export", "bright", "-o", str(weights)]) == 2
    assert run(["init", str(folder), "-o", str(folder / "scene.tif"), "--force"]) == 2
    assert "the configuration is the input" in " ".join(capsys.readouterr().err.split())
    assert contents(folder) == before

"""Nothing is written over what it is made from. correctness 80."""

from __future__ import annotations

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rasterio.vrt

from ununennium.data.scenes.overwriting import local_output, refuse_overwriting
from ununennium.errors import ConfigError


@pytest.fixture
def folder(make, monkeypatch):
    """``scene.tif``, and the working directory."""
    make.raster("scene.tif", np.ones((1, 8, 8), np.uint8))
    monkeypatch.chdir(make.folder)
    return make.folder


def virtual(name: str, source: str, *, relative: bool = True) -> str:
    """A virtual raster of one file."""
    text = f"""<VRTDataset rasterXSize="8" rasterYSize="8"><VRTRasterBand dataType="Byte" band="1"><SimpleSource>
    <SourceFilename relativeToVRT="{int(relative)}">{source}</SourceFilename><SourceBand>1</SourceBand></SimpleSource>
    </VRTRasterBand></VRTDataset>"""
    if name:
        Path(name).write_text(text)
    return name or text


def refused(output, *inputs):
    with pytest.raises(ConfigError, match="nothing is written over what it is made from") as caught:
        refuse_overwriting({"map": output}, inputs)
    assert str(output) in str(caught.value)
    return str(caught.value)


def test_a_file_is_the_same_whichever_way_it_is_named(folder):
    os.symlink("scene.tif", "link.tif")
    os.link("scene.tif", "hard.tif")
    (folder / "sub").mkdir()
    os.symlink(folder, "sub/up")
    names = [
        "scene.tif", "./scene.tif", "sub/../scene.tif", "link.tif", "hard.tif", "sub/up/scene.tif",
        str(folder / "scene.tif"), f"file://{folder}/scene.tif", folder / "scene.tif",
    ]  # fmt: skip
    for output in names:
        for given in [*names, "GTIFF_DIR:1:scene.tif", f"GTIFF_RAW:{folder}/scene.tif"]:
            if "file:" in str(output) and ":1:" in str(given):
                continue
            message = refused(output, given)
            assert str(given) in message
    refuse_overwriting({"map": "new.tif", "areas": "sub/scene.tif"}, names)
    shutil.copy("scene.tif", "copy.tif")  # another file, with the same contents
    refuse_overwriting({"map": "copy.tif"}, names)


def test_case_that_the_file_system_tells_apart_is_no_reason(folder):
    shutil.copy("scene.tif", "Scene.tif")
    if os.path.samefile("scene.tif", "Scene.tif"):
        pytest.skip("needs a file system with case")
    refuse_overwriting({"map": "Scene.tif"}, ["scene.tif"])


def test_sources_of_virtual_rasters_are_read_down_to_the_last(folder):
    (folder / "deep").mkdir()
    virtual("deep/inner.vrt", "../scene.tif")
    virtual("outer.vrt", str(folder / "deep" / "inner.vrt"), relative=False)
    for name in ("outer.vrt", "deep/inner.vrt", "scene.tif"):
        refused(name, "outer.vrt")
    refused("scene.tif", virtual("", str(folder / "scene.tif"), relative=False))
    refused("scene.tif", "vrt://scene.tif?bands=1")
    with rasterio.open("scene.tif") as source, rasterio.vrt.WarpedVRT(source, crs="EPSG:4326") as moved:
        rasterio.shutil.copy(moved, "warped.vrt", driver="VRT")
    refused("scene.tif", "warped.vrt")
    with zipfile.ZipFile("all.zip", "w") as archive:
        archive.write("scene.tif")
    refused("all.zip", "zip://all.zip!scene.tif")
    refused("all.zip", "/vsizip/all.zip/scene.tif")


@pytest.mark.parametrize("name", ["scene.tif.msk", "scene.tif.aux.xml", "scene.tif.ovr", "scene.tfw", "scene.wld"])
@pytest.mark.parametrize("is_there", [True, False])
def test_sidecars_are_part_of_an_input(folder, name, is_there):
    """A file that is not there yet would change what is read of the image from then on."""
    if is_there:
        (folder / name).write_bytes(b"x")
    assert "read along with" in refused(name, "scene.tif")
    virtual("outer.vrt", "scene.tif")
    refused(name, "outer.vrt")
    (folder / "elsewhere").mkdir()
    refuse_overwriting({"map": f"elsewhere/{name}"}, ["scene.tif"])


def test_parts_of_a_shapefile_are_part_of_the_labels(folder):
    for ending in ("shp", "shx", "dbf", "prj"):
        (folder / f"labels.{ending}").write_bytes(b"x")
    for ending in ("shp", "shx", "dbf", "prj"):
        refused(f"labels.{ending}", "labels.shp")


def test_folders_keep_all_that_lies_in_them(folder):
    (folder / "model" / "deep").mkdir(parents=True)
    refused("model/deep/weights.safetensors", "model")
    refused("model/../model/new.tif", f"file://{folder}/model")
    refuse_overwriting({"map": "models.tif"}, ["model"])


def test_two_outputs_are_two_files(folder):
    for other in ("map.png", "./map.png", folder / "map.png"):
        with pytest.raises(ConfigError, match="is to be the map and the picture at once"):
            refuse_overwriting({"map": "map.png", "picture": other}, [])


@pytest.mark.parametrize(("output", "given"), [
    ("s3://maps/a/map.tif", "s3://maps/a/map.tif"), ("s3://maps/a//b/../map.tif", "/vsis3/maps/a/map.tif"),
    ("s3://maps/a/map.tif", "https://maps.s3.eu-central-1.amazonaws.com/a/map.tif"),
    ("s3://maps/a/map.tif", "https://s3.eu-central-1.amazonaws.com/maps/a/map.tif"),
    ("s3://maps/a b/map.tif", "https://maps.s3.amazonaws.com/a%20b/map.tif"),
    ("s3a://maps/a/map.tif", "/vsis3_streaming/maps/a/map.tif"),
    ("s3://maps/a/map.tif", "http://minio:9000/maps/a/map.tif"),
    ("s3://maps/a.zip", "/vsizip//vsis3/maps/a.zip/map.tif"),
    ("gs://maps/map.tif", "https://storage.googleapis.com/maps/map.tif"),
    ("s3://maps/a.tif.msk", "s3://maps/a.tif"), ("https://host/maps/map.tif", "/vsicurl/https://HOST/maps/map.tif"),
])  # fmt: skip
def test_objects_of_a_store_are_the_same_whichever_url_names_them(folder, monkeypatch, output, given):
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minio:9000")
    refused(output, given)
    refuse_overwriting({"map": output.replace("map", "new").replace("a.", "b.")}, [given])


def test_outputs_on_this_machine_have_paths():
    assert local_output("a/map.tif") == Path("a/map.tif")
    assert local_output(Path("file:///data/a%20b/map.tif")) == local_output("file:///data/a b/map.tif")
    assert local_output("file:///data/a b/map.tif") == Path("/data/a b/map.tif")
    for output in ("s3://bucket/map.tif", Path("s3://bucket/map.tif")):
        with pytest.raises(ConfigError, match="is a URL; give a path on this machine"):
            local_output(output)


def test_places_where_no_file_can_be_are_refused_before_anything_is_made(folder):
    os.mkfifo("pipe")
    (folder / "sub").mkdir()
    os.symlink("pipe", "link")
    for output in ("sub", "sub/..", "pipe", "link", "scene.tif/map.tif", "sub/../pipe"):
        with pytest.raises(ConfigError, match="give") as caught:
            refuse_overwriting({"map": output}, [])
        assert output in str(caught.value)
    refuse_overwriting({"map": "new/folder/map.tif"}, ["scene.tif"])
    for nothing in ("", "."):
        with pytest.raises(ConfigError, match="names no file"):
            local_output(nothing)

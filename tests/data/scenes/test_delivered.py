"""Files and catalogues that others deliver are bounded before they are read (correctness 84)."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil

from ununennium.config import CatalogConfig
from ununennium.config.predictor import InputCheckConfig
from ununennium.data import build_index, open_catalog
from ununennium.data.scenes.delivered import DRIVERS_VARIABLE
from ununennium.data.scenes.sources import scenes_without_labels
from ununennium.data.scenes.sources.hrefs import LOCAL_HREFS_VARIABLE, check_href
from ununennium.errors import DataError
from ununennium.inference.input_check import open_checked


def sparse_tiff(path: Path, width: int, height: int) -> None:
    """A TIFF of a few hundred bytes that says it has ``width`` x ``height`` pixels, and has none of them."""
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (277, 3, 1, 1),
        (322, 4, 1, 256), (323, 4, 1, 256), (324, 4, 1, 0), (325, 4, 1, 0),
    ]  # fmt: skip
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    path.write_bytes(b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", 0) + b"\0" * 300)


def huge(folder: Path) -> str:
    sparse_tiff(folder / "huge.tif", 2_000_000, 2_000_000)
    return str(folder / "huge.tif")


def without_a_block(folder: Path) -> str:
    with rasterio.open(
        folder / "empty.tif", "w", driver="GTiff", width=4096, height=4096, count=2, dtype="uint16", tiled=True,
        SPARSE_OK=True, crs="EPSG:32633", transform=rasterio.Affine(10, 0, 500000, 0, -10, 5000000),
    ):  # fmt: skip
        pass
    return str(folder / "empty.tif")


def pipe(folder: Path) -> str:
    os.mkfifo(folder / "pipe.tif")
    return str(folder / "pipe.tif")


def pipe_behind_a_virtual_raster(folder: Path) -> str:
    os.mkfifo(folder / "part.tif")
    (folder / "mosaic.vrt").write_text(virtual("part.tif"))
    return str(folder / "mosaic.vrt")


def device(folder: Path) -> str:
    (folder / "device.tif").symlink_to("/dev/zero")
    return str(folder / "device.tif")


def folder_named_like_an_image(folder: Path) -> str:
    (folder / "folder.tif").mkdir()
    return str(folder / "folder.tif")


def zero_bytes(folder: Path) -> str:
    (folder / "nothing.tif").touch()
    return str(folder / "nothing.tif")


def without_bands(folder: Path) -> str:
    """A virtual raster whose band is commented out."""
    text = '<VRTDataset rasterXSize="64" rasterYSize="64"><!-- <VRTRasterBand/> --></VRTDataset>'
    (folder / "bare.vrt").write_text(text)
    return str(folder / "bare.vrt")


def virtual(source: str, relative: int = 1) -> str:
    return (
        '<VRTDataset rasterXSize="256" rasterYSize="256"><SRS>EPSG:32633</SRS>'
        '<GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform><VRTRasterBand dataType="UInt16" band="1">'
        f'<SimpleSource><SourceFilename relativeToVRT="{relative}">{source}</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand></VRTDataset>"
    )


def virtual_under_another_name(folder: Path) -> str:
    (folder / "scene.tif").write_text(virtual("/etc/hostname.tif", relative=0))
    return str(folder / "scene.tif")


def virtual_in_a_mosaic(folder: Path) -> str:
    virtual_under_another_name(folder)
    (folder / "mosaic.vrt").write_text(virtual("scene.tif"))
    return str(folder / "mosaic.vrt")


@pytest.mark.parametrize(
    ("deliver", "told"),
    [
        (huge, r"huge\.tif says that it has 2000000 x 2000000 pixels.*more than data\.max_pixels = 10000000000"),
        (without_a_block, r"empty\.tif has 4096 x 4096 pixels and not one block .*Deliver it again"),
        (pipe, r"pipe\.tif is no file but a pipe"),
        (pipe_behind_a_virtual_raster, r"part\.tif is no file but a pipe"),
        (device, r"device\.tif is no file but a pipe, device"),
        (folder_named_like_an_image, r"folder\.tif is a folder; give the path of a file"),
        (zero_bytes, r"nothing\.tif is empty \(0 bytes\)"),
        (without_bands, r"bare\.vrt cannot be read .*bands.*; check the path"),
        (virtual_under_another_name, r"scene\.tif is no file with data of its own.*VRTDataset.*security\.md"),
        (virtual_in_a_mosaic, r"scene\.tif is no file with data of its own"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_cannot_be_read_is_refused_with_its_name(
    deliver: Callable[[Path], str], told: str, make, tmp_path: Path
) -> None:
    image = deliver(tmp_path)
    with pytest.raises(DataError, match=f"(?s)image of scene.*{told}"):
        open_catalog(make.config({"image": image, "label": "labels.tif"}))
    with pytest.raises(DataError, match="(?s)" + told.replace(r"data\.max", r"fit\.max")):
        open_checked(image, {"bands": [1]})
    with pytest.raises(DataError, match=f"(?s){told}"):
        open_catalog(make.config({"image": image, "label": "labels.tif"}, align="warp"))


def test_the_bound_on_pixels_is_a_setting(make, tmp_path):
    scene = make.scene()
    assert build_index(make.config(scene, max_pixels=256 * 256)).scenes[0].width == 256
    with pytest.raises(DataError, match=r"256 x 256 pixels.*more than data\.max_pixels = 65535"):
        build_index(make.config(scene, max_pixels=256 * 256 - 1))
    with pytest.raises(DataError, match=r"more than fit\.max_pixels = 65535"):
        open_checked(scene["image"], {"bands": [1]}, InputCheckConfig(max_pixels=256 * 256 - 1))
    grid = {"crs": "EPSG:32633", "resolution": 0.01}
    with pytest.raises(DataError, match=r"256000 x 256000 pixels .*on the grid that it would be warped to"):
        build_index(make.config(scene, align="warp", grid=grid))


def test_a_label_raster_without_a_block_is_all_background(make, tmp_path):
    """Writers leave out blocks of zeros."""
    scene = make.scene()
    labels = make.raster("sparse.tif", np.zeros((1, 256, 256), np.uint8), tiled=True, SPARSE_OK=True)
    (found,) = open_catalog(make.config(scene | {"label": labels}))
    assert found.label == labels


SERVICE = (
    '<GDAL_WMS><Service name="TMS"><ServerUrl>http://127.0.0.1:{port}/${{z}}/${{x}}/${{y}}.png</ServerUrl></Service>'
    "<DataWindow><UpperLeftX>-20037508.34</UpperLeftX><UpperLeftY>20037508.34</UpperLeftY>"
    "<LowerRightX>20037508.34</LowerRightX><LowerRightY>-20037508.34</LowerRightY><TileLevel>1</TileLevel>"
    "<TileCountX>1</TileCountX><TileCountY>1</TileCountY><YOrigin>top</YOrigin></DataWindow>"
    "<Projection>EPSG:3857</Projection><BlockSizeX>256</BlockSizeX><BlockSizeY>256</BlockSizeY><BandsCount>3</BandsCount>"
    "</GDAL_WMS>"
)


@pytest.mark.parametrize("kind", ["wms", "vrt", "vectors", "pipeline"])
def test_no_server_is_asked_by_the_content_of_a_file(kind, make, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        listener.settimeout(0.3)
        url = f"/vsicurl/http://127.0.0.1:{port}/x.tif"
        content = {
            "wms": SERVICE.format(port=port),
            "vrt": virtual(url, relative=0),
            "vectors": f'<OGRVRTDataSource><OGRVRTLayer name="x"><SrcDataSource>{url}</SrcDataSource></OGRVRTLayer>'
            "</OGRVRTDataSource>",
            "pipeline": json.dumps({"type": "gdal_streamed_alg", "command_line": f"gdal vector pipeline ! read {url}"}),
        }[kind]
        scene = make.scene()
        file = tmp_path / ("delivered.tif" if kind in ("wms", "vrt") else "delivered.geojson")
        file.write_text(content)
        part = "image" if kind in ("wms", "vrt") else "label"
        with pytest.raises(DataError, match=r"delivered\.(tif|geojson) is no file with data of its own"):
            open_catalog(make.config(scene | {part: str(file)}))
        with pytest.raises(TimeoutError):
            listener.accept()


def test_a_virtual_raster_by_its_own_name_is_read(make, tmp_path):
    scene = make.scene(bands=1)
    (tmp_path / "mosaic.vrt").write_text(virtual("scene.tif"))
    (found,) = open_catalog(make.config(scene | {"image": str(tmp_path / "mosaic.vrt")}))
    assert (found.width, found.height) == (256, 256)


def test_further_drivers_are_allowed_by_an_environment_variable(make, tmp_path, monkeypatch):
    scene = make.scene(bands=1)
    (tmp_path / "disguised.tif").write_text(virtual("scene.tif"))
    config = make.config(scene | {"image": str(tmp_path / "disguised.tif")})
    for allowed in ("VRT", "any"):
        monkeypatch.setenv(DRIVERS_VARIABLE, allowed)
        assert open_catalog(config)[0].width == 256
    monkeypatch.delenv(DRIVERS_VARIABLE)
    with pytest.raises(DataError, match=DRIVERS_VARIABLE):
        open_catalog(config)


@pytest.mark.parametrize(
    ("driver", "ending", "dtype"),
    [("JP2OpenJPEG", "jp2", np.uint16), ("HFA", "img", np.uint16), ("ENVI", "bin", np.float32),
     ("PNG", "png", np.uint8), ("GPKG", "gpkg", np.uint8), ("COG", "tif", np.int16), ("AAIGrid", "asc", np.float32)],
)  # fmt: skip
def test_common_formats_are_read(driver, ending, dtype, tmp_path):
    pixels = np.random.default_rng(0).integers(1, 99, (1, 64, 64)).astype(dtype)
    source = tmp_path / "source.tif"
    settings = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500000, 0, -10, 5000000), "dtype": dtype}
    with rasterio.open(source, "w", driver="GTiff", count=1, width=64, height=64, **settings) as dataset:
        dataset.write(pixels)
    image = tmp_path / f"image.{ending}"
    rasterio.shutil.copy(source, image, driver=driver)
    opened = open_checked(str(image), {"bands": [1], "crs": None, "resolution": None, "statistics": {}, "nodata": None})
    assert (opened.scene.width, opened.scene.height) == (64, 64)


# Vector files ---------------------------------------------------------------------------------------------------------


def geojson(path: Path, ring: list[list[float]], crs: str | None = "EPSG:32633", *, crs_last: bool = False) -> str:
    named = {"crs": {"type": "name", "properties": {"name": crs}}} if crs else {}
    shapes = {
        "features": [
            {
                "type": "Feature",
                "properties": {"fold": "holdout"},
                "geometry": {"type": "Polygon", "coordinates": [each]},
            }
            for each in ([[500000, 4999000], [500900, 4999000], [500900, 4999900], [500000, 4999000]], ring)
        ]
    }
    path.write_text(
        json.dumps({"type": "FeatureCollection", **({**shapes, **named} if crs_last else {**named, **shapes})})
    )
    return str(path)


CLOSED = [[500000, 4998000], [501000, 4998000], [501000, 4999000], [500000, 4998000]]


def test_a_ring_that_is_not_closed_is_named(make, tmp_path):
    label = geojson(tmp_path / "open.geojson", CLOSED[:-1])
    with pytest.raises(DataError, match=r"open\.geojson: shape 2 is no geometry .*; repeat the ring's first position"):
        build_index(make.config(make.scene() | {"label": label}))
    split = {"method": "file", "file": label}
    with pytest.raises(DataError, match=r"data\.split\.file: .*open\.geojson: shape 2 is no geometry"):
        build_index(make.config(make.scene(), split=split))


@pytest.mark.parametrize("crs_last", [False, True])
@pytest.mark.parametrize("crs", ["EPSG:999999", "urn:ogc:def:crs:EPSG::999999", "nowhere"])
def test_an_unknown_crs_is_named(crs, crs_last, make, tmp_path):
    label = geojson(tmp_path / "labels.geojson", CLOSED, crs, crs_last=crs_last)
    with pytest.raises(DataError, match=rf"labels\.geojson is in a CRS that is not known, {crs}; write"):
        open_catalog(make.config(make.scene() | {"label": label}))


@pytest.mark.parametrize("crs", ["EPSG:32633", "urn:ogc:def:crs:EPSG::32633", "urn:ogc:def:crs:EPSG:6.9:32633"])
def test_known_names_of_a_crs_pass(crs, make, tmp_path):
    label = geojson(tmp_path / "labels.geojson", CLOSED, crs)
    assert open_catalog(make.config(make.scene() | {"label": label}))[0].label == label


@pytest.mark.parametrize("make_file", [os.mkfifo, Path.touch], ids=["pipe", "empty"])
def test_labels_that_are_no_file(make_file, make, tmp_path):
    make_file(tmp_path / "labels.geojson")
    with pytest.raises(DataError, match=r"labels\.geojson is (no file|empty)"):
        open_catalog(make.config(make.scene() | {"label": str(tmp_path / "labels.geojson")}))


# Addresses in catalogues ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "href", "told"),
    [
        ("/etc/passwd.tif", "/etc/passwd.tif", "is no remote file"),
        ("file:///etc/a.tif", "file:///etc/a.tif", "is no remote file"),
        ("/vsicurl/http://h/a.tif", "/vsicurl/http://h/a.tif", "is no remote file"),
        ("vrt:///a.tif", "vrt:///a.tif", "is no remote file"),
        ("../../a.tif", "https://h/a.tif", "leads out of the catalogue's folder"),
        ("../b.vrt", "https://h/cat/b.vrt", "is a virtual raster"),
        ("../a.tif", "https://h/cat/a.tif", None),
        ("./a.tif", "https://h/cat/items/a.tif", None),
        ("https://other/a.tif", "https://other/a.tif", None),
        ("s3://bucket/a.tif", "s3://bucket/a.tif", None),
    ],
)
def test_a_served_catalogue_names_remote_files_only(written, href, told, monkeypatch):
    if told is None:
        check_href(href, "https://h/cat/catalog.json", "data.catalog.stac", written=written)
        return
    with pytest.raises(DataError, match=f"{told}.*{LOCAL_HREFS_VARIABLE}=1"):
        check_href(href, "https://h/cat/catalog.json", "data.catalog.stac", written=written)
    check_href(href, "/data/catalog.json", "data.catalog.stac", written=written)
    monkeypatch.setenv(LOCAL_HREFS_VARIABLE, "1")
    check_href(href, "https://h/cat/catalog.json", "data.catalog.stac", written=written)


@pytest.mark.parametrize("kind", ["stac", "table"])
def test_a_local_path_in_a_served_catalogue_is_not_read(kind, make, tmp_path):
    scene = make.scene()
    served = tmp_path / "served"
    served.mkdir()
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "a", "geometry": None, "links": [],
        "properties": {"datetime": "2026-05-20T00:00:00Z"}, "assets": {"image": {"href": f"file://{scene['image']}"}},
    }  # fmt: skip
    (served / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
    (served / "scenes.csv").write_text(f"image\n{scene['image']}\n")
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(command, cwd=served, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as server:
        try:
            assert server.stdout is not None
            address = f"http://127.0.0.1:{server.stdout.readline().split(' port ')[1].split()[0]}"
            source = {"stac": f"{address}/items.json", "assets": ["image"]}
            catalog = CatalogConfig.model_validate(source if kind == "stac" else {"table": f"{address}/scenes.csv"})
            with pytest.raises(DataError, match=r"scene\.tif, which is no remote file"):
                scenes_without_labels(catalog)
        finally:
            server.terminate()

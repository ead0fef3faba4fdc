"""What was made of files is made anew when a file changes that they depend on (correctness 76)."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.control import GroundControlPoint
from rasterio.vrt import WarpedVRT

from ununennium.data import ChipIndex, build_index, open_catalog
from ununennium.data.chips.index_cache import check_unchanged, indexed
from ununennium.data.scenes import fingerprints
from ununennium.data.scenes.fingerprints import Fingerprints
from ununennium.data.scenes.locations import local_file, remote_url
from ununennium.errors import DataError
from ununennium.files import cache_folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that believes the file system's times from the first moment on."""
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fingerprints, "_SETTLED_NS", 0)
    return tmp_path / "cache" / "contents.json"


def virtual(path: Path, source: str, size: int = 256, *, relative: int = 1, dtype: str = "UInt16") -> str:
    """The text of a virtual raster of one band of a file, written to ``path``."""
    text = (
        f'<VRTDataset rasterXSize="{size}" rasterYSize="{size}"><SRS>EPSG:32633</SRS>'
        "<GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform>"
        f'<VRTRasterBand dataType="{dtype}" band="1"><SimpleSource><SourceFilename relativeToVRT="{relative}">{source}'
        "</SourceFilename><SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return text


def keeping_times(path: str | Path, change: Callable[[], object]) -> None:
    """Change a file as a copy that keeps times does."""
    before = Path(path).stat()
    change()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def noise(seed: int = 0, size: int = 256) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 1000, (1, size, size)).astype(np.uint16)


# Unchanged rule for plain files ---------------------------------------------------------------------------------------


def test_plain_files_have_the_hash_of_earlier_versions(make):
    scene = make.scene()
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(scene["image"], "r+") as dataset:
        dataset.write_mask(np.full((256, 256), 255, np.uint8))
    shutil.copy(scene["label"], f"{scene['label']}.ovr")
    index = build_index(make.config(scene))
    files = [scene["image"], f"{scene['image']}.msk", scene["label"], f"{scene['label']}.ovr"]
    expected = hashlib.sha256(b"".join(hashlib.sha256(Path(file).read_bytes()).digest() for file in files))
    assert index.data_sha256 == expected.hexdigest()


def test_shapefile_parts_have_the_hash_of_earlier_versions(make, tmp_path):
    scene = make.scene() | {"label": shapefile(tmp_path)}
    scenes = open_catalog(make.config(scene))
    files = [scene["image"], *(str(tmp_path / f"labels.{part}") for part in ("shp", "dbf", "shx", "prj", "cpg"))]
    expected = hashlib.sha256(b"".join(hashlib.sha256(Path(file).read_bytes()).digest() for file in files))
    assert Fingerprints().of_scenes(scenes) == expected.hexdigest()


def test_an_index_of_an_earlier_version_is_checked_by_its_own_rule(make, tmp_path):
    """It has a virtual raster, whose sources were no part of its hash."""
    scene = make.scene()
    virtual(tmp_path / "mosaic.vrt", "scene.tif")
    index = build_index(make.config({"image": str(tmp_path / "mosaic.vrt"), "label": scene["label"]}))
    old = json.loads(index.to_text())
    files = [tmp_path / "mosaic.vrt", Path(scene["label"])]
    by_first_rule = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    assert old["data_sha256"] != by_first_rule
    old["data_sha256"] = by_first_rule
    del old["other_files"]
    (tmp_path / "index.json").write_text(json.dumps(old))
    check_unchanged(ChipIndex.load(tmp_path / "index.json"))
    Path(scene["label"]).write_bytes(Path(scene["label"]).read_bytes() + b" ")
    with pytest.raises(DataError, match="not what they were"):
        check_unchanged(ChipIndex.load(tmp_path / "index.json"))


# What a raster depends on ---------------------------------------------------------------------------------------------


def shapefile(folder: Path) -> str:
    import pyogrio
    import shapely

    square = shapely.box(500000, 4999000, 501000, 5000000)
    pyogrio.raw.write(
        str(folder / "labels.shp"), np.array([shapely.to_wkb(square)]), [np.array(["a"])], ["kind"],
        crs="EPSG:32633", geometry_type="Polygon", driver="ESRI Shapefile", ENCODING="UTF-8",
    )  # fmt: skip
    return str(folder / "labels.shp")


def nested(folder: Path, make: Any) -> tuple[str, Callable[[], None]]:
    """A virtual raster of one in another folder, of a file beside that one."""
    make.raster("part.tif", noise())
    (folder / "deep").mkdir()
    shutil.move(folder / "part.tif", folder / "deep" / "part.tif")
    virtual(folder / "deep" / "inner.vrt", "part.tif")
    virtual(folder / "outer.vrt", "deep/inner.vrt")
    file = folder / "deep" / "part.tif"
    return str(folder / "outer.vrt"), partial(_replace, file, make)


def _replace(file: Path, make: Any) -> None:
    keeping_times(file, lambda: shutil.copy(make.raster("new.tif", noise(1)), file))


def text_of_a_file(folder: Path, make: Any) -> tuple[str, Callable[[], None]]:
    file = Path(make.raster("part.tif", noise()))
    return virtual(folder / "unused.vrt", str(file), relative=0), partial(_replace, file, make)


def warped(folder: Path, make: Any) -> tuple[str, Callable[[], None]]:
    """A virtual raster that warps its source."""
    file = Path(make.raster("part.tif", noise()))
    with rasterio.open(file) as source, WarpedVRT(source, crs="EPSG:3857") as moved:
        rasterio.shutil.copy(moved, str(folder / "warped.vrt"), driver="VRT")
    return str(folder / "warped.vrt"), partial(_replace, file, make)


def mask_of_a_source(folder: Path, make: Any) -> tuple[str, Callable[[], None]]:
    """A mask that was not there before, beside the source of a virtual raster."""
    file = Path(make.raster("part.tif", noise()))
    virtual(folder / "mosaic.vrt", "part.tif")
    return str(folder / "mosaic.vrt"), lambda: shutil.copy(make.raster("other.tif", noise(2)), f"{file}.msk")


def missing_source(folder: Path, make: Any) -> tuple[str, Callable[[], None]]:
    virtual(folder / "mosaic.vrt", "later.tif")
    return str(folder / "mosaic.vrt"), lambda: make.raster("later.tif", noise()) and None


def world_file(folder: Path, make: Any) -> tuple[str, Callable[[], None]]:
    """A world file that was not there before, beside an image without georeference."""
    image = make.raster("image.tif", noise(), crs=None, transform=None)
    return image, lambda: (folder / "image.tfw").write_text("10\n0\n0\n-10\n500005\n4999995\n") and None


def changed_world_file(folder: Path, make: Any) -> tuple[str, Callable[[], None]]:
    image = make.raster("image.tif", noise(), crs=None, transform=None)
    world = folder / "image.tfw"
    world.write_text("10\n0\n0\n-10\n500005\n4999995\n")
    return image, lambda: keeping_times(world, lambda: world.write_text("10\n0\n0\n-10\n600005\n4999995\n"))


def metadata_of_a_satellite(folder: Path, make: Any) -> tuple[str, Callable[[], None]]:
    """Rational polynomials in the RPB file of a DigitalGlobe product."""
    image = make.raster("image.tif", noise(), crs=None, transform=None)
    lists = {name: "(\n" + ",\n".join(["1"] + ["0"] * 19) + ");\n" for name in ("lineNumCoef", "lineDenCoef")}
    text = 'satId = "QB02";\nbandId = "P";\nSpecId = "RPC00B";\nBEGIN_GROUP = IMAGE\n errBias = 0;\n errRand = 0;\n'
    text += "".join(f" {name} = {value};\n" for name, value in (
        ("lineOffset", 1), ("sampOffset", 1), ("latOffset", 1), ("longOffset", 1), ("heightOffset", 1),
        ("lineScale", 1), ("sampScale", 1), ("latScale", 1), ("longScale", 1), ("heightScale", 1)))  # fmt: skip
    for name, value in lists.items():
        text += f" {name} = {value} {name.replace('line', 'samp')} = {value}"
    text += "END_GROUP = IMAGE\nEND;\n"
    (folder / "image.IMD").write_text('version = "R";\nnumRows = 256;\nEND;\n')
    (folder / "image.RPB").write_text(text)
    return image, lambda: (folder / "image.RPB").write_text(text.replace("errBias = 0", "errBias = 1")) and None


def member_of_an_archive(folder: Path, make: Any) -> tuple[str, Callable[[], None]]:
    def pack(seed: int) -> None:
        with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
            archive.write(make.raster("member.tif", noise(seed)), "member.tif")

    pack(0)
    return f"/vsizip/{folder}/archive.zip/member.tif", partial(pack, 1)


def tile_index(folder: Path, make: Any) -> tuple[str, Callable[[], None]]:
    """The rasters that a GDAL tile index lists."""
    import pyogrio
    import shapely

    file = Path(make.raster("tile.tif", noise()))
    square = shapely.to_wkb(shapely.box(500000, 5000000 - 2560, 502560, 5000000))
    pyogrio.raw.write(
        str(folder / "tiles.gti.gpkg"), np.array([square]), [np.array([str(file)], object)], ["location"],
        crs="EPSG:32633", geometry_type="Polygon", driver="GPKG",
    )  # fmt: skip
    return str(folder / "tiles.gti.gpkg"), partial(_replace, file, make)


def part_of_a_file(folder: Path, make: Any) -> tuple[str, Callable[[], None]]:
    file = Path(make.raster("pages.tif", noise()))
    return f"GTIFF_DIR:1:{file}", partial(_replace, file, make)


def header_of_raw_pixels(folder: Path, make: Any) -> tuple[str, Callable[[], None]]:
    image = make.raster("image.img", noise(), driver="ENVI")
    header = next(folder.glob("image*.hdr"))
    text = header.read_text()
    return image, lambda: keeping_times(header, lambda: header.write_text(text.replace("500000", "600000")))


def index_of_a_shapefile(folder: Path, make: Any) -> tuple[str, Callable[[], None]]:
    path = shapefile(folder)
    return path, lambda: (folder / "labels.qix").write_bytes(b"index") and None


def attributes_of_a_shapefile_in_capitals(folder: Path, make: Any) -> tuple[str, Callable[[], None]]:
    path = shapefile(folder)
    shutil.move(folder / "labels.dbf", folder / "labels.DBF")
    return path, lambda: (folder / "labels.DBF").write_bytes((folder / "labels.DBF").read_bytes()[:-1] + b"x") and None


DEPENDENCIES = [
    nested, text_of_a_file, warped, mask_of_a_source, missing_source, world_file, changed_world_file,
    metadata_of_a_satellite, member_of_an_archive, tile_index, part_of_a_file, header_of_raw_pixels,
    index_of_a_shapefile, attributes_of_a_shapefile_in_capitals,
]  # fmt: skip


@pytest.mark.parametrize("depend", DEPENDENCIES, ids=lambda depend: depend.__name__)
def test_a_change_of_what_a_file_depends_on_is_noticed(depend, make, tmp_path, cache):
    folder = tmp_path / "data"
    folder.mkdir()
    make.folder = folder
    name, change = depend(folder, make)

    def look() -> Any:
        known = Fingerprints(cache)
        found = known.of_files([name])
        known.save()
        return found, known.num_hashed + known.num_listed

    before, _ = look()
    assert look() == (before, 0)
    change()
    after, _ = look()
    assert after != before
    assert look() == (after, 0)


def test_a_write_ahead_log_of_a_database_counts_once_it_holds_something(tmp_path):
    file = tmp_path / "labels.gpkg"
    with sqlite3.connect(file) as database:
        database.execute("CREATE TABLE a (b)")
    before = Fingerprints().of_files([str(file)])
    (tmp_path / "labels.gpkg-wal").touch()
    assert Fingerprints().of_files([str(file)]) == before
    (tmp_path / "labels.gpkg-wal").write_bytes(b"pages")
    assert Fingerprints().of_files([str(file)]) != before


def test_a_folder_that_is_moved_as_a_whole_keeps_its_fingerprint(make, tmp_path):
    make.folder = tmp_path / "here"
    make.folder.mkdir()
    make.raster("part.tif", noise())
    virtual(tmp_path / "here" / "mosaic.vrt", "part.tif")
    before = Fingerprints().of_files([str(tmp_path / "here" / "mosaic.vrt")])
    shutil.move(tmp_path / "here", tmp_path / "there")
    assert Fingerprints().of_files([str(tmp_path / "there" / "mosaic.vrt")]) == before


def test_a_file_that_is_not_there_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.tif cannot be read"):
        Fingerprints().of_files([str(tmp_path / "nowhere.tif")])


@pytest.mark.parametrize(
    ("name", "url"),
    [
        ("s3://bucket/a.tif", "s3://bucket/a.tif"),
        ("/vsis3/bucket/a.tif", "s3://bucket/a.tif"),
        ("/vsicurl/https://host/a.tif", "https://host/a.tif"),
        ("/vsicurl?max_retry=2&url=https%3A%2F%2Fhost%2Fa.tif", "https://host/a.tif"),
        ("/vsizip//vsicurl/https://host/a.zip/b.tif", "https://host/a.zip"),
        ("/vsizip/{/vsis3/bucket/a.zip}/b.tif", "s3://bucket/a.zip"),
        ("/vsiaz/container/a.tif", "az://container/a.tif"),
        ("scene.tif", None),
    ],
)
def test_remote_names_lead_to_what_the_store_is_asked_for(name, url):
    assert remote_url(name) == url
    assert local_file(name) is None


# Remote files ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """Address of a web server of the folder ``data``, in a process of its own: GDAL holds Python's lock as it reads."""
    (tmp_path / "data").mkdir()
    command = [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"]
    with subprocess.Popen(
        command, cwd=tmp_path / "data", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            assert server.stdout is not None
            port = re.search(r"port (\d+)", server.stdout.readline())
            assert port is not None
            yield f"http://127.0.0.1:{port[1]}"
        finally:
            server.terminate()


def test_remote_files_are_compared_by_what_their_store_says(web, make, tmp_path):
    make.folder = tmp_path / "data"
    scene = make.scene()
    virtual(tmp_path / "data" / "mosaic.vrt", "scene.tif")
    config = make.config({"image": f"{web}/mosaic.vrt", "label": scene["label"]})
    index = indexed(config).index
    assert indexed(config).reused
    check_unchanged(index)
    os.utime(scene["image"], (10**9, 10**9))
    assert not indexed(config).reused
    with pytest.raises(DataError, match="not what they were"):
        check_unchanged(index)
    before = Fingerprints().of_files([f"{web}/scene.tif"])
    shutil.copy(scene["label"], f"{scene['image']}.msk")
    assert Fingerprints().of_files([f"{web}/scene.tif"]) != before


def test_a_store_that_does_not_answer_is_no_changed_file(web, make, tmp_path, monkeypatch):
    from ununennium.data.scenes import stores

    monkeypatch.setattr(stores, "RETRY_WAITS_S", (0.0,))
    with pytest.raises(DataError, match=r"127\.0\.0\.1:1/a\.tif cannot be read"):
        Fingerprints().of_files(["http://127.0.0.1:1/a.tif"])


# What asks for fingerprints -------------------------------------------------------------------------------------------


def test_the_index_and_its_statistics_follow_the_source_of_a_virtual_raster(make, tmp_path):
    scene = make.scene(bands=1)
    virtual(tmp_path / "mosaic.vrt", "scene.tif")
    config = make.config({"image": str(tmp_path / "mosaic.vrt"), "label": scene["label"]})
    first = indexed(config)
    old = first.statistics().mean[0]
    with rasterio.open(scene["image"]) as dataset:
        pixels = dataset.read()
    keeping_times(scene["image"], lambda: make.raster("scene.tif", pixels + np.uint16(5000)))
    with pytest.raises(DataError, match="not what they were"):
        check_unchanged(first.index)
    second = indexed(config)
    assert not second.reused
    assert second.statistics().mean[0] == pytest.approx(old + 5000)
    check_unchanged(second.index)


def test_the_index_follows_a_mask_beside_the_file_of_one_band(make, tmp_path):
    scene = make.scene(bands=1)
    other = make.raster("other.tif", noise(3))
    config = make.config({"image": {"red": scene["image"], "nir": other}, "label": scene["label"]})
    first = indexed(config)
    assert indexed(config).reused
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(other, "r+") as dataset:
        dataset.write_mask(np.repeat([[0, 255]], [128 * 256], axis=1).reshape(256, 256).astype(np.uint8))
    with pytest.raises(DataError, match="not what they were"):
        check_unchanged(first.index)
    second = indexed(config)
    assert not second.reused
    assert int(second.index.survey.valid.sum()) < int(first.index.survey.valid.sum())


@pytest.mark.parametrize("ending", ["geojson", "gpkg"])
def test_the_folds_follow_the_file_that_they_are_drawn_in(make, tmp_path, ending):
    import pyogrio
    import shapely

    file = tmp_path / f"folds.{ending}"

    def draw(holdout: tuple[int, int], validation: tuple[int, int]) -> None:
        file.unlink(missing_ok=True)
        boxes = [
            shapely.box(500000 + 10 * a, 5000000 - 2560, 500000 + 10 * b, 5000000) for a, b in (holdout, validation)
        ]
        pyogrio.raw.write(
            str(file), shapely.to_wkb(boxes), [np.array(["holdout", "validation"], object)], ["fold"],
            crs="EPSG:32633", geometry_type="Polygon",
        )  # fmt: skip

    config = make.config(make.scene(), split={"method": "file", "file": str(file), "buffer": 0})
    draw((0, 64), (64, 96))
    first = indexed(config)
    assert indexed(config).reused
    keeping_times(file, lambda: draw((192, 256), (160, 192)))
    with pytest.raises(DataError, match=rf"folds\.{ending} is not what it was"):
        check_unchanged(first.index)
    second = indexed(config)
    assert not second.reused
    folds = second.index.split.folds(second.index.scenes[0], 0, 0, 1, 256)[0]
    fresh = build_index(config)
    np.testing.assert_array_equal(folds, fresh.split.folds(fresh.scenes[0], 0, 0, 1, 256)[0])
    assert (folds[192:] != first.index.split.folds(first.index.scenes[0], 0, 0, 1, 256)[0][192:]).all()


def test_warped_scenes_follow_the_source_of_a_virtual_raster(make, tmp_path):
    scene = make.scene(bands=1)
    virtual(tmp_path / "mosaic.vrt", "scene.tif")
    settings = {"image": str(tmp_path / "mosaic.vrt"), "label": scene["label"]}
    config = make.config(settings, align="warp", grid={"crs": "EPSG:32633", "resolution": 20})
    (before,) = open_catalog(config)
    keeping_times(scene["image"], lambda: make.raster("scene.tif", np.full((1, 256, 256), 7, np.uint16)))
    (after,) = open_catalog(config)
    assert Path(after.images[0]).parent == cache_folder() / "aligned"
    assert after.images != before.images
    with rasterio.open(after.images[0]) as dataset:
        assert (dataset.read(1) == 7).all()


def test_control_points_in_a_sidecar_are_noticed(make, tmp_path):
    """PAM keeps them in .aux.xml, which appears when somebody adds them."""
    image = make.raster("image.png", noise().astype(np.uint8), driver="PNG", crs=None, transform=None)
    before = Fingerprints().of_files([image])
    with rasterio.open(image, "r+") as dataset:
        corners = [GroundControlPoint(*corner) for corner in ((0, 0, 15, 46), (0, 256, 16, 46), (256, 0, 15, 45))]
        dataset.gcps = corners, rasterio.CRS.from_epsg(4326)
    assert Fingerprints().of_files([image]) != before

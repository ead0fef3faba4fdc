"""Scenes on a real S3 server, and what is done when a server fails."""

from __future__ import annotations

from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from rasterio.errors import RasterioIOError

from ununennium.config import DataConfig
from ununennium.data import build_index, open_catalog
from ununennium.data.scenes import remote
from ununennium.data.scenes.reader import SceneReader
from ununennium.errors import DataError


def config(**settings):
    split = {"block_size": 32, "buffer": 4, "validation": 0.2, "holdout": 0.2}
    return DataConfig.model_validate({"classes": ["even", "odd"], "chip_size": 32, "split": split, **settings})


def put(folder, *files):
    """Copies files to a URL's folder; gives their URLs."""
    files_there, _ = fsspec.core.url_to_fs(folder, use_listings_cache=False, skip_instance_cache=True)
    urls = [f"{folder}/{Path(file).name}" for file in files]
    for file, url in zip(files, urls, strict=True):
        files_there.put_file(file, url)
    return urls


class InWorker(torch.utils.data.Dataset):
    def __init__(self, reader):
        self.reader = reader

    def __len__(self):
        return 1

    def __getitem__(self, _):
        return self.reader.read(3, 5, 60, 70)[0]


@pytest.mark.slow
class TestObjectStorage:
    def test_a_folder_of_scenes_with_raster_labels_is_indexed_as_the_local_one_is(self, make, s3):
        scenes = [make.scene("a"), make.scene("bb")]
        put(f"{s3}/folder/deep", *(file for scene in scenes for file in scene.values()))
        there = build_index(config(catalog={"folder": f"{s3}/folder", "labels": "{stem}_label.tif"}))
        here = build_index(config(scenes=scenes))
        assert [scene.images[0] for scene in there.scenes] == [f"{s3}/folder/deep/{name}.tif" for name in ("a", "bb")]
        assert there.labelled == here.labelled
        for one, other in zip(here.scenes, there.scenes, strict=True):
            for ours, theirs in zip(
                here.reader(one).read(9, 7, 99, 80), there.reader(other).read(9, 7, 99, 80), strict=True
            ):
                np.testing.assert_array_equal(ours, theirs)

    def test_a_table_with_vector_labels(self, make, s3, atlanta):
        put(f"{s3}/table", *(str(atlanta / name) for name in ("atlanta_pan_05m.tif", "atlanta_buildings.geojson")))
        (make.folder / "t.csv").write_text("image,label\natlanta_pan_05m.tif,atlanta_buildings.geojson\n")
        put(f"{s3}/table", str(make.folder / "t.csv"))
        there = build_index(config(catalog={"table": f"{s3}/table/t.csv"}))
        local = {"image": str(atlanta / "atlanta_pan_05m.tif"), "label": str(atlanta / "atlanta_buildings.geojson")}
        here = build_index(config(scenes=[local]))
        assert there.labelled == here.labelled

    def test_bands_of_several_files_are_read_in_a_loaders_process(self, make, s3):
        pixels = np.random.default_rng(0).integers(0, 9999, (2, 256, 256)).astype(np.uint16)
        files = [make.raster(f"{name}.tif", band[None], compress="deflate", tiled=True, blockxsize=64, blockysize=64)
                 for name, band in zip("ab", pixels, strict=True)]  # fmt: skip
        red, nir = put(f"{s3}/bands", *files)
        (scene,) = open_catalog(config(scenes=[{"image": {"red": red, "nir": nir}}]))
        assert scene.files == (red, nir)
        reader = SceneReader(scene, ["nir", "red"])
        loader = torch.utils.data.DataLoader(
            InWorker(reader), batch_size=None, num_workers=1, multiprocessing_context="spawn", timeout=300
        )
        (image,) = loader
        np.testing.assert_array_equal(image, pixels[::-1, 3:63, 5:75])

    def test_a_file_that_was_replaced_is_read_anew(self, make, s3):
        (url,) = put(f"{s3}/new", make.scene("one")["image"])
        assert open_catalog(config(scenes=[{"image": url}]))[0].width == 256
        make.scene("one", size=128)
        put(f"{s3}/new", str(make.folder / "one.tif"))
        assert open_catalog(config(scenes=[{"image": url}]))[0].width == 128

    def test_missing_and_wrong_credentials_say_which_variables(self, make, s3, monkeypatch, tmp_path):
        (url,) = put(f"{s3}/secret", make.scene()["image"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
        with pytest.raises(DataError, match=r"scene\.tif cannot be read.*set AWS_ACCESS_KEY_ID and AWS_SECRET"):
            open_catalog(config(scenes=[{"image": url}]))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        monkeypatch.setenv("CPL_AWS_AUTODETECT_EC2", "NO")
        retries = remote.RETRIES.total
        with pytest.raises(DataError, match=r"scene\.tif cannot be read.*set AWS_ACCESS_KEY_ID and AWS_SECRET"):
            open_catalog(config(scenes=[{"image": url}]))
        assert remote.RETRIES.total == retries, "no new try mends missing credentials"

    def test_what_is_not_there(self, s3):
        retries = remote.RETRIES.total
        with pytest.raises(DataError, match=r"gone\.tif cannot be read.*check the path"):
            open_catalog(config(scenes=[{"image": f"{s3}/gone.tif"}]))
        with pytest.raises(DataError, match="no file in s3://scenes/empty matches"):
            open_catalog(config(catalog={"folder": f"{s3}/empty"}))
        assert remote.RETRIES.total == retries


@pytest.mark.parametrize(
    ("path", "error", "failures", "tries"),
    [
        ("s3://b/a.tif", RasterioIOError("HTTP response code: 503"), 2, 3),
        ("https://h/a.tif", OSError("connection reset"), 99, 5),
        ("s3://b/a.tif", RasterioIOError("HTTP response code: 404"), 99, 1),
        ("s3://b/a.tif", RasterioIOError("Access Denied."), 99, 1),
        ("/data/a.tif", RasterioIOError("Read failed"), 99, 1),
    ],
)
def test_what_may_pass_on_a_server_is_tried_again_and_counted(monkeypatch, path, error, failures, tries):
    monkeypatch.setattr(remote, "RETRY_WAITS_S", (0, 0, 0, 0))
    calls, again = [], []

    def act():
        calls.append(1)
        if len(calls) <= failures:
            raise error
        return "read"

    before = remote.RETRIES.total
    if failures < 5:
        assert remote.with_retries(path, act, lambda: again.append(1)) == "read"
    else:
        with pytest.raises(type(error)):
            remote.with_retries(path, act, lambda: again.append(1))
    assert (len(calls), len(again), remote.RETRIES.total - before) == (tries, tries - 1, tries - 1)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"AWS_ENDPOINT_URL": "http://host:9000"}, ("host:9000", "NO", "FALSE")),
        ({"AWS_ENDPOINT_URL": "http://a", "AWS_ENDPOINT_URL_S3": "https://b/"}, ("b", "YES", "FALSE")),
        ({}, (None, None, None)),
        ({"AWS_ENDPOINT_URL": "http://a", "AWS_S3_ENDPOINT": "b"}, (None, "NO", "FALSE")),
    ],
)
def test_the_servers_address_is_the_standard_environments(monkeypatch, variables, expected):
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_S3_ENDPOINT", "AWS_HTTPS", "AWS_VIRTUAL_HOSTING"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    options = remote.gdal_options()
    assert tuple(options.get(name) for name in ("AWS_S3_ENDPOINT", "AWS_HTTPS", "AWS_VIRTUAL_HOSTING")) == expected


@pytest.mark.parametrize(
    ("path", "opened", "is_remote"),
    [
        ("/data/a.tif", "/data/a.tif", False),
        ("C:/a.tif", "C:/a.tif", False),
        ("s3://b/a.tif", "/vsis3/b/a.tif", True),
        ("https://h/a.tif?x=1", "/vsicurl/https://h/a.tif?x=1", True),
        ("gs://b/a.tif", "/vsigs/b/a.tif", True),
        ("/vsizip//vsis3/b/a.zip/a.tif", "/vsizip//vsis3/b/a.zip/a.tif", True),
        ("<VRTDataset><SourceFilename>/vsis3/b/a</SourceFilename></VRTDataset>", None, True),
        ('<VRTDataset xmlns="http://x"><SourceFilename>/data/a</SourceFilename></VRTDataset>', None, False),
    ],
)
def test_paths_become_gdals_own(path, opened, is_remote):
    assert remote.gdal_path(path) == (opened or path)
    assert remote.is_remote(path) == is_remote

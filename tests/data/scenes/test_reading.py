"""Windows of pixels and labels, against rasterio and NumPy."""

from __future__ import annotations

import math
import os
import pickle
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.errors import NotGeoreferencedWarning
from rasterio.features import rasterize

from ununennium.data import SceneReader, build_index, compute_statistics, normalise, open_catalog
from ununennium.data.chips.memory import Decoded, DecodedCache
from ununennium.data.scenes import raster as raster_module
from ununennium.data.scenes.raster import LazyRaster
from ununennium.data.splits.splits import TRAIN
from ununennium.data.targets.labels import LabelReader
from ununennium.errors import DataError


@pytest.fixture
def noisy(make):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 50, (3, 96, 80)).astype(np.int16)
    image[:, 10:20, 10:30] = -9
    scene = make.scene(size=96)
    scene["image"] = make.raster("noisy.tif", image, nodata=-9)
    scene["label"] = make.raster("labels.tif", np.ones((1, 96, 80), np.uint8))
    return open_catalog(make.config(scene))[0], image


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.integers(-40, 110), col=st.integers(-40, 110), height=st.integers(1, 64), width=st.integers(1, 64))
def test_a_window_is_what_numpy_cuts_from_the_padded_scene(noisy, row, col, height, width):
    scene, image = noisy
    reader = SceneReader(scene, [3, 1])
    pixels, valid = reader.read(row, col, height, width)
    np.testing.assert_array_equal(reader.read_valid(row, col, height, width), valid)
    padded = np.full((2, 400, 400), -9.0)
    padded[:, 150:246, 150:230] = image[[2, 0]]
    expected = padded[:, 150 + row : 150 + row + height, 150 + col : 150 + col + width]
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(valid, (expected != -9).all(0))
    np.testing.assert_array_equal(pixels, np.where(valid, expected, 0))


def test_a_mask_band_is_obeyed(make):
    scene = make.scene()
    with rasterio.open(scene["image"], "r+") as dataset:
        mask = np.full((256, 256), 255, np.uint8)
        mask[:50] = 0
        dataset.write_mask(mask)
    opened = open_catalog(make.config(scene))[0]
    assert opened.has_mask
    valid = SceneReader(opened).read(0, 0, 256, 256)[1]
    np.testing.assert_array_equal(valid, mask == 255)


def test_a_reader_is_pickled_and_opens_again_in_another_process(noisy):
    scene, _ = noisy
    reader = SceneReader(scene)
    before = reader.read(0, 0, 8, 8)[0]
    assert len(pickle.dumps(reader)) < 4000
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read(0, 0, 8, 8)[0], before)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(reader.read(0, 0, 8, 8)[0], before) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@given(asked=st.lists(st.integers(0, 9), max_size=40), budget=st.integers(0, 40))
def test_the_cache_keeps_what_was_used_last_within_its_budget(asked, budget):
    """Entries of 1..10 bytes; the reference is a plain list in order of use."""
    cache, reference, decoded = DecodedCache(budget), [], []

    def entry(number):
        decoded.append(number)
        assert sum(n + 1 for n in reference) + number + 1 <= budget or not reference  # room is made before
        return Decoded(np.zeros(number + 1, np.uint8), None, np.zeros(0, np.uint8))

    for number in asked:
        was_there = number in reference
        if was_there:
            reference.remove(number)
        while reference and not was_there and sum(n + 1 for n in reference) + number + 1 > budget:
            reference.pop(0)
        before = len(decoded)
        assert len(cache.get(number, number + 1, lambda number=number: entry(number)).pixels) == number + 1
        assert (len(decoded) == before) == was_there
        reference.append(number)
        assert cache.num_bytes == sum(n + 1 for n in reference)
    assert cache.num_decoded == len(decoded)
    assert pickle.loads(pickle.dumps(cache)).num_bytes == 0


def test_gdals_cache_is_bounded_unless_the_user_bounds_it(noisy, monkeypatch):
    """In bytes: a bound of 64 would be 64 bytes, and reads 24 times slower."""
    scene, _ = noisy
    seen = []
    with LazyRaster(scene.images[0], "image", (96, 80)).dataset as dataset:
        spy = SimpleNamespace(
            shape=dataset.shape,
            block_shapes=dataset.block_shapes,
            dtypes=dataset.dtypes,
            read=lambda *_, **__: seen.append(_cache_max()),
        )
        monkeypatch.setattr("ununennium.data.scenes.raster.open_dataset", lambda *_: spy)
        monkeypatch.delenv("GDAL_CACHEMAX", raising=False)
        window = rasterio.windows.Window(0, 0, 1, 1)
        LazyRaster(scene.images[0], "image", (96, 80)).read([1], window)
        LazyRaster(scene.images[0], "image", (96, 80)).read([1], window, cache_bytes=10)
        with rasterio.Env(GDAL_CACHEMAX=10 * 2**20):
            LazyRaster(scene.images[0], "image", (96, 80)).read([1], window)
        monkeypatch.setenv("GDAL_CACHEMAX", "33")
        LazyRaster(scene.images[0], "image", (96, 80)).read([1], window)
    two_blocks = 2 * math.prod(spy.block_shapes[0]) * 3 * 2
    assert seen == [64 * 2**20, two_blocks, 10 * 2**20, None]


def _cache_max():
    return rasterio.env.getenv().get("GDAL_CACHEMAX") if rasterio.env.hasenv() else None


def test_strips_cover_a_scene_once_along_its_blocks(noisy, monkeypatch):
    scene, _ = noisy
    reader = SceneReader(replace(scene, block_shape=(16, 80)))
    assert list(reader.strips()) == [(0, 96)]
    monkeypatch.setattr("ununennium.data.scenes.reader._STRIP_VALUES", 3 * 80 * 37)
    assert list(reader.strips()) == [(0, 32), (32, 32), (64, 32)]
    monkeypatch.setattr("ununennium.data.scenes.reader._STRIP_VALUES", 1)
    assert list(reader.strips()) == [(row, 1) for row in range(96)]


def test_a_closing_alpha_band_is_a_mask_and_not_a_band(make):
    scene = make.scene()
    pixels = np.random.default_rng(0).integers(1, 255, (4, 256, 256)).astype(np.uint8)
    pixels[3] = 255
    pixels[3, :40] = 0
    scene["image"] = make.raster("rgba.tif", pixels, photometric="RGB", alpha="yes")
    opened = open_catalog(make.config(scene))[0]
    assert opened.num_bands == 3
    image, valid = SceneReader(opened).read(0, 0, 256, 256)
    assert image.shape == (3, 256, 256)
    np.testing.assert_array_equal(valid, pixels[3] > 0)


@pytest.mark.parametrize(("dtype", "ignore"), [("uint8", -100), ("uint16", 255), ("int64", 255), ("float32", 255)])
def test_label_rasters_of_any_type(make, dtype, ignore):
    """correctness 34: unlabelled by tag, by NaN and by value are one ignore_index."""
    raw = np.random.default_rng(0).integers(0, 3, (256, 256))
    values = np.where(raw == 2, 9, raw).astype(dtype)
    scene = {**make.scene(), "label": make.raster("typed.tif", values[None], nodata=9)}
    opened = open_catalog(make.config(scene))[0]
    expected = np.where(raw == 2, ignore, raw)
    if dtype == "float32":
        values[0, 0] = np.nan
        make.raster("typed.tif", values[None], nodata=9)
        expected[0, 0] = ignore
    labels = LabelReader(opened, ["a", "b"], ignore).read(0, 0, 256, 256)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, expected)


def test_vector_labels_are_what_rasterize_gives_for_the_whole_scene(make, atlanta):
    import json

    scene = {"image": str(atlanta / "atlanta_pan_05m.tif"), "label": str(atlanta / "atlanta_buildings.geojson")}
    opened = open_catalog(make.config(scene))[0]
    shapes = json.loads((atlanta / "atlanta_buildings.geojson").read_text())["features"]
    with rasterio.open(scene["image"]) as image:
        expected = rasterize([s["geometry"] for s in shapes], image.shape, transform=image.transform)
    labels = LabelReader(opened, ["ground", "building"], 255)
    np.testing.assert_array_equal(labels.read(0, 0, 900, 900), expected)
    window = labels.read(-10, 850, 100, 100)
    assert (window[:10] == 255).all()
    assert (window[:, 50:] == 255).all()
    np.testing.assert_array_equal(window[10:, :50], expected[:90, 850:])


def test_sparse_shapes_in_another_crs_leave_the_rest_unlabelled(make, shared_data):
    folder = shared_data / "landsat8_parana"
    config = make.config(
        {
            "image": str(folder / "LC08_L1TP_224078_20200518_20200518_01_RT.TIF"),
            "label": str(folder / "stac_training.geojson"),  # longitude and latitude; the image is in UTM
            "label_field": "lc",
            "outside": "unlabelled",
        },
        classes=["none", "a", "b", "c", "d", "e", "f", "g"],
        nodata=0,
    )
    labels = LabelReader(open_catalog(config)[0], config.classes, 255).read(0, 0, 1860, 2041)
    assert (labels == 255).mean() > 0.99
    assert len(np.unique(labels)) > 2


def test_the_label_rasters_nodata_is_unlabelled(make, shared_data):
    """correctness 34: one ignore_index from the label's own tag to the loss."""
    folder = shared_data / "indian_pines"
    config = make.config(
        {"image": str(folder / "indian_pines_200b.tif"), "label": str(folder / "indian_pines_gt.tif")},
        classes=["unlabelled", *(f"class {i}" for i in range(1, 17))], ignore_index=99, chip_size=32,
    )  # fmt: skip
    with pytest.warns(NotGeoreferencedWarning), rasterio.open(folder / "indian_pines_gt.tif") as dataset:
        raw = dataset.read(1)
    labels = LabelReader(open_catalog(config)[0], config.classes, 99).read(0, 0, 145, 145)
    np.testing.assert_array_equal(labels, np.where(raw == 0, 99, raw))


def test_statistics_are_numpys_over_valid_training_pixels(make):
    rng = np.random.default_rng(0)
    image = rng.normal([[[1e6]], [[-3]]], [[[2]], [[0.01]]], (2, 256, 256)).astype(np.float32)
    image[:, 30:60, 30:60] = -9999
    scene = make.scene()
    scene["image"] = make.raster("normal.tif", image, nodata=-9999)
    index = build_index(make.config(scene))
    statistics = compute_statistics(index)
    used = (index.split.folds(index.scenes[0], 0, 0, 256, 256) == TRAIN) & (image[0] != -9999)
    np.testing.assert_allclose(statistics.mean, image[:, used].astype(np.float64).mean(1), rtol=1e-12)
    np.testing.assert_allclose(statistics.std, image[:, used].astype(np.float64).std(1), rtol=1e-9)
    assert statistics.num_pixels == used.sum()
    valid = image[0] != -9999
    scaled = normalise(image, valid, statistics)
    assert (scaled[:, ~valid] == 0).all()
    assert abs(scaled[1, used].mean()) < 1e-3


def test_a_constant_band_becomes_zero(make):
    scene = make.scene()
    scene["image"] = make.raster("constant.tif", np.full((2, 256, 256), 7, np.uint16))
    index = build_index(make.config(scene))
    statistics = compute_statistics(index)
    assert statistics.std == [1.0, 1.0]
    image, valid = index.reader(index.scenes[0]).read(0, 0, 8, 8)
    assert (normalise(image, valid, statistics) == 0).all()


@pytest.mark.parametrize(
    ("image", "label", "settings"),
    [
        ("spacenet_atlanta/atlanta_pan_05m.tif", {"label": "spacenet_atlanta/atlanta_buildings.geojson"}, {}),
        ("spacenet_atlanta/atlanta_pan_05m.tif", {"label": "spacenet_atlanta/atlanta_buildings.tif"}, {}),
        ("indian_pines/indian_pines_200b.tif", {"label": "indian_pines/indian_pines_gt.tif"},
         {"classes": [str(i) for i in range(17)], "split": {"block_size": 16, "buffer": 2},
          "allow_absent": ["0"]}),
        ("landsat8_parana/LC08_L1TP_224078_20200518_20200518_01_RT.TIF",
         {"label": "landsat8_parana/LC08_L1TP_224078_20200518_20200518_01_RT_polygons.gpkg", "label_field": "name",
          "outside": "unlabelled"},
         {"classes": ["water", "crop", "tree", "developed"], "nodata": 0, "split": {"block_size": 16, "buffer": 0}}),
    ],
)  # fmt: skip
def test_real_scenes_are_indexed(make, shared_data, image, label, settings):
    label = {key: str(shared_data / value) if key == "label" else value for key, value in label.items()}
    with (
        pytest.warns(UserWarning, match="has no pixel of")
        if "polygons" in str(label) or "pines" in image
        else _nothing()
    ):
        index = build_index(make.config({"image": str(shared_data / image), **label}, **settings))
    assert sum(index.labelled["train"]) > sum(index.labelled["holdout"]) > 0
    assert compute_statistics(index).num_pixels > 0


def test_six_bands_with_labels_on_another_grid_and_on_theirs(make, shared_data):
    folder = shared_data / "landsat7_olinda"
    image = {"image": str(folder / "L7_ETMs.tif"), "name": "olinda"}
    for label in ("lc.tif", "olinda_dem_utm25s.tif"):
        with pytest.raises(DataError, match=r"scene 'olinda': image and label are on different grids"):
            build_index(make.config({**image, "label": str(folder / label)}, nodata=255))
    with rasterio.open(folder / "L7_ETMs.tif") as dataset:
        red, near_infrared = dataset.read([3, 4])
        green = (near_infrared > red).astype(np.uint8)[None]
        label = make.raster("green.tif", green, crs=dataset.crs, transform=dataset.transform)
    index = build_index(make.config({**image, "label": label}, split={"block_size": 64}))
    assert index.bands == [1, 2, 3, 4, 5, 6]
    assert all(min(counts) > 0 for counts in index.labelled.values())
    assert len(compute_statistics(index).mean) == 6


def _nothing():
    import contextlib

    return contextlib.nullcontext()


def test_no_more_rasters_stay_open_than_a_process_should_hold(tmp_path, monkeypatch):
    """With thousands of scenes, each with a block of its own in memory and a file descriptor."""
    monkeypatch.setattr("ununennium.data.scenes.raster.MAX_OPEN", 3)
    rasters = []
    for number in range(8):
        path = tmp_path / f"{number}.tif"
        profile = {"driver": "GTiff", "height": 4, "width": 5, "count": 1, "dtype": "uint8", "crs": "EPSG:32616"}
        transform = rasterio.transform.from_origin(0, 0, 10, 10)
        with rasterio.open(path, "w", transform=transform, nodata=number, **profile) as file:
            file.write(np.full((1, 4, 5), number, np.uint8))
        rasters.append(LazyRaster(str(path), "image", (4, 5)))
    window = rasterio.windows.Window(1, 1, 2, 2)
    for _ in range(2):
        for number, raster in enumerate(rasters):
            assert (raster.read([1], window)[0] == number).all()
            assert raster.nodata == number
            assert _num_open(tmp_path) <= 3
    assert _num_open(tmp_path) == 3


def test_the_dates_of_a_stack_all_stay_open_with_their_labels(make, monkeypatch):
    """Read in turns, each would otherwise be closed by the time that its turn comes again."""
    opened = []
    original = raster_module.open_dataset
    monkeypatch.setattr(raster_module, "open_dataset", lambda path, what: opened.append(path) or original(path, what))
    monkeypatch.setattr(raster_module, "MAX_OPEN", 3)
    dates = [make.raster(f"{date}.tif", np.full((1, 96, 96), date, np.uint8)) for date in range(5)]
    label = make.raster("label.tif", np.ones((1, 96, 96), np.uint8))
    (scene,) = open_catalog(make.config({"image": dates, "label": label}))
    reader, labels = SceneReader(scene, [1]), LabelReader(scene, ["even", "odd"], 255)
    opened.clear()
    for row in range(0, 96, 32):
        assert (reader.read(row, 0, 32, 96)[0] == np.arange(5)[:, None, None]).all()
        labels.read(row, 0, 32, 96)
    assert sorted(opened) == sorted([*dates, label])


def test_a_raster_that_a_thread_reads_is_not_closed_by_another(tmp_path, monkeypatch, noisy):
    scene, _ = noisy
    monkeypatch.setattr("ununennium.data.scenes.raster.MAX_OPEN", 1)
    raster, other = (LazyRaster(scene.images[0], "image", (96, 80)) for _ in range(2))
    window = rasterio.windows.Window(0, 0, 8, 8)
    expected = raster.read([1, 2, 3], window)[0]

    class Slow:
        """A dataset that another raster is read beside."""

        def __init__(self, dataset):
            self._dataset = dataset
            self.dtypes = dataset.dtypes

        def read(self, *arguments, **options):
            thread = threading.Thread(target=other.read, args=([1], window))
            thread.start()
            thread.join(60)
            return self._dataset.read(*arguments, **options)

        def close(self):
            self._dataset.close()

    raster._dataset = Slow(raster.dataset)
    assert (raster.read([1, 2, 3], window)[0] == expected).all()
    assert other.num_readers == raster.num_readers == 0


def _num_open(folder):
    links = Path("/proc/self/fd")
    if not links.is_dir():
        pytest.skip("this system does not list open files")
    return sum(os.path.realpath(link).startswith(str(folder)) for link in links.iterdir())

"""Windows of pixels and labels, against rasterio and NumPy."""

from __future__ import annotations

import os
import pickle

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.features import rasterize

from ununennium.data import SceneReader, build_index, compute_statistics, normalise, open_catalog
from ununennium.data.labels import LabelReader
from ununennium.data.splits import TRAIN


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
@pytest.mark.parametrize("keep", [0, 2**30])
def test_a_window_is_what_numpy_cuts_from_the_padded_scene(noisy, keep, row, col, height, width):
    scene, image = noisy
    pixels, valid = SceneReader(scene, [3, 1], keep_decoded_bytes=keep).read(row, col, height, width)
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
    assert reader.__getstate__()["_pixels"] is None
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read(0, 0, 8, 8)[0], before)
    child = os.fork()
    if child == 0:
        os._exit(0 if np.array_equal(reader.read(0, 0, 8, 8)[0], before) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


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
    with rasterio.open(folder / "indian_pines_gt.tif") as dataset:
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
         {"classes": [str(i) for i in range(17)], "split": {"block_size": 16, "buffer": 2}}),
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


def _nothing():
    import contextlib

    return contextlib.nullcontext()

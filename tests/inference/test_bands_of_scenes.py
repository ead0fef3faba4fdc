"""Bands of a scene are read for a model by its contract: names, units and nodata, each date by its own file."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from ununennium.checkpoints.contract import check_contract
from ununennium.config.predictor import InputCheckConfig
from ununennium.errors import ConfigError, DataError
from ununennium.inference.input_check import open_checked

TRANSFORM = rasterio.Affine(10, 0, 500000, 0, -10, 5000000)


def contract(**changes):
    return {
        "bands": [1, 2], "band_names": ["red", "nir"], "nodata": None, "resolution": [10.0, 10.0], "crs": "EPSG:32633",
        "statistics": {"percentiles": {"p2": [20.0, 20.0], "p98": [980.0, 980.0]}}, **changes,
    }  # fmt: skip


@pytest.fixture
def numbers():
    return np.random.default_rng(0).integers(1, 1000, (2, 96, 96)).astype(np.float64)


@pytest.fixture
def write(tmp_path):
    def written(name, pixels, names=(), scale=1.0, offset=0.0, **profile):
        path = tmp_path / name
        settings = {"driver": "GTiff", "count": len(pixels), "height": 96, "width": 96, "dtype": pixels.dtype,
                    "crs": "EPSG:32633", "transform": TRANSFORM, **profile}  # fmt: skip
        with rasterio.open(path, "w", **settings) as file:
            file.write(pixels)
            file.scales, file.offsets = (scale,) * len(pixels), (offset,) * len(pixels)
            file.descriptions = names or (None,) * len(pixels)
        return str(path)

    return written


def read(opened):
    return opened.reader.read(0, 0, opened.scene.height, opened.scene.width)


@pytest.mark.parametrize(("scale", "offset"), [(1e-4, -0.1), (0.01, 3.0), (1.0, 0.0)])
def test_are_brought_to_the_numbers_that_the_model_learnt_on(write, numbers, scale, offset):
    theirs = (numbers * 1e-4 - offset) / scale
    path = write("a.tif", theirs[::-1].astype(np.float32), ("nir", "red"), scale, offset)
    pixels, valid = read(open_checked(path, contract(band_tags=[[1e-4, 0.0]] * 2)))
    assert valid.all()
    np.testing.assert_allclose(pixels, numbers, atol=0.002)  # theirs are floats near -300


def test_of_each_date_are_read_by_its_own_file(write, numbers):
    second = np.concatenate([(numbers + 1000)[::-1], numbers[:1] * 0])
    second[0, :9] = 7
    dates = [
        write("a.tif", numbers.astype(np.int16), ("red", "nir"), 1e-4, nodata=-1),
        write("b.tif", second.astype(np.uint16), ("nir", "red", "scl"), 1e-4, -0.1, nodata=7),
    ]
    agreed = contract(num_dates=2, band_tags=[[1e-4, 0.0]] * 2)
    pixels, valid = read(open_checked(dates, agreed))
    np.testing.assert_array_equal(valid, second[0] != 7)
    np.testing.assert_allclose(pixels, np.where(valid, np.concatenate([numbers, numbers]), 0), rtol=1e-6)


def test_of_an_older_contract_stay_numbers(write, numbers):
    path = write("a.tif", numbers.astype(np.int16), scale=1e-4)
    np.testing.assert_array_equal(read(open_checked(path, contract()))[0], numbers)


def test_keep_the_numbers_of_the_same_product_where_training_scenes_had_no_tags(write, numbers):
    path = write("a.tif", numbers.astype(np.int16), scale=1e-4)
    agreed = contract(band_tags=[[1.0, 0.0]] * 2)
    with pytest.warns(UserWarning, match="scale and offset of its files are left out"):
        np.testing.assert_array_equal(read(open_checked(path, agreed))[0], numbers)
    reflectance = contract(
        band_tags=[[1.0, 0.0]] * 2, statistics={"percentiles": {"p2": [0.002] * 2, "p98": [0.1] * 2}}
    )
    np.testing.assert_allclose(read(open_checked(path, reflectance))[0], numbers * 1e-4, rtol=1e-6)


def test_in_another_unit_are_refused_at_any_date(write, numbers):
    dates = [write("a.tif", numbers.astype(np.int16)), write("b.tif", (numbers / 1e4).astype(np.float32))]
    with pytest.raises(DataError, match="another unit than the training scenes"):
        open_checked(dates, contract(num_dates=2, band_tags=[[1.0, 0.0]] * 2))


def test_leave_tags_alone_where_a_scale_is_configured(write, numbers):
    path = write("a.tif", (numbers / 1e4).astype(np.float32), scale=0.5)
    opened = open_checked(path, contract(band_tags=[[1e-4, 0.0]] * 2), InputCheckConfig(scale=1e4))
    np.testing.assert_allclose(read(opened)[0], numbers / 1e4, rtol=1e-6)


def test_take_the_nodata_values_of_the_training_scenes_bands(write, numbers):
    numbers[0, :5], numbers[1, 50:60] = 0, -99
    path = write("a.tif", numbers.astype(np.int16))
    valid = read(open_checked(path, contract(band_nodata=[0.0, -99.0])))[1]
    np.testing.assert_array_equal(valid, (numbers[0] != 0) & (numbers[1] != -99))
    tagged = write("b.tif", numbers.astype(np.int16), nodata=3)
    np.testing.assert_array_equal(
        read(open_checked(tagged, contract(band_nodata=[0.0, -99.0])))[1], (numbers != 3).all(0)
    )


def test_never_are_an_alpha_band(write, numbers):
    pixels = np.concatenate([numbers, np.full((1, 96, 96), 200.0), numbers[:1]]).astype(np.uint16)
    pixels[2, :20] = 0
    path = write("a.tif", pixels)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [*file.colorinterp[:2], rasterio.enums.ColorInterp.alpha, file.colorinterp[3]]
    statistics = {"percentiles": {"p2": [20.0] * 3, "p98": [980.0] * 3}}
    pixels, valid = read(open_checked(path, contract(bands=[1, 2, 3], band_names=[], statistics=statistics)))
    np.testing.assert_array_equal(valid[:, 0], np.arange(96) >= 20)
    np.testing.assert_array_equal(pixels, np.where(valid, np.concatenate([numbers, numbers[:1]]), 0))


def test_keep_their_nodata_values_when_warped(write, numbers, tmp_path):
    numbers[0, :, :20] = 0
    files = {"red": write("r.tif", numbers[:1].astype(np.int16), nodata=0),
             "nir": write("n.tif", numbers[1:].astype(np.int16), nodata=-1)}  # fmt: skip
    opened = open_checked(files, contract(resolution=[20.0, 20.0]), InputCheckConfig(align="warp"), folder=tmp_path)
    pixels, valid = read(opened)
    assert not valid[:, :9].any()
    assert valid[:, 11:].all()
    assert pixels[:, valid].min() >= 1


def test_are_checked_in_the_contract():
    whole = contract(
        model={"target": "m", "kwargs": {}, "in_channels": 2, "num_classes": 1}, classes=["a"], ignore_index=255,
        chip_size=32, split_sha256="", data_sha256="", git_commit=None, versions={}, metrics={}, run_id="", created="",
        statistics={"mean": [0, 0], "std": [1, 1]}, band_tags=[[1.0, 0.0]],
    )  # fmt: skip
    with pytest.raises(ConfigError, match=r"contract\.band_tags"):
        check_contract(whole)

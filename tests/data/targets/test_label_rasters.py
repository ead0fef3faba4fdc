"""Label rasters: masks, alpha, nodata and NaN are unlabelled; values with gaps; areas in which labels are complete."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rasterio.vrt
from rasterio.enums import ColorInterp

from ununennium.data import build_index
from ununennium.data.scenes.catalog import open_catalog
from ununennium.data.targets.labels import LabelReader
from ununennium.data.targets.regression import ValueReader
from ununennium.errors import ConfigError, DataError

SIZE = 64
HALF = (slice(None), slice(SIZE // 2, None))


def _classes(dtype="uint8"):
    return (np.indices((SIZE, SIZE)).sum(0) // 4 % 2).astype(dtype)


def _image(make):
    return make.raster("image.tif", np.random.default_rng(0).integers(1, 1000, (2, SIZE, SIZE)).astype(np.uint16))


def _mask_file(path, mask, inside):
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=inside), rasterio.open(path, "r+") as file:
        file.write_mask(mask)


def _declare_half(make, values, how):
    """A raster of ``values`` (rows, columns) whose right half is not labelled, which is said as ``how`` says."""
    hidden = np.zeros((SIZE, SIZE), np.uint8)
    hidden[HALF] = 255
    name = f"{how}.tif"
    if how in ("mask", "msk", "nodata beside a mask"):
        profile = {"nodata": 77} if how == "nodata beside a mask" else {}
        path = make.raster(name, values[None], **profile)
        _mask_file(path, 255 - hidden, inside=how != "msk")
    elif how == "alpha":
        path = make.raster(name, np.stack([values, (255 - hidden).astype(values.dtype)]))
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
    elif how == "alpha, with nodata":
        path = make.raster(name, np.stack([values, (255 - hidden).astype(values.dtype)]), nodata=77)
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp.gray, ColorInterp.alpha]
    elif how == "alpha first, with nodata":
        path = make.raster(name, np.stack([(255 - hidden).astype(values.dtype), values]), nodata=77)
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp.alpha, ColorInterp.gray]
    elif how == "vrt":
        source = make.raster("source.tif", values[None])
        _mask_file(source, 255 - hidden, inside=True)
        path = str(make.folder / "labels.vrt")
        with rasterio.open(source) as file, rasterio.vrt.WarpedVRT(file, add_alpha=True) as moved:
            rasterio.shutil.copy(moved, path, driver="VRT")
    else:
        values = values.copy()
        values[HALF] = np.nan if how == "nan" else 77
        path = make.raster(name, values[None], nodata=77 if how == "nodata" else None)
    return path


HOWS = [
    "mask", "msk", "nodata beside a mask", "alpha", "alpha, with nodata", "alpha first, with nodata", "vrt", "nodata",
]  # fmt: skip


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32"])
@pytest.mark.parametrize("how", [*HOWS, "nan"])
def test_what_a_label_raster_says_is_no_label_is_unlabelled(make, how, dtype):
    """correctness 78: by a mask inside the file or beside it, an alpha band, a nodata tag or NaN."""
    if how == "nan" and dtype != "float32":
        pytest.skip("only floats have NaN")
    values = _classes(dtype)
    scene = {"image": _image(make), "label": _declare_half(make, values, how)}
    index = build_index(make.config(scene, split={"block_size": 8, "buffer": 0}))
    labels = index.labels(index.scenes[0]).read(0, 0, SIZE, SIZE)
    expected = values.astype(int)
    expected[HALF] = 255
    np.testing.assert_array_equal(labels, expected)
    assert sum(map(sum, index.labelled.values())) == SIZE * SIZE // 2


@pytest.mark.parametrize("how", [*HOWS, "nan"])
def test_targets_of_a_regression_are_those_that_the_file_has(make, how):
    heights = np.random.default_rng(0).normal(100, 5, (SIZE, SIZE)).astype(np.float32)
    scene = {"image": _image(make), "label": _declare_half(make, heights, how)}
    config = make.config(scene, task="regression", classes=["height"], split={"block_size": 8, "buffer": 0})
    index = build_index(config)
    values = ValueReader(index.scenes[0]).read(0, 0, SIZE, SIZE)
    assert np.isnan(values[HALF]).all()
    np.testing.assert_array_equal(values[:, : SIZE // 2], heights[:, : SIZE // 2])
    assert abs(index.target_scale.mean - 100) < 1


@pytest.mark.parametrize("how", HOWS)
def test_warped_labels_stay_unlabelled_where_they_were(make, how, monkeypatch, tmp_path):
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path / "cache"))
    scene = {"image": _image(make), "label": _declare_half(make, np.ones((SIZE, SIZE), np.uint8), how)}
    grid = {"crs": "EPSG:32633", "resolution": 20}
    config = make.config(
        scene, align="warp", grid=grid, chip_size=16, allow_absent=["even"], split={"block_size": 8, "buffer": 0}
    )
    index = build_index(config)
    labels = index.labels(index.scenes[0]).read(0, 0, SIZE // 2, SIZE // 2)
    assert (labels[:, : SIZE // 4] == 1).all()
    assert (labels[:, SIZE // 4 :] == 255).all()


def test_masked_pixels_of_a_patch_do_not_decide_its_class(make):
    values = np.zeros((SIZE, SIZE), np.uint8)
    values[:, :4] = 1
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, :6] = 255
    path = make.raster("labels.tif", values[None])
    _mask_file(path, mask, inside=True)
    config = make.config({"image": _image(make), "label": path}, task="classification", split={"buffer": 0})
    index = build_index(config.model_copy(update={"split": config.split.model_copy(update={"block_size": 8})}))
    assert [sum(each) for each in zip(*index.labelled.values(), strict=True)] == [SIZE * 2, SIZE * 4]


def test_several_bands_beside_alpha_are_refused(make):
    path = make.raster("three.tif", np.zeros((3, SIZE, SIZE), np.uint8))
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [ColorInterp.gray, ColorInterp.undefined, ColorInterp.alpha]
    with pytest.raises(DataError, match=r"three\.tif has 2 bands; give one with classes"):
        build_index(make.config({"image": _image(make), "label": path}))


def test_regression_targets_are_in_the_unit_of_the_files_scale(make):
    stored = np.random.default_rng(0).integers(900, 1100, (1, SIZE, SIZE)).astype(np.int16)
    path = make.raster("scaled.tif", stored)
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = [0.1], [-5.0]
    config = make.config({"image": _image(make), "label": path}, task="regression", classes=["height"])
    values = ValueReader(build_index(config).scenes[0]).read(0, 0, SIZE, SIZE)
    np.testing.assert_allclose(values, stored[0] * 0.1 - 5, rtol=1e-6)


# Values of the classes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "dtype", "ignore"),
    [
        ((8, 10), "uint8", 255),
        ((0, 255), "uint8", 255),  # a mask of 0 and 255, whose object is no ignored value
        ((-5, 30000), "int16", -100),
        ((111, 70000), "int32", 255),
        ((4000000000, 5), "uint32", 255),
        ((8, 10), "float64", 255),
    ],
)
def test_values_with_gaps_are_classes_by_a_mapping(make, values, dtype, ignore):
    numbers = _classes()
    stored = np.array(values)[numbers].astype(dtype)
    scene = {"image": _image(make), "label": make.raster("gaps.tif", stored[None])}
    names = {values[0]: "one", values[1]: "other"}
    config = make.config(scene, classes=names, ignore_index=ignore, split={"block_size": 8, "buffer": 0})
    assert config.classes == [names[value] for value in sorted(names)]
    index = build_index(config)
    labels = index.labels(index.scenes[0]).read(0, 0, SIZE, SIZE)
    number_of = np.array([config.classes.index(names[value]) for value in values])
    np.testing.assert_array_equal(labels, number_of[numbers])


def test_several_values_may_be_one_class(make):
    stored = np.random.default_rng(0).choice([10, 11, 20], (SIZE, SIZE)).astype(np.uint8)
    scene = {"image": _image(make), "label": make.raster("many.tif", stored[None])}
    config = make.config(scene, classes={11: "forest", 20: "water", 10: "forest"}, split={"block_size": 8, "buffer": 0})
    assert config.classes == ["forest", "water"]
    index = build_index(config)
    np.testing.assert_array_equal(index.labels(index.scenes[0]).read(0, 0, SIZE, SIZE), stored == 20)


@pytest.mark.parametrize("dtype", ["uint8", "int32", "float32"])
@pytest.mark.parametrize("method", ["blocks", "time"])
def test_values_that_the_mapping_does_not_name_are_named_and_counted(make, dtype, method):
    stored = np.where(_classes() == 0, 8, 10).astype(dtype)
    stored[0, :5] = 1  # a class number, but no class value
    stored[40, :3] = 9
    scene = {"image": _image(make), "label": make.raster("gaps.tif", stored[None]), "date": "2026-01-01"}
    split = {"block_size": 8, "buffer": 0}
    if method == "time":
        split = {"method": "time", "holdout_from": "2027-01-01"}
    settings = {"classes": {8: "one", 10: "other"}, "split": split}
    match = r"data\.class_values does not name \(8, 10\): 1 \(5 pixels\), 9 \(3 pixels\).*label_unknown: unlabelled"
    with pytest.raises(DataError, match=match):
        build_index(make.config(scene, **settings))
    settings["split"] = {"block_size": 8, "buffer": 0}
    index = build_index(make.config({**scene, "label_unknown": "unlabelled"}, **settings))
    labels = index.labels(index.scenes[0]).read(0, 0, SIZE, SIZE)
    assert (labels == 255).sum() == 8
    assert labels[0, 0] == labels[40, 0] == 255


def test_values_outside_of_the_listed_classes_may_be_unlabelled(make):
    stored = _classes()
    stored[3, 4] = 7
    scene = {"image": _image(make), "label": make.raster("odd.tif", stored[None]), "label_unknown": "unlabelled"}
    index = build_index(make.config(scene, split={"block_size": 8, "buffer": 0}))
    labels = index.labels(index.scenes[0]).read(0, 0, SIZE, SIZE)
    assert labels[3, 4] == 255
    assert (labels == 255).sum() == 1


def test_warped_labels_whose_class_has_the_value_of_unlabelled_pixels(make, monkeypatch, tmp_path):
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path / "cache"))
    values = np.kron(_classes()[::2, ::2] * 255, np.ones((2, 2), np.uint8))
    scene = {"image": _image(make), "label": _declare_half(make, values, "mask")}
    grid = {"crs": "EPSG:32633", "resolution": 20}
    config = make.config(
        scene, classes={0: "ground", 255: "roof"}, align="warp", grid=grid, chip_size=16,
        split={"block_size": 8, "buffer": 0},
    )  # fmt: skip
    index = build_index(config)
    labels = index.labels(index.scenes[0]).read(0, 0, SIZE // 2, SIZE // 2)
    np.testing.assert_array_equal(labels[:, : SIZE // 4], values[::2, : SIZE // 2 : 2] // 255)
    assert (labels[:, SIZE // 4 :] == 255).all()


# Classes that training cannot learn ----------------------------------------------------------------------------------


def test_a_class_that_no_fold_or_only_another_fold_has(make):
    stored = np.zeros((SIZE, SIZE), np.uint8)
    stored[::2] = 1
    stored[:, -8:] = 2
    scene = {"image": _image(make), "label": make.raster("three.tif", stored[None])}
    split = {"block_size": 8, "buffer": 0, "validation": 0.1, "holdout_regions": [{"columns": [SIZE - 8, None]}]}
    settings = {"classes": ["even", "odd", "rare", "never"], "split": split}
    match = (
        rf"train fold has no labelled pixel of: 'rare' \(holdout has {8 * SIZE}\), 'never' \(no fold has any\)"
        r".*take it out of data\.classes.*data\.allow_absent: \[rare, never\]"
    )
    with pytest.raises(DataError, match=match):
        build_index(make.config(scene, **settings))
    with pytest.raises(DataError, match=r"of: 'never' \(no fold has any\)"):
        build_index(make.config(scene, allow_absent=["rare"], **settings))
    with pytest.warns(UserWarning, match="has no pixel of: rare"):
        index = build_index(make.config(scene, allow_absent=["rare", "never"], **settings))
    assert any("no fold has a pixel of: never" in note for note in index.notes)


# Areas in which labels are complete ----------------------------------------------------------------------------------


def test_pixels_outside_of_the_labelled_rectangles_are_unlabelled(make):
    scene = make.scene(size=SIZE)
    scene["labelled_area"] = [{"rows": [8, 40]}, {"rows": [30, None], "columns": [50, None]}]
    index = build_index(make.config(scene, split={"block_size": 8, "buffer": 0}))
    with rasterio.open(scene["label"]) as file:
        expected = file.read(1).astype(int)
    inside = np.zeros((SIZE, SIZE), bool)
    inside[8:40] = True
    inside[30:, 50:] = True
    labels = index.labels(index.scenes[0])
    np.testing.assert_array_equal(labels.read(0, 0, SIZE, SIZE), np.where(inside, expected, 255))
    np.testing.assert_array_equal(labels.read(35, 45, 10, 10), np.where(inside, expected, 255)[35:45, 45:55])


def test_targets_outside_of_the_labelled_area_are_no_targets(make):
    heights = np.random.default_rng(0).normal(100, 5, (1, SIZE, SIZE)).astype(np.float32)
    scene = {
        "image": _image(make), "label": make.raster("heights.tif", heights),
        "labelled_area": [{"columns": [0, 48]}],
    }  # fmt: skip
    config = make.config(scene, task="regression", classes=["height"], split={"block_size": 8, "buffer": 0})
    index = build_index(config)
    values = index.targets(index.scenes[0]).read(0, 0, SIZE, SIZE)
    assert np.isfinite(values).sum() == SIZE * 48 == sum(map(sum, index.labelled.values()))


def test_classes_of_a_whole_scene_hold_in_its_labelled_area(make):
    scenes = [
        {"image": make.scene(name, size=SIZE)["image"], "classes": [name], "labelled_area": [{"rows": [0, 16]}]}
        for name in ("even", "odd")
    ]
    config = make.config(*scenes, task="classification", split={"validation": 0, "holdout": 0, "method": "scenes"})
    index = build_index(config)
    for number, scene in enumerate(index.scenes):
        labels = index.labels(scene).read(0, 0, SIZE, SIZE)
        assert (labels[:16] == number).all()
        assert (labels[16:] == 255).all()


@pytest.mark.parametrize("region", [{"rows": [0, 65]}, {"columns": [64, None]}])
def test_a_labelled_rectangle_beyond_the_scene(make, region):
    scene = {**make.scene(size=SIZE), "labelled_area": [region]}
    with pytest.raises(ConfigError, match=r"data\.scenes\.0\.labelled_area\.0\.(rows|columns) = .*0\.\.63"):
        build_index(make.config(scene))


def test_files_of_labels_and_their_area_are_files_of_the_scene(make):
    scene = make.scene(size=SIZE)
    area = make.folder / "area.geojson"
    area.write_text("{}")
    opened = open_catalog(make.config({**scene, "labelled_area": str(area)}))[0]
    assert {scene["label"], str(area)} <= set(opened.files)


def test_labels_are_read_alike_after_pickling(make):
    path = _declare_half(make, _classes(), "msk")
    scene = build_index(
        make.config(
            {"image": _image(make), "label": path, "labelled_area": [{"rows": [0, 50]}]},
            split={"block_size": 8, "buffer": 0},
        )
    ).scenes[0]
    reader = LabelReader(scene, ["even", "odd"], 255)
    expected = reader.read(0, 0, SIZE, SIZE)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read(0, 0, SIZE, SIZE), expected)

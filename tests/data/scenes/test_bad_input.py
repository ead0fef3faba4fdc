"""Data that cannot be used is refused with the file, what is wrong, and what would be right."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio

from ununennium.data import BandStatistics, SceneReader, TrainingChips, build_index, compute_statistics
from ununennium.errors import ConfigError, DataError


def test_a_missing_image(make):
    with pytest.raises(DataError, match=r"image of scene 'nowhere'.*nowhere\.tif cannot be read.*check the path"):
        build_index(make.config({"image": "nowhere.tif", "label": "label.tif"}))


def test_an_image_that_is_no_raster(make):
    scene = make.scene()
    Path(scene["image"]).write_bytes(b"this is no TIFF")
    with pytest.raises(DataError, match=r"scene\.tif cannot be read"):
        build_index(make.config(scene))


def test_an_image_that_is_cut_short(make):
    scene = make.scene(size=512)
    whole = Path(scene["image"]).read_bytes()
    Path(scene["image"]).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"scene 'scene'.*(damaged|cannot be read)"):
        build_index(make.config(scene))


def test_a_band_without_a_name_goes_by_its_number_alone(make):
    """Its place is not its name: a file's second band need not be B2 of the sensor."""
    scene = make.scene()
    with pytest.raises(
        ConfigError, match=r"data\.bands = \['B2'\]: .* no band 'B2'; it has bands 1\.\.2: band 1, band 2"
    ):
        build_index(make.config(scene, bands=["B2"]))
    assert build_index(make.config(scene, bands=[2])).bands == [2]


def damage(path, *blocks):
    """Overwrite blocks (row, column) of a tiled GeoTIFF with what no decoder takes for data."""
    with rasterio.open(path) as dataset:
        places = [
            [int(dataset.get_tag_item(f"BLOCK_{what}_{col}_{row}", "TIFF", bidx=1)) for what in ("OFFSET", "SIZE")]
            for row, col in blocks
        ]
    with open(path, "r+b") as file:
        for offset, size in places:
            file.seek(offset)
            file.write(b"\xff" * size)


@pytest.fixture
def tiled(make):
    """A scene of 16 x 16 deflated blocks of 64 pixels."""
    return make.scene(size=1024, tiled=True, blockxsize=64, blockysize=64, compress="deflate")


def test_a_damaged_block_is_named_and_left_out_and_the_rest_trains(make, tiled):
    whole = build_index(make.config(tiled))
    before = SceneReader(whole.scenes[0]).read(0, 0, 1024, 1024)[0]
    damage(tiled["image"], (5, 7))
    with pytest.warns(
        UserWarning, match=r"left out, as unreadable: .*scene\.tif cannot be read at row 320, column 448"
    ):
        index = build_index(make.config(tiled))
    damaged = np.zeros((1024, 1024), bool)
    damaged[320:384, 448:512] = True
    with pytest.warns(UserWarning, match="left out"):
        image, valid = index.reader(index.scenes[0]).read(0, 0, 1024, 1024)
    np.testing.assert_array_equal(valid, ~damaged)
    np.testing.assert_array_equal(image, np.where(damaged, 0, before))
    assert sum(map(sum, index.labelled.values())) <= 1024 * 1024 - 64 * 64
    assert not ((index.cells.places == (0, 320, 448)).all(1)).any()
    with pytest.warns(UserWarning, match="left out"):
        statistics = compute_statistics(index)
    dataset = TrainingChips(index, statistics, chip_size=64, num_chips=200, seed=0, class_balance=0.0)
    with pytest.warns(UserWarning, match="left out"):
        assert (dataset[0, 0][1] != 255).any()
    assert all((dataset[0, number][1] != 255).any() for number in range(200))


def test_a_scene_with_too_many_damaged_blocks_is_refused(make, tiled):
    damage(tiled["image"], (5, 7), (5, 8), (9, 9))
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(
            DataError, match=r"'scene': 3 blocks, 1\.2% of it, .* more than data\.max_unreadable = 0\.01; mend"
        ),
    ):
        build_index(make.config(tiled))
    with pytest.raises(DataError, match=r"cannot be read at row 0, column 0"):
        build_index(make.config(tiled, max_unreadable=0))


def test_a_missing_label(make):
    scene = {**make.scene(), "label": "gone.tif"}
    with pytest.raises(DataError, match=r"labels of scene 'scene': gone\.tif cannot be read"):
        build_index(make.config(scene))
    with pytest.raises(DataError, match="has no labels"):
        build_index(make.config({"image": scene["image"]}))


@pytest.mark.parametrize(
    "change", [{"transform": rasterio.Affine(10, 0, 500010, 0, -10, 5000000)}, {"crs": "EPSG:32632"}, "size"]
)
def test_image_and_label_on_different_grids(make, change):
    scene = make.scene()
    size, profile = (128, {}) if change == "size" else (256, change)
    scene["label"] = make.raster("other.tif", np.zeros((1, size, size), np.uint8), **profile)
    with pytest.raises(DataError, match=r"different grids.*gdalwarp"):
        build_index(make.config(scene))


def test_label_values_outside_the_classes_are_counted(make):
    scene = make.scene()
    label = np.zeros((1, 256, 256), np.uint8)
    label[0, :, 128:] = 1
    label[0, 0, :5] = 7
    scene["label"] = make.raster("wrong.tif", label)
    with pytest.raises(DataError, match=r"scene 'scene' have values outside the classes 0\.\.1: 7 \(5 pixels\)"):
        build_index(make.config(scene))


@pytest.mark.parametrize("fold", ["train", "validation", "holdout"])
def test_a_fold_without_a_labelled_pixel(make, fold):
    scene = make.scene()
    label = np.full((1, 256, 256), 255, np.uint8)
    kept = {"train": slice(128, 256), "validation": slice(64, 256), "holdout": slice(0, 128)}[fold]
    label[0, :, kept] = 0
    label[0, 7, kept] = 1
    scene["label"] = make.raster("sparse.tif", label)
    split = {"validation_regions": [{"columns": [0, 64]}], "holdout_regions": [{"columns": [128, None]}]}
    if fold == "train":
        split = {"validation_regions": [{"columns": [128, 192]}], "holdout_regions": [{"columns": [192, None]}]}
    with pytest.raises(DataError, match=f"the {fold} fold has no labelled pixel"):
        build_index(make.config(scene, split=split))


def test_a_scene_smaller_than_the_chip(make):
    with pytest.raises(DataError, match=r"256 wide x 256 high in pixels, less than data.chip_size = 300; set"):
        build_index(make.config(make.scene(), chip_size=300))


def _with_border(make):
    scene = make.scene()
    with rasterio.open(scene["image"], "r+") as dataset:
        pixels = dataset.read()
        pixels[:, :, :20] = 0
        dataset.write(pixels)
    return scene


def test_a_zero_border_without_a_nodata_tag_holds_no_data_and_says_so(make):
    with pytest.warns(UserWarning, match=r"7\.8% of the pixels are 0 in every band.*data\.nodata: 0"):
        index = build_index(make.config(_with_border(make), split={"buffer": 0}))
    assert sum(map(sum, index.labelled.values())) == 256 * 236
    valid = index.reader(index.scenes[0]).read_valid(0, 0, 256, 256)
    assert not valid[:, :20].any()
    assert valid[:, 20:].all()


@pytest.mark.parametrize(("nodata", "columns"), [(0, 236), (-1, 256)])
def test_the_remedy_for_a_zero_border_works(make, nodata, columns):
    index = build_index(make.config(_with_border(make), nodata=nodata, split={"buffer": 0}))
    assert sum(map(sum, index.labelled.values())) == 256 * columns


def test_a_real_scene_with_a_zero_border(make, shared_data):
    image = shared_data / "landsat8_parana" / "LC08_L1TP_224077_20200518_B2B3B4.tif"
    label = shared_data / "landsat8_parana" / "stac_training.geojson"
    with pytest.warns(UserWarning, match=r"reach its edges.*data\.nodata: 0"):
        index = build_index(make.config({"image": str(image), "label": str(label)}))
    with rasterio.open(image) as dataset:
        data = (dataset.read() != 0).all(0)
    assert index.survey.valid.sum() == data.sum()


def test_nan_pixels_are_invalid_everywhere(make):
    rng = np.random.default_rng(0)
    image = rng.normal(5, 2, (2, 256, 256)).astype(np.float32)
    image[0, 100:120] = np.nan
    scene = make.scene()
    scene["image"] = make.raster("float.tif", image)
    index = build_index(make.config(scene, split={"buffer": 0}))
    assert sum(map(sum, index.labelled.values())) == 256 * 236
    statistics = compute_statistics(index)
    assert np.isfinite([*statistics.mean, *statistics.std]).all()


def test_band_counts_that_differ(make):
    with pytest.raises(
        DataError, match=r"'two' has 2 bands and scene 'one' has 3 bands|'two' has 2 bands and scene 'one' has 3; name"
    ):
        build_index(make.config(make.scene("one", bands=3), make.scene("two", bands=2)))
    index = build_index(make.config(make.scene("one", bands=3), make.scene("two", bands=2), bands=[2, 1]))
    assert index.bands == [2, 1]


def test_bands_that_a_file_does_not_have(make):
    with pytest.raises(ConfigError, match=r"data\.bands = \[3\].*bands 1\.\.2"):
        build_index(make.config(make.scene(), bands=[3]))


def test_two_scenes_of_one_name(make):
    scene = make.scene()
    with pytest.raises(ConfigError, match=r"data\.scenes\.1\.name = 'scene'"):
        build_index(make.config(scene, scene))


def test_a_region_outside_of_its_scene(make):
    with pytest.raises(ConfigError, match=r"holdout_regions\.0\.columns = 300.*columns 0\.\.255"):
        build_index(make.config(make.scene(), split={"holdout_regions": [{"columns": [300, None]}]}))
    with pytest.raises(ConfigError, match=r"holdout_regions\.0\.scene = 'no'.*there are: scene"):
        build_index(make.config(make.scene(), split={"holdout_regions": [{"scene": "no"}]}))


def _shapes(make, properties, crs="EPSG:32633"):
    ring = [[500000, 5000000], [501280, 5000000], [501280, 4997440], [500000, 4997440], [500000, 5000000]]
    collection = {
        "type": "FeatureCollection",
        "features": [
            {"type": "Feature", "properties": properties, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        ],
    }
    if crs:
        collection["crs"] = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{crs.replace(':', '::')}"}}
    path = make.folder / "shapes.geojson"
    path.write_text(json.dumps(collection))
    return str(path)


def test_a_vector_field_that_does_not_exist(make):
    scene = {**make.scene(), "label": _shapes(make, {"kind": "odd"}), "label_field": "sort"}
    with pytest.raises(ConfigError, match=r"label_field = 'sort'.*it has: kind"):
        build_index(make.config(scene))


def test_a_vector_class_that_does_not_exist(make):
    scene = {**make.scene(), "label": _shapes(make, {"kind": "lake"}), "label_field": "kind"}
    with pytest.raises(DataError, match=r"kind = 'lake' is no class; data\.classes are even, odd"):
        build_index(make.config(scene))


def test_labels_that_are_no_class_numbers(make):
    scene = make.scene()
    values = np.zeros((1, 256, 256), np.float32)
    values[0, 4, :3] = 0.5, np.inf, np.nan
    scene["label"] = make.raster("probability.tif", values)
    with pytest.raises(DataError, match=r"probability\.tif has 2 pixels that are no class numbers, such as 0\.5"):
        build_index(make.config(scene))


@pytest.mark.parametrize("value", [0.5, None, "1.5"])
def test_a_vector_class_that_is_no_whole_number(make, value):
    scene = {**make.scene(), "label": _shapes(make, {"kind": value}), "label_field": "kind"}
    with pytest.raises(DataError, match=r"kind = .* is no class"):
        build_index(make.config(scene))


def test_many_wrong_label_values_are_not_all_listed(make):
    scene = make.scene()
    scene["label"] = make.raster("many.tif", np.arange(65536, dtype=np.uint16).reshape(1, 256, 256))
    with pytest.raises(DataError, match=r"2 \(1 pixels\), .* and 65525 more values"):
        build_index(make.config(scene))


def test_a_label_raster_of_several_bands(make):
    scene = {**make.scene(), "label": make.raster("two.tif", np.zeros((2, 256, 256), np.uint8))}
    with pytest.raises(DataError, match=r"two\.tif has 2 bands; give one with classes"):
        build_index(make.config(scene))


def test_complex_pixels(make):
    scene = {**make.scene(), "image": make.raster("radar.tif", np.ones((1, 256, 256), np.complex64))}
    with pytest.raises(DataError, match=r"pixels of type complex64; write real numbers"):
        build_index(make.config(scene))


def test_statistics_of_other_bands(make):
    index = build_index(make.config(make.scene()))
    with pytest.raises(DataError, match="statistics of 3 bands do not fit 2 bands"):
        TrainingChips(index, BandStatistics([0.0] * 3, [1.0] * 3, 1), chip_size=32, num_chips=9, seed=0)


def test_labels_that_changed_after_they_were_indexed(make):
    scene = make.scene()
    index = build_index(make.config(scene))
    make.raster("scene_label.tif", np.full((1, 256, 256), 255, np.uint8))
    dataset = TrainingChips(index, compute_statistics(index), chip_size=32, num_chips=9, seed=0)
    with pytest.raises(DataError, match=r"scene 'scene' is not as it was indexed.*index it again"):
        dataset[0, 0]


def test_a_scene_that_changed_after_it_was_indexed(make):
    scene = make.scene()
    index = build_index(make.config(scene))
    reader = index.reader(index.scenes[0])
    shutil.copy(make.scene("small", size=64)["image"], scene["image"])
    with pytest.raises(DataError, match="is not the file that was indexed"):
        reader.read(0, 0, 8, 8)

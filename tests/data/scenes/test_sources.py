"""Scenes from mappings of bands, folders and tables, compared with what was written."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml

from ununennium.config import DataConfig, RunConfig
from ununennium.data import build_index, open_catalog
from ununennium.data.scenes.reader import SceneReader
from ununennium.errors import ConfigError, DataError


def config(catalog=None, **settings):
    values = {"classes": ["even", "odd"], "chip_size": 32, **settings}
    values |= {"catalog": catalog} if catalog else {}
    return DataConfig.model_validate(values)


def write_band(make, name, value, **profile):
    size = profile.pop("size", 64)
    pixels = np.arange(size * size, dtype=np.uint16).reshape(1, size, size) * 3 + value
    return make.raster(name, pixels, **profile), pixels[0]


class TestBandsOfSeveralFiles:
    def test_are_read_by_name_in_the_wanted_order_also_in_another_process(self, make):
        red, red_pixels = write_band(make, "red & <new>.tif", 1, tiled=True, blockxsize=32, blockysize=16)
        nir, nir_pixels = write_band(make, "nir.tif", 2)
        (scene,) = open_catalog(config(scenes=[{"image": {"red": red, "nir": nir}}]))
        assert (scene.band_names, scene.num_bands, scene.block_shape) == (("red", "nir"), 2, (16, 32))
        assert scene.files == (red, nir)
        assert scene.crs == rasterio.open(red).crs.to_wkt()
        assert scene.affine == rasterio.open(red).transform
        reader = pickle.loads(pickle.dumps(SceneReader(scene, ["nir", "red"])))
        image, valid = reader.read(10, 20, 40, 50)
        np.testing.assert_array_equal(image[:, :, :44], np.stack([nir_pixels, red_pixels])[:, 10:50, 20:])
        assert valid[:, :44].all()
        assert not valid[:, 44:].any()

    def test_one_band_of_a_file_of_many_is_chosen_by_number(self, make):
        stack = np.random.default_rng(0).integers(0, 999, (3, 64, 64)).astype(np.int16)
        path = make.raster("stack.tif", stack)
        (scene,) = open_catalog(config(scenes=[{"image": {"c": [path, 3], "a": [path, 1]}}]))
        np.testing.assert_array_equal(SceneReader(scene, None).read(0, 0, 64, 64)[0], stack[[2, 0]])
        assert scene.files == (path,)

    def test_keep_their_nodata_and_a_mask(self, make):
        one, pixels = write_band(make, "one.tif", 0, nodata=9)
        two, _ = write_band(make, "two.tif", 3, nodata=9)
        (scene,) = open_catalog(config(scenes=[{"image": {"one": one, "two": two}}]))
        assert scene.nodata == 9
        assert not SceneReader(scene, None).read_valid(0, 0, 64, 64)[pixels == 9].any()
        masked, _ = write_band(make, "masked.tif", 0)
        plain, _ = write_band(make, "plain.tif", 0)
        mask = np.random.default_rng(1).integers(0, 2, (64, 64)).astype(bool)
        with rasterio.open(masked, "r+") as dataset:
            dataset.write_mask(mask)
        (scene,) = open_catalog(config(scenes=[{"image": {"plain": plain, "masked": masked}}]))
        assert scene.has_mask
        np.testing.assert_array_equal(SceneReader(scene, None).read_valid(0, 0, 64, 64), mask)

    @pytest.mark.parametrize(
        ("profile", "message"),
        [
            (
                {"size": 32},
                "'red' and 'nir' are on different grids: 64 wide x 64 high and 32 wide x 32 high, in pixels",
            ),
            ({"crs": "EPSG:32634"}, "different grids: EPSG:32633 and EPSG:32634"),
            ({"transform": rasterio.Affine(10, 0, 500005, 0, -10, 5000000)}, "different grids: corners at"),
        ],
    )
    def test_that_differ_are_refused_by_name(self, make, profile, message):
        red, nir = write_band(make, "red.tif", 1)[0], write_band(make, "nir.tif", 1, **profile)[0]
        with pytest.raises(DataError, match=message):
            open_catalog(config(scenes=[{"image": {"red": red, "nir": nir}, "name": "a"}]))

    def test_that_cannot_be_read_are_named(self, make):
        red = write_band(make, "red.tif", 1)[0]
        with pytest.raises(DataError, match=r"band 'nir' of scene 'a': gone\.tif cannot be read"):
            open_catalog(config(scenes=[{"image": {"red": red, "nir": "gone.tif"}, "name": "a"}]))
        two = make.raster("two.tif", np.zeros((2, 64, 64), np.uint8))
        with pytest.raises(DataError, match=r"two\.tif has 2 bands; choose one"):
            open_catalog(config(scenes=[{"image": {"red": two}}]))
        with pytest.raises(DataError, match=r"has 2 bands; there is no band 3"):
            open_catalog(config(scenes=[{"image": {"red": [two, 3]}}]))
        with pytest.raises(DataError, match="no virtual raster"):
            open_catalog(config(scenes=[{"image": "<nonsense"}]))

    def test_are_found_beside_the_configuration(self, make):
        settings = {"name": "a", "data": {"scenes": [{"image": {"r": "r.tif", "g": ["s/g.tif", 2]}}], "classes": "ab"}}
        settings["data"]["classes"] = ["a", "b"]
        settings["data"]["catalog"] = {"folder": "images"}
        file = make.folder / "run.yaml"
        file.write_text(yaml.safe_dump(settings), encoding="utf-8")
        loaded = RunConfig.load(file)
        folder = make.folder.resolve()
        assert loaded.data.scenes[0].image == {"r": str(folder / "r.tif"), "g": (str(folder / "s" / "g.tif"), 2)}
        assert loaded.data.catalog.folder == str(folder / "images")
        file.write_text(loaded.to_yaml(), encoding="utf-8")
        assert RunConfig.load(file) == loaded


class TestFolder:
    def test_images_and_labels_are_paired_by_name_in_sub_folders_too(self, make):
        (make.folder / "north [1]").mkdir()
        expected = {}
        for name in ("a", "north [1]/b"):
            image, label = make.scene(name).values()
            Path(label).rename(image.replace(".tif", "_mask.tif"))
            expected[Path(name).name] = (image, image.replace(".tif", "_mask.tif"))
        scenes = open_catalog(config({"folder": str(make.folder), "labels": "{stem}_mask.tif"}))
        assert {scene.name: (scene.images[0], scene.label) for scene in scenes} == expected
        inside = {"folder": str(make.folder / "north [1]"), "labels": "{stem}_mask.tif", "images": "*.tif"}
        assert [scene.name for scene in open_catalog(config(inside))] == ["b"]

    def test_a_label_beside_by_the_part_that_the_star_stands_for(self, make):
        for part in ("images", "masks"):
            (make.folder / part).mkdir()
        for name in ("x1", "x2"):
            scene = make.scene(name)
            Path(scene["image"]).rename(make.folder / "images" / f"S2_{name}_rgb.tif")
            Path(scene["label"]).rename(make.folder / "masks" / f"{name}.tif")
        catalog = {"folder": f"{make.folder}/", "images": "images/S2_*_rgb.tif", "labels": "../masks/{1}.tif"}
        index = build_index(config(catalog, split={"block_size": 32, "buffer": 0}))
        assert [Path(scene.label).name for scene in index.scenes] == ["x1.tif", "x2.tif"]

    def test_two_files_of_one_name_are_named_by_their_folders(self, make):
        for folder in ("2025", "2026"):
            (make.folder / folder).mkdir()
            make.scene(f"{folder}/a")
        catalog = {"folder": str(make.folder), "labels": "{stem}_label.tif"}
        assert [scene.name for scene in open_catalog(config(catalog))] == ["2025/a", "2026/a"]

    def test_an_image_without_a_label_is_named_or_left_out_and_counted(self, make):
        make.scene("a")
        Path(make.scene("b")["label"]).unlink()
        catalog = {"folder": str(make.folder), "labels": "{stem}_label.tif"}
        with pytest.raises(DataError, match=r"1 images have no label: b\.tif; expected b_label\.tif.*unlabelled: skip"):
            open_catalog(config(catalog))
        with pytest.warns(UserWarning, match=r"1 images without a label are left out: b\.tif"):
            assert [scene.name for scene in open_catalog(config({**catalog, "unlabelled": "skip"}))] == ["a"]

    def test_bad_folders_and_patterns(self, make):
        with pytest.raises(DataError, match=r"no file in .* matches images = '\*\*/\*\.tif'"):
            open_catalog(config({"folder": str(make.folder)}))
        make.scene("a")
        with pytest.raises(ConfigError, match=r"there is no \{name\}; with images = .* there are \{stem\}, \{1\}"):
            open_catalog(config({"folder": str(make.folder), "labels": "{name}.tif"}))
        with pytest.raises(ConfigError, match=r"data\.catalog\.folder.*s4"):
            open_catalog(config({"folder": "s4://bucket"}))
        with pytest.warns(UserWarning, match="left out"), pytest.raises(DataError, match="has no scene"):
            open_catalog(config({"folder": str(make.folder), "labels": "{stem}.no", "unlabelled": "skip"}))


class TestTable:
    def write(self, make, text, name="scenes.csv"):
        (make.folder / name).write_text(text, encoding="utf-8")
        return {"table": str(make.folder / name)}

    def test_rows_become_scenes_with_paths_from_the_tables_folder(self, make):
        make.scene("a"), make.scene("b")
        table = self.write(
            make,
            "\ufeffname,image,date,label\none,a.tif,2026-05-18,a_label.tif\n"
            f'"two, stacked",a.tif; b.tif,2026-05-18;2026-06-03,{make.folder}/b_label.tif\n',
        )
        one, two = open_catalog(config(table))
        folder = str(make.folder)
        assert (one.name, one.images, one.dates) == ("one", (f"{folder}/a.tif",), ("2026-05-18",))
        assert (two.name, two.images) == ("two, stacked", (f"{folder}/a.tif", f"{folder}/b.tif"))
        assert (two.dates, two.label) == (("2026-05-18", "2026-06-03"), f"{folder}/b_label.tif")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("image,lable\na.tif,b.tif\n", "has a column 'lable'; a scene's columns are .*label"),
            ("label\na.tif\n", "has no column 'image'"),
            ("image,label\na.tif,b.tif\n,b.tif\n", "row 3: column 'image' is empty"),
            ("image,label\na.tif,\n", r"row 2, column 'label' \(a\.tif\)"),
            ("image,label_value\na.tif,x\n", "row 2, column 'label_value': 'x'"),
            ("image,label\na.tif\n", "row 2: has fewer cells than the header"),
            ("image,label\na.tif,b,c\n", "row 2: has more cells than the header"),
            ("image\n", "has no scene"),
        ],
    )
    def test_mistakes_are_named_by_row_and_column(self, make, text, message):
        with pytest.raises(DataError, match=message):
            open_catalog(config(self.write(make, text)))

    def test_missing_tables_and_bytes_that_are_no_text(self, make):
        with pytest.raises(DataError, match=r"gone\.csv cannot be read"):
            open_catalog(config({"table": str(make.folder / "gone.csv")}))
        (make.folder / "bad.csv").write_bytes(b"image\n\xff\xfe.tif\n")
        with pytest.raises(DataError, match="no CSV in UTF-8"):
            open_catalog(config({"table": str(make.folder / "bad.csv")}))

    def test_parquet(self, make):
        pyarrow = pytest.importorskip("pyarrow", reason="needs the extra 'parquet'")
        parquet = pytest.importorskip("pyarrow.parquet")
        make.scene("a")
        rows = {"image": ["a.tif"], "label": ["a_label.tif"], "label_value": [1]}
        parquet.write_table(pyarrow.table(rows), make.folder / "scenes.parquet")
        (scene,) = open_catalog(config({"table": str(make.folder / "scenes.parquet")}))
        assert scene.label == str(make.folder / "a_label.tif")

    def test_parquet_without_its_package_names_the_extra(self, make, monkeypatch):
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(ConfigError, match=r"ununennium-eo\[parquet\]"):
            open_catalog(config(self.write(make, "", "scenes.parquet")))


def test_the_same_image_twice_is_refused_unless_the_labels_differ(make):
    scene = make.scene("a")
    (make.folder / "link.tif").symlink_to(scene["image"])
    again = {**scene, "image": str(make.folder / "link.tif")}
    with pytest.raises(DataError, match="scenes 'a' and 'link' are the same image with the same labels"):
        open_catalog(config(scenes=[scene, again]))
    again["label"] = make.scene("other")["label"]
    assert len(open_catalog(config(scenes=[scene, again]))) == 2


@pytest.mark.parametrize(
    ("catalog", "message"),
    [
        ({}, "exactly one of folder, table and stac; given: none"),
        ({"folder": "a", "table": "b"}, "given: folder, table"),
        ({"table": "b", "labels": "c"}, "labels goes with folder"),
        ({"stac": "b"}, "stac needs assets"),
    ],
)
def test_a_catalogue_has_one_source(catalog, message):
    with pytest.raises(ConfigError, match=message):
        RunConfig.parse({"name": "a", "data": {"catalog": catalog, "classes": ["a", "b"]}})


@pytest.mark.parametrize("shape", [(1, 500), (500, 1)])
def test_a_raster_of_one_row_or_column_is_too_small(make, shape):
    image = make.raster("line.tif", np.ones((1, *shape), np.uint8))
    with pytest.raises(
        DataError, match=f"{shape[1]} wide x {shape[0]} high in pixels, .*leave it out: it is too small"
    ):
        open_catalog(config(scenes=[{"image": image}]))

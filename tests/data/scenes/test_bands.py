"""Every date and band speaks for itself: nodata, masks, alpha, names and units by each file (correctness 77)."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from ununennium.data import build_index, compute_statistics, open_catalog
from ununennium.data.chips.index import ChipIndex
from ununennium.data.describe import scene_facts, scene_rows
from ununennium.data.scenes.bands import BandSet
from ununennium.data.scenes.reader import SceneReader
from ununennium.data.scenes.scene import Scene
from ununennium.errors import ConfigError, DataError

WEST = rasterio.Affine(10, 0, 400000, 0, -10, 5000000)
EAST = rasterio.Affine(10, 0, 600000, 0, -10, 5000000)


def noise(seed=0, bands=2, dtype=np.int16, size=256):
    return np.random.default_rng(seed).integers(1, 1000, (bands, size, size)).astype(dtype)


@pytest.fixture
def label(make):
    return make.scene("labels")["label"]


@pytest.fixture
def east_label(make):
    return make.scene("east labels", transform=EAST)["label"]


def tag(path, *, names=None, scale=1.0, offset=0.0):
    with rasterio.open(path, "r+") as file:
        file.scales, file.offsets = (scale,) * file.count, (offset,) * file.count
        if names:
            file.descriptions = names
    return path


def whole(index, place=0):
    """All pixels of a scene, and what is valid."""
    return index.reader(index.scenes[place]).read(0, 0, 256, 256)


SOUTH_UP = rasterio.Affine(10, 0, 500005, 0, 10, 4997440)


def halved(pixels, valid):
    """Pixels north up on a grid that lies half a pixel beside, and what is valid of it.

    Each is the mean of two neighbours, of those that are valid; centres on the right edge are outside.
    """
    pixels, valid = pixels[::-1], valid[::-1]
    sums = np.pad(np.where(valid, pixels, 0.0), ((0, 0), (1, 1)))
    counts = np.pad(valid.astype(int), ((0, 0), (1, 1)))
    sums, counts = sums[:, :-1] + sums[:, 1:], counts[:, :-1] + counts[:, 1:]
    counts[:, -1] = 0
    return np.where(counts > 0, sums / np.maximum(counts, 1), 0), counts > 0


class TestDates:
    def test_each_has_a_nodata_value_of_its_own(self, make, label):
        first, second = noise(1), noise(2)
        first[first == 7] = 8
        second[0, :, 100:140], first[1, :30] = -9999, 7
        dates = [make.raster("a.tif", first, nodata=7), make.raster("b.tif", second, nodata=-9999)]
        index = build_index(make.config({"image": dates, "label": label}))
        expected = np.ones((256, 256), bool)
        expected[:, 100:140] = expected[:30] = False
        np.testing.assert_array_equal(whole(index)[1], expected)
        assert min(compute_statistics(index).minimum) > 0
        assert scene_facts(index.scenes[0])["nodata"] == "7, -9999"

    @pytest.mark.parametrize("kind", ["inside", "beside", "alpha"])
    def test_a_mask_of_a_later_one_holds(self, make, label, kind):
        mask = np.random.default_rng(3).random((256, 256)) > 0.3
        second = make.raster("b.tif", noise(2, 3 if kind == "alpha" else 2))
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=kind == "inside"), rasterio.open(second, "r+") as file:
            if kind == "alpha":
                file.write(mask.astype(np.int16), 1)
                file.colorinterp = [ColorInterp.alpha, ColorInterp.gray, ColorInterp.undefined]
            else:
                file.write_mask(mask)
        first = noise(1)
        index = build_index(make.config({"image": [make.raster("a.tif", first), second], "label": label}))
        pixels, valid = whole(index)
        np.testing.assert_array_equal(valid, mask)
        np.testing.assert_array_equal(pixels[:2], np.where(mask, first, 0))
        with rasterio.open(second) as file:
            np.testing.assert_array_equal(pixels[2:], np.where(mask, file.read()[-2:], 0))

    def test_a_border_of_zeros_of_a_later_one_is_found(self, make, label):
        second = noise(2)
        second[:, :20] = 0
        dates = [make.raster("a.tif", noise(1), nodata=-1), make.raster("b.tif", second)]
        with pytest.warns(UserWarning, match=r"scene 'a', date 2: 7\.8% of the pixels are 0 in every band"):
            index = build_index(make.config({"image": dates, "label": label}))
        np.testing.assert_array_equal(whole(index)[1], second[0] != 0)

    def test_types_may_differ(self, make, label):
        dates = [make.raster("a.tif", noise(1, dtype=np.uint16)), make.raster("b.tif", noise(2) * np.float32(0.5))]
        index = build_index(make.config({"image": dates, "label": label}))
        assert index.reader(index.scenes[0]).dtype == np.float32
        np.testing.assert_array_equal(whole(index)[0], np.concatenate([noise(1), noise(2) * 0.5]))

    def test_bands_are_found_by_name(self, make, label):
        red, nir = noise(1)
        dates = [make.raster("a.tif", np.stack([red, nir])), make.raster("b.tif", np.stack([nir, red]))]
        tag(dates[0], names=("red", "nir"))
        tag(dates[1], names=("nir", "red"))
        for bands in (None, [1, 2], ["red", "nir"]):
            index = build_index(make.config({"image": dates, "label": label}, bands=bands))
            np.testing.assert_array_equal(whole(index)[0], [red, nir, red, nir])
        index = build_index(make.config({"image": dates, "label": label}, bands=["nir"]))
        np.testing.assert_array_equal(whole(index)[0], [nir, nir])


class TestBandsWithNodataOfTheirOwn:
    @pytest.fixture
    def pixels(self):
        pixels = noise(1, dtype=np.float32)
        pixels[0, :, :40], pixels[1, :, 60:100] = 0, -9999
        return pixels

    @pytest.fixture
    def files(self, make, pixels):
        return make.raster("one.tif", pixels[:1], nodata=0), make.raster("two.tif", pixels[1:], nodata=-9999)

    def vrt(self, files, folder):
        bands = "".join(
            f'<VRTRasterBand dataType="Float32" band="{number}"><NoDataValue>{nodata}</NoDataValue><SimpleSource>'
            f'<SourceFilename relativeToVRT="1">{Path(file).name}</SourceFilename><SourceBand>1</SourceBand>'
            "</SimpleSource></VRTRasterBand>"
            for number, (file, nodata) in enumerate(zip(files, (0, -9999), strict=True), 1)
        )
        path = folder / "stack.vrt"
        path.write_text(
            '<VRTDataset rasterXSize="256" rasterYSize="256"><SRS>EPSG:32633</SRS>'
            f"<GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform>{bands}</VRTDataset>"
        )
        return str(path)

    @pytest.mark.parametrize("kind", ["vrt", "mapping", "text"])
    def test_are_each_judged_by_it(self, make, label, pixels, files, kind):
        path = self.vrt(files, make.folder)
        image = {"vrt": path, "mapping": dict(zip("ab", files, strict=True)), "text": Path(path).read_text()}[kind]
        if kind == "text":
            image = image.replace('relativeToVRT="1">', f'relativeToVRT="0">{make.folder}/')
        index = build_index(make.config({"image": image, "label": label}))
        valid = (pixels[0] != 0) & (pixels[1] != -9999)
        np.testing.assert_array_equal(whole(index)[1], valid)
        assert min(compute_statistics(index).minimum) > 0
        second = build_index(make.config({"image": image, "label": label}, bands=[2]))
        np.testing.assert_array_equal(whole(second)[1], pixels[1] != -9999)
        assert index.declared_nodata() == {"nodata": None, "band_nodata": [0.0, -9999.0]}
        assert second.declared_nodata() == {"nodata": -9999.0}

    def test_yield_to_the_configured_value(self, make, label, pixels, files):
        index = build_index(make.config({"image": self.vrt(files, make.folder), "label": label}, nodata=-9999))
        np.testing.assert_array_equal(whole(index)[1], pixels[1] != -9999)

    @pytest.mark.parametrize("kind", ["vrt", "mapping"])
    def test_stay_so_when_warped(self, make, pixels, kind):
        beside = {"transform": SOUTH_UP}
        files = (
            make.raster("a.tif", pixels[:1], nodata=0, **beside),
            make.raster("b.tif", pixels[1:], nodata=-9999, **beside),
        )
        if kind == "vrt":
            path = Path(self.vrt(files, make.folder))
            path.write_text(path.read_text().replace("500000, 10, 0, 5000000, 0, -10", "500005, 10, 0, 4997440, 0, 10"))
        image = str(path) if kind == "vrt" else dict(zip("ab", files, strict=True))
        config = make.config({"image": image, "name": "s"}, align="warp", grid={"crs": "EPSG:32633", "resolution": 10})
        (scene,) = open_catalog(config)
        for band, nodata in ((1, 0), (2, -9999)):
            read, valid = SceneReader(scene, [band]).read(0, 0, 256, 257)
            expected, its = halved(pixels[band - 1], pixels[band - 1] != nodata)
            np.testing.assert_array_equal(valid, its)
            np.testing.assert_allclose(read[0], expected, rtol=1e-5)

    def test_of_one_value_are_not_mixed_when_warped(self, make, pixels):
        """GDAL's default takes a pixel for valid if it is so in any band."""
        pixels[0, :, :40] = -9999
        path = make.raster("a.tif", pixels, nodata=-9999, transform=SOUTH_UP)
        config = make.config({"image": path}, align="warp", grid={"crs": "EPSG:32633", "resolution": 10})
        (scene,) = open_catalog(config)
        for band in (1, 2):
            read, valid = SceneReader(scene, [band]).read(0, 0, 256, 257)
            expected, its = halved(pixels[band - 1], pixels[band - 1] != -9999)
            np.testing.assert_array_equal(valid, its)
            np.testing.assert_allclose(read[0], expected, rtol=1e-5)

    def test_may_differ_in_type(self, make, label):
        byte, real = noise(1, 1, np.uint16) % 200, noise(2, 1) * np.float32(0.25)
        byte[0, :9], real[0, 20:30] = 77, np.nan
        files = {"a": make.raster("byte.tif", byte.astype(np.uint8), nodata=77), "b": make.raster("real.tif", real)}
        index = build_index(make.config({"image": files, "label": label}, values="any"))
        expected = np.concatenate([byte, real])
        valid = (byte[0] != 77) & np.isfinite(real[0])
        np.testing.assert_array_equal(whole(index)[1], valid)
        np.testing.assert_array_equal(whole(index)[0][:, valid], expected[:, valid])


class TestMasksOfBands:
    def test_of_a_mapping_hold_for_their_band(self, make):
        masks = np.random.default_rng(4).random((2, 256, 256)) > 0.3
        files = {}
        for name, mask in zip("ab", masks, strict=True):
            files[name] = make.raster(f"{name}.tif", noise(1, 1), nodata=5)
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=name == "a"), rasterio.open(files[name], "r+") as file:
                file.write_mask(mask)
        (scene,) = open_catalog(make.config({"image": {**files, "plain": make.raster("c.tif", noise(9, 1))}}))
        tagged = noise(1, 1)[0] != 5
        for bands, expected in ((["a"], masks[0] & tagged), (["b", "a"], masks.all(0) & tagged), (["plain"], None)):
            valid = SceneReader(scene, bands).read_valid(0, 0, 256, 256)
            np.testing.assert_array_equal(valid, np.ones_like(valid) if expected is None else expected)

    def test_of_an_alpha_band_in_a_file_of_a_mapping(self, make):
        pixels = noise(1, 3, np.uint8)
        pixels[1] = np.arange(256) % 3
        path = make.raster("gan.tif", pixels, nodata=200, photometric="MINISBLACK")
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp.gray, ColorInterp.alpha, ColorInterp.undefined]
        (scene,) = open_catalog(make.config({"image": {"grey": [path, 1], "nir": [path, 3]}}))
        expected = (pixels[1] > 0) & (pixels[[0, 2]] != 200).all(0)
        np.testing.assert_array_equal(SceneReader(scene).read_valid(0, 0, 256, 256), expected)


class TestAlpha:
    def test_holds_beside_a_nodata_value(self, make, label):
        pixels = np.maximum(noise(1, 4, np.uint8), 1)
        pixels[0, :9] = 0
        pixels[3] = np.where(np.arange(256) < 64, 0, 255)
        path = make.raster("rgba.tif", pixels, nodata=0, photometric="RGB", alpha="YES")
        index = build_index(make.config({"image": path, "label": label}))
        np.testing.assert_array_equal(whole(index)[1], (pixels != 0).all(0))
        assert index.bands == [1, 2, 3]

    @pytest.fixture
    def between(self, make):
        """Red, green, blue, alpha, near infrared, of 16 bits."""
        pixels = noise(5, 5, np.uint16)
        pixels[3] = np.where(np.arange(256) < 64, 0, 65535)
        path = make.raster("rgban.tif", pixels)
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha,
                                ColorInterp.undefined]  # fmt: skip
        return path, pixels

    def test_between_other_bands_is_no_input_unless_it_is_named(self, make, label, between):
        path, pixels = between
        index = build_index(make.config({"image": path, "label": label}))
        assert index.bands == [1, 2, 3, 5]
        image, valid = whole(index)
        np.testing.assert_array_equal(valid, pixels[3] > 0)
        np.testing.assert_array_equal(image, np.where(valid, pixels[[0, 1, 2, 4]], 0))
        named = build_index(make.config({"image": path, "label": label}, bands=[5, 4], values="any"))
        np.testing.assert_array_equal(whole(named)[0], np.where(valid, pixels[[4, 3]], 0))

    def test_of_another_name_is_noted(self, make, label):
        """GDAL tags the last of four bands of bytes so, whatever it is."""
        path = tag(make.raster("a.tif", noise(1, 4, np.uint8)), names=("red", "green", "blue", "nir"))
        index = build_index(make.config({"image": path, "label": label}))
        assert any("band 4 is tagged as alpha, though it is named 'nir'" in note for note in index.notes)
        np.testing.assert_array_equal(whole(index)[1], noise(1, 4, np.uint8)[3] > 0)

    def test_in_one_scene_alone_shifts_no_band(self, make, label, east_label, between):
        path, pixels = between
        plain = noise(6, 4, np.uint16)
        other = {"image": make.raster("plain.tif", plain, transform=EAST), "label": east_label}
        for scenes in ([{"image": path, "label": label}, other], [other, {"image": path, "label": label}]):
            index = build_index(make.config(*scenes))
            read = {scene.name: index.reader(scene).read(0, 100, 9, 9)[0] for scene in index.scenes}
            np.testing.assert_array_equal(read["rgban"], pixels[[0, 1, 2, 4], :9, 100:109])
            np.testing.assert_array_equal(read["plain"], plain[:, :9, 100:109])
            assert len(scene_rows(index)) == 2

    def test_keeps_its_place_when_warped(self, make, between):
        path, pixels = between
        with rasterio.open(path, "r+") as file:
            file.transform = SOUTH_UP
            file.descriptions = ("R", "G", "B", "A", "N")
            file.scales = (1e-4,) * 5
        config = make.config({"image": path}, align="warp", grid={"crs": "EPSG:32633", "resolution": 10})
        (scene,) = open_catalog(config)
        assert (scene.num_bands, scene.band_set().bands) == (4, (1, 2, 3, 5))
        assert (scene.band_names, scene.band_set().tags) == (("R", "G", "B", "N"), ((1e-4, 0.0),) * 4)
        image, valid = SceneReader(scene).read(0, 0, 256, 257)
        for read, band in zip(image, pixels[[0, 1, 2, 4]], strict=True):
            expected, its = halved(band, pixels[3] > 0)
            np.testing.assert_array_equal(valid, its)
            np.testing.assert_allclose(read, expected, rtol=1e-5)


class TestNames:
    @pytest.fixture
    def pair(self, make, label, east_label):
        red, nir = noise(1)
        paths = make.raster("a.tif", np.stack([red, nir])), make.raster("b.tif", np.stack([nir, red]), transform=EAST)

        def named(*names):
            for path, its in zip(paths, names, strict=True):
                tag(path, names=its)
            labels = label, east_label
            return [{"image": path, "label": its} for path, its in zip(paths, labels, strict=True)]

        return named, red, nir

    @pytest.mark.parametrize("theirs", [("nir", "red"), ("NIR", "Red")])
    def test_of_scenes_in_another_order_are_followed(self, make, pair, theirs):
        named, red, nir = pair
        index = build_index(make.config(*named(("red", "nir"), theirs)))
        for place in range(2):
            np.testing.assert_array_equal(whole(index, place)[0], [red, nir])
        assert index.notes == []

    @pytest.mark.parametrize("bands", [None, [1, 2]])
    def test_in_different_orders_are_refused_behind_a_scene_without_names(self, make, pair, bands):
        named, red, nir = pair
        labels = make.scene("west labels", transform=WEST)["label"]
        first = {"image": make.raster("0.tif", np.stack([red, nir]), transform=WEST), "label": labels}
        with pytest.raises(DataError, match=r"read by number.*'nir' is another band in scene 'b' \(nir, red\)"):
            build_index(make.config(first, *named(("red", "nir"), ("nir", "red")), bands=bands))
        with pytest.raises(DataError, match="'Red' is another band"):
            build_index(make.config(first, *named((None, "red"), ("Red", None)), bands=bands))
        build_index(make.config(first, *named(("red", "nir"), (None, "NIR")), bands=bands))

    def test_that_match_nothing_are_noted_and_read_by_number(self, make, pair):
        named, red, nir = pair
        index = build_index(make.config(*named(("red", "nir"), ("B8", "B4"))))
        np.testing.assert_array_equal(whole(index, 1)[0], [nir, red])
        assert any("b (with B8, B4)" in note and "read by number" in note for note in index.notes)

    def test_of_which_one_stands_elsewhere_are_refused(self, make, pair):
        named, *_ = pair
        with pytest.raises(DataError, match=r"scene 'b' names its band 2 'red', and band 1 would be read as that"):
            build_index(make.config(*named(("red", "nir"), ("other", "red"))))

    def test_of_the_model_are_found_in_every_image(self, make):
        pixels = noise(1, 3)
        path = tag(make.raster("a.tif", pixels), names=("nir", "swir", "red"))
        (scene,) = open_catalog(make.config({"image": path}))
        contract = {"bands": [1, 2], "band_names": ["red", "nir"], "nodata": None}
        read = SceneReader(scene, BandSet.from_contract(contract)).read(0, 0, 256, 256)[0]
        np.testing.assert_array_equal(read, pixels[[2, 0]])


class TestUnits:
    @pytest.mark.parametrize(
        ("scale", "offset", "factor", "dtype"),
        [(1e-4, -0.1, 1, np.uint16), (1.0, 0.0, 1e-4, np.float32), (1e-2, 0.0, 1e-2, np.float32)],
    )
    def test_of_a_second_scene_are_converted_to_the_firsts(self, make, label, east_label, scale, offset, factor, dtype):
        numbers = noise(1).astype(np.float64)
        theirs = (numbers * factor + (1000 if offset else 0)).astype(dtype)
        images = tag(make.raster("a.tif", noise(1)), scale=1e-4), make.raster("b.tif", theirs, transform=EAST)
        tag(images[1], scale=scale, offset=offset)
        labels = label, east_label
        scenes = [{"image": image, "label": its} for image, its in zip(images, labels, strict=True)]
        index = build_index(make.config(*scenes))
        np.testing.assert_array_equal(whole(index)[0], numbers)
        np.testing.assert_allclose(whole(index, 1)[0], numbers, rtol=1e-6)
        assert any("converted to the unit of scene 'a'" in note for note in index.notes)
        assert index.band_set.to_contract()["band_tags"] == [[1e-4, 0.0]] * 2
        # The other way round, into the second one's unit.
        turned = build_index(make.config(*scenes[::-1]))
        meant = (numbers * 1e-4 - offset) / scale
        np.testing.assert_allclose(whole(turned, 1)[0], meant, rtol=1e-5)

    def test_of_dates_and_of_a_mapping_are_converted(self, make, label):
        one = tag(make.raster("a.tif", noise(1, 1)), scale=1e-4)
        more = make.raster("b.tif", noise(1, 1) + np.int16(1000))
        dates = [{"red": one}, {"red": [more, 1, 1e-4, -0.1]}]
        index = build_index(make.config({"image": dates, "label": label, "name": "s"}))
        np.testing.assert_allclose(whole(index)[0], np.concatenate([noise(1, 1)] * 2), rtol=1e-6)

    def test_of_a_champion_are_its_own(self, make, label):
        """It was trained on numbers / 10000, and is measured on scenes of which the first is in percent."""
        path = tag(make.raster("a.tif", noise(1)), scale=0.01, offset=-3.0)
        index = build_index(make.config({"image": path, "label": label}))
        champion = {"bands": [2, 1], "nodata": 5, "band_tags": [[1e-4, 0.0], [0.01, -3.0]]}
        read = SceneReader(index.scenes[0], index.band_set.of_model(champion)).read(0, 0, 256, 256)
        assert read[1].all()
        expected = [(noise(1)[1] * 0.01 - 3) / 1e-4, noise(1)[0]]
        np.testing.assert_allclose(read[0], expected, rtol=1e-6, atol=1e-3)
        older = index.band_set.of_model({"bands": [2, 1], "nodata": None})
        np.testing.assert_array_equal(SceneReader(index.scenes[0], older).read(0, 0, 256, 256)[0], noise(1)[::-1])

    @pytest.fixture
    def labels(self, label, east_label):
        return label, east_label

    def test_that_agree_leave_the_numbers_as_they_are(self, make, labels):
        images = make.raster("a.tif", noise(1)), make.raster("b.tif", noise(2), transform=EAST)
        for image in images:
            tag(image, scale=1e-4, offset=-0.1)
        index = build_index(make.config(*({"image": i, "label": k} for i, k in zip(images, labels, strict=True))))
        for place in range(2):
            np.testing.assert_array_equal(whole(index, place)[0], noise(place + 1))
            assert index.reader(index.scenes[place]).dtype == np.int16
        assert index.notes == []

    def test_are_not_mixed_up_with_nodata(self, make, labels):
        """Judged by the file's own numbers, not by those that they are converted to."""
        theirs = (noise(2) + np.int16(1000)).astype(np.int16)
        theirs[:, :20] = 1500
        images = (
            tag(make.raster("a.tif", noise(1)), scale=1e-4),
            make.raster("b.tif", theirs, transform=EAST, nodata=1500),
        )
        tag(images[1], scale=1e-4, offset=-0.1)
        index = build_index(make.config(*({"image": i, "label": k} for i, k in zip(images, labels, strict=True))))
        np.testing.assert_array_equal(whole(index, 1)[1], (theirs != 1500).all(0))

    def test_that_are_none_are_refused(self, make, labels):
        images = tag(make.raster("a.tif", noise(1)), scale=1e-4), make.raster("b.tif", noise(2), transform=EAST)
        tag(images[1], scale=0.0)
        with pytest.raises(DataError, match=r"scene 'b': band .* has scale 0 and offset 0.*gdal_edit\.py -scale"):
            build_index(make.config(*({"image": i, "label": k} for i, k in zip(images, labels, strict=True))))


class TestMagnitudes:
    """Two scenes whose tags say nothing."""

    @pytest.fixture
    def index(self, make, label, east_label):
        def built(first, second, **settings):
            images = make.raster("a.tif", first), make.raster("b.tif", second, transform=EAST)
            scenes = ({"image": i, "label": k} for i, k in zip(images, (label, east_label), strict=True))
            return build_index(make.config(*scenes, **settings))

        return built

    @pytest.mark.parametrize("factor", [1e-4, 1 / 60])
    def test_fifty_times_apart_are_refused(self, index, factor):
        ours, theirs = noise(1), (noise(2) * factor).astype(np.float32)
        for pair in ((ours, theirs), (theirs, ours)):
            with pytest.raises(ConfigError, match=r"data\.values = 'check': .*different units.*gdal_edit\.py -scale"):
                index(*pair)
        assert index(ours, theirs, values="any").bands == [1, 2]

    def test_of_one_band_alone_in_fractions_are_refused(self, index):
        theirs = noise(2).astype(np.float32)
        theirs[1] *= np.float32(1e-4)
        with pytest.raises(ConfigError, match="band 2 has medians of"):
            index(noise(1), theirs)

    def test_of_dates_are_compared_too(self, make, label):
        dates = [make.raster("a.tif", noise(1)), make.raster("b.tif", noise(2) * np.float32(1e-4))]
        with pytest.raises(ConfigError, match="scene 'a', date 2, and scene 'a', date 1, are in different units"):
            build_index(make.config({"image": dates, "label": label}))

    @pytest.mark.parametrize("kind", ["dark water", "decibels", "zeros", "below fifty", "classes"])
    def test_that_differ_for_another_reason_are_taken(self, index, kind):
        ours, theirs = noise(1).astype(np.float32), noise(2).astype(np.float32)
        if kind == "dark water":  # black in the infrared, not in the blue
            ours[1], theirs[1] = 3000 + ours[1], 1 + theirs[1] / 100
        elif kind == "decibels":
            ours, theirs = ours / 100 - 12, theirs / 1000 - 30
        elif kind == "zeros":
            ours[:, ::2], theirs[theirs % 3 > 0] = -1, 0
        elif kind == "classes":
            theirs = np.ceil(theirs / 200)
        else:
            theirs *= np.float32(1 / 40)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert index(ours, theirs, nodata=-5).bands == [1, 2]


def test_an_index_of_version_4_is_read_as_it_was_written(make, label, tmp_path):
    """A run that was trained before is evaluated on the pixels that it was trained on."""
    pixels = noise(1)
    pixels[1, :9] = 7
    index = build_index(make.config({"image": make.raster("a.tif", pixels, nodata=7), "label": label}))
    values = json.loads(index.to_text())
    assert ChipIndex.load(_saved(values, tmp_path)).band_set == index.band_set
    values["version"] = 4
    del values["band_set"]
    for scene in values["scenes"]:
        del scene["image_bands"]
    loaded = ChipIndex.load(_saved(values, tmp_path))
    for part, its in zip(whole(index), whole(loaded), strict=True):
        np.testing.assert_array_equal(part, its)
    assert Scene.from_dict(loaded.scenes[0].to_dict()) == loaded.scenes[0]
    with pytest.raises(DataError, match="another version"):
        ChipIndex.load(_saved({**values, "version": 3}, tmp_path))


def _saved(values, folder):
    path = folder / "index.json"
    path.write_text(json.dumps(values))
    return path

"""Scenes on other grids: warned of, refused, or warped once; rasterio's own reproject is the reference."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp
from rasterio.features import rasterize
from rasterio.warp import Resampling, reproject

from ununennium.data import TrainingChips, build_index, compute_statistics, open_catalog
from ununennium.data.chips.index_cache import indexed
from ununennium.data.scenes.reader import SceneReader
from ununennium.errors import ConfigError, DataError
from ununennium.files import cache_folder

COARSE = rasterio.Affine(20, 0, 500000, 0, -20, 5000000)


@pytest.fixture(autouse=True)
def _cache(monkeypatch, tmp_path):
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def two(make):
    """A scene in UTM zone 33 at 10 m, and one of the same ground in zone 32 at 12.5 m, without nodata."""
    rng = np.random.default_rng(0)
    fine = make.scene("fine")
    elsewhere = {"crs": "EPSG:32632", "transform": rasterio.Affine(12.5, 0, 969000, 0, -12.5, 5017000)}
    label = np.broadcast_to((np.arange(256) // 8 % 2).astype(np.uint8), (1, 256, 256))
    coarse = {
        "image": make.raster("coarse.tif", rng.integers(1, 999, (2, 256, 256)).astype(np.uint16), **elsewhere),
        "label": make.raster("coarse_label.tif", np.ascontiguousarray(label), **elsewhere),
    }
    return fine, coarse


def reference(source: str, scene, resampling: Resampling, fill: float, bands: int) -> np.ndarray:
    """The source on the scene's grid, by rasterio alone."""
    with rasterio.open(source) as dataset:
        out = np.full((bands, scene.height, scene.width), fill, np.float64)
        reproject(
            dataset.read().astype(np.float64), out, src_transform=dataset.transform, src_crs=dataset.crs,
            dst_transform=scene.affine, dst_crs=scene.crs, resampling=resampling, init_dest_nodata=False,
        )  # fmt: skip
    return out


def test_other_pixel_sizes_are_warned_of_and_can_be_refused(make, two):
    with pytest.warns(
        UserWarning, match=r"'coarse' has pixels of 12\.5 m in .*\(EPSG:32632\), scene 'fine' of 10 m in"
    ):
        index = build_index(make.config(*two))
    assert any("data.align: warp" in note for note in index.notes)
    with pytest.raises(ConfigError, match=r"data\.align = 'refuse': scene 'coarse' has pixels of 12\.5"):
        build_index(make.config(*two, align="refuse"))


def test_another_zone_alone_is_refused_only_if_asked(make, two):
    fine, _ = two
    other = make.scene("other", crs="EPSG:32632")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        build_index(make.config(fine, other))
    with pytest.raises(ConfigError, match="EPSG:32632"):
        build_index(make.config(fine, other, align="refuse"))


def test_warped_scenes_are_what_reproject_gives(make, two):
    told = []
    fine, coarse = open_catalog(make.config(*two, align="warp"), told.append)
    assert told == [
        "warping image of scene 'coarse' to pixels of 10 x 10",
        "warping labels of scene 'coarse' to pixels of 10 x 10",
    ]
    assert fine.images == fine.files[:1]
    assert rasterio.CRS.from_wkt(coarse.crs) == rasterio.CRS.from_wkt(fine.crs)
    assert coarse.resolution == (10.0, 10.0)
    assert (coarse.affine.c % 10, coarse.affine.f % 10) == (0, 0)
    assert coarse.files == (two[1]["image"], two[1]["label"])
    with rasterio.open(coarse.images[0]) as image, rasterio.open(coarse.label) as label:
        assert image.block_shapes[0] == (512, 512)
        assert image.descriptions == (None, None)
        pixels, mask, classes = image.read(), image.dataset_mask() > 0, label.read(1)
    assert coarse.has_mask
    assert 0.5 < mask.mean() < 1
    expected = reference(two[1]["image"], coarse, Resampling.bilinear, 0, 2)
    assert np.abs(pixels - expected)[:, mask].max() <= 1  # whole numbers here, and no interpolation of the reference's
    expected = reference(two[1]["label"], coarse, Resampling.nearest, 255, 1)[0]
    assert (classes != expected).mean() < 0.002  # a pixel's centre may lie on the border of two
    assert (classes[~mask] == 255).all()


def test_nodata_stays_nodata_and_is_not_mixed_in(make, two):
    image = np.full((1, 256, 256), 500, np.int16)
    image[:, 100:140, 50:200] = -99
    scene = {**two[1], "image": make.raster("holes.tif", image, nodata=-99, crs="EPSG:32632",
             transform=rasterio.Affine(12.5, 0, 969000, 0, -12.5, 5017000))}  # fmt: skip
    config = make.config(scene, align="warp", grid={"crs": "EPSG:32633", "resolution": 10})
    (moved,) = open_catalog(config)
    with rasterio.open(moved.images[0]) as dataset:
        assert dataset.nodata == -99
        assert set(np.unique(dataset.read())) == {-99, 500}


@pytest.mark.parametrize("kind", ["mask", "alpha"])
def test_a_mask_of_the_source_is_warped_with_it(make, two, kind):
    mask = np.full((256, 256), 255, np.uint8)
    mask[100:140, 50:200] = 0
    if kind == "mask":
        with rasterio.open(two[1]["image"], "r+") as dataset:
            dataset.write_mask(mask)
            profile = dataset.profile
    else:
        with rasterio.open(two[1]["image"]) as dataset:
            pixels, profile = dataset.read(), dataset.profile
        alpha = (mask.astype(np.uint16) * 257)[None]
        colours = {"crs": profile["crs"], "transform": profile["transform"], "alpha": "yes"}
        two[1]["image"] = make.raster(
            "alpha.tif", np.concatenate([pixels, pixels[:1], alpha]), photometric="RGB", **colours
        )
    config = make.config(two[1], align="warp", grid={"crs": "EPSG:32633", "resolution": 10})
    (scene,) = open_catalog(config)
    out = np.zeros((scene.height, scene.width), np.uint8)
    reproject(
        mask, out, src_transform=profile["transform"], src_crs=profile["crs"], dst_transform=scene.affine,
        dst_crs=scene.crs, resampling=Resampling.nearest,
    )  # fmt: skip
    with rasterio.open(scene.images[0]) as dataset:
        assert dataset.count == (2 if kind == "mask" else 4)
    reader = SceneReader(scene, scene.band_set(None))
    assert reader.num_channels == (2 if kind == "mask" else 3)
    ours = reader.read_valid(0, 0, scene.height, scene.width)
    assert (ours != (out > 0)).mean() < 0.01  # bilinear reaches half a pixel further
    assert not ours[(out == 0) & ~_near(out > 0)].any()


@pytest.mark.parametrize("num_bands", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("dtype", "opaque"), [("uint8", 255), ("uint16", 1), ("int16", 255), ("float32", 1)])
@pytest.mark.parametrize("nodata", [None, 7])
def test_alpha_is_warped_beside_any_number_of_bands_and_is_no_input(make, num_bands, dtype, opaque, nodata):
    """correctness 77: only an alpha band that is the second or the fourth is a mask of GDAL's own."""
    pixels = np.random.default_rng(0).integers(8, 200, (num_bands + 1, 64, 64)).astype(dtype)
    pixels[:, 40:48] = 7
    pixels[-1] = opaque
    pixels[-1, :16] = 0
    colours = [ColorInterp.gray, *[ColorInterp.undefined] * (num_bands - 1), ColorInterp.alpha]
    image = make.raster("alpha.tif", pixels, transform=COARSE, nodata=nodata)
    with rasterio.open(image, "r+") as dataset:
        dataset.colorinterp = colours
    config = make.config({"image": image}, align="warp", grid={"crs": "EPSG:32633", "resolution": 10})
    (scene,) = open_catalog(config)
    reader = SceneReader(scene, scene.band_set(None))
    valid = reader.read_valid(0, 0, scene.height, scene.width)
    assert reader.num_channels == num_bands
    assert not valid[:30].any()
    assert valid[34:78].all()
    assert (valid[82:94] == (nodata is None)).all()
    assert valid[98:].all()


@pytest.mark.parametrize("num_bands", [3, 4, 5])
def test_the_fourth_band_of_bytes_stays_a_band(make, num_bands):
    """correctness 77: GDAL makes alpha of the fourth of four bands of bytes in a new GeoTIFF."""
    pixels = np.random.default_rng(0).integers(0, 200, (num_bands, 64, 64)).astype(np.uint8)
    image = make.raster("bytes.tif", pixels, transform=COARSE, photometric="minisblack")
    config = make.config({"image": image}, align="warp", grid={"crs": "EPSG:32633", "resolution": 10})
    (scene,) = open_catalog(config)
    reader = SceneReader(scene, scene.band_set(None))
    read, valid = reader.read(0, 0, 128, 128)
    assert valid.all()
    assert len(read) == num_bands
    assert abs(read[:, 1::2, 1::2].mean((1, 2)) - pixels.mean((1, 2))).max() < 2


def _near(mask: np.ndarray) -> np.ndarray:
    from scipy.ndimage import binary_dilation

    return binary_dilation(mask, iterations=2)


def test_a_warped_scene_is_kept_until_its_source_changes(make, two):
    config = make.config(*two, align="warp")
    first = indexed(config)
    assert any("warped to one grid" in note and "coarse" in note for note in first.index.notes)
    files = {path: path.stat().st_mtime_ns for path in (cache_folder() / "aligned").glob("*.tif")}
    assert len(files) == 2
    again = indexed(config)
    assert again.reused
    assert {path: path.stat().st_mtime_ns for path in files} == files
    with rasterio.open(two[1]["image"], "r+") as dataset:
        dataset.write(dataset.read() + 1)
    changed = indexed(config)
    assert not changed.reused
    assert changed.index.scenes[1].images != first.index.scenes[1].images


def test_a_warp_that_fails_half_way_leaves_no_file(make, two, monkeypatch):
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        open_catalog(make.config(*two, align="warp"))
    assert not list((cache_folder() / "aligned").glob("*.tif"))


def test_chips_of_warped_scenes_train_on_labelled_pixels_of_both(make, two):
    index = build_index(make.config(*two, align="warp"))
    dataset = TrainingChips(index, compute_statistics(index), chip_size=32, num_chips=40, seed=0)
    assert set(index.cells.places[:, 0].tolist()) == {0, 1}
    assert all((dataset[0, number][1] != 255).any() for number in range(40))


def test_labels_on_another_grid_than_their_image_are_warped_to_it(make, two):
    crossed = {"image": two[0]["image"], "label": two[1]["label"]}
    with pytest.raises(DataError, match="different grids"):
        open_catalog(make.config(crossed))
    (scene,) = open_catalog(make.config(crossed, align="warp"))
    assert scene.images == (two[0]["image"],)
    with rasterio.open(scene.label) as label:
        assert (label.width, label.height, label.transform) == (scene.width, scene.height, scene.affine)
        assert set(np.unique(label.read())) == {0, 1, 255}


def test_a_scene_without_crs_cannot_be_placed(make, two):
    nowhere = make.scene("nowhere", crs=None)
    with pytest.raises(DataError, match=r"scene 'nowhere'.* has no CRS.*gdal_edit"):
        open_catalog(make.config(two[0], nowhere, align="warp"))


SOUTH_UP = rasterio.Affine(10, 0, 500000, 0, 10, 4990000)
ROTATED = rasterio.Affine.translation(500000, 5000000) @ rasterio.Affine.rotation(30) @ rasterio.Affine.scale(10, -10)


@pytest.mark.parametrize("transform", [SOUTH_UP, ROTATED], ids=["south-up", "rotated"])
def test_south_up_and_rotated_scenes_keep_their_labels_in_place(make, tmp_path, transform):
    """Vector labels lie where rasterize puts them; a label raster where the image's pixels are; warped, north is up."""
    import json

    ring = [transform * point for point in ((40, 60), (150, 60), (150, 200), (40, 200), (40, 60))]
    shape = {"type": "Polygon", "coordinates": [ring]}
    vector = tmp_path / "shape.geojson"
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    feature = {"type": "Feature", "properties": {}, "geometry": shape}
    vector.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": [feature]}))
    scene = make.scene(transform=transform)
    expected = rasterize([shape], (256, 256), transform=transform)
    assert expected[60:200, 40:150].all()
    index = build_index(make.config({**scene, "label": str(vector)}))
    np.testing.assert_array_equal(index.labels(index.scenes[0]).read(0, 0, 256, 256), expected)
    index = build_index(make.config(scene))
    with rasterio.open(scene["label"]) as label:
        np.testing.assert_array_equal(index.labels(index.scenes[0]).read(0, 0, 256, 256), label.read(1))
    (moved,) = open_catalog(make.config({**scene, "label": str(vector)}, align="warp"))
    assert moved.affine.a > 0 > moved.affine.e
    assert moved.affine.b == moved.affine.d == 0
    found = build_index(make.config({**scene, "label": str(vector)}, align="warp"))
    area = (found.labels(found.scenes[0]).read(0, 0, moved.height, moved.width) == 1).sum()
    assert area == pytest.approx(110 * 140, rel=0.02)


@pytest.mark.slow
def test_a_real_scene_in_the_next_zone(shared_data, tmp_path, make):
    """Landsat pixels of UTM zone 21 in zone 22, as a neighbouring path would have them."""
    source = str(shared_data / "landsat8_parana" / "LC08_L1TP_224077_20200518_B2B3B4.tif")
    label = shared_data / "landsat8_parana" / "LC08_L1TP_224078_20200518_20200518_01_RT_polygons.gpkg"
    config = make.config({"image": source, "label": str(label)}, align="warp", nodata=0,
                         grid={"crs": "EPSG:32722", "resolution": 30}, chip_size=64)  # fmt: skip
    (scene,) = open_catalog(config)
    with rasterio.open(scene.images[0]) as moved:
        pixels, names = moved.read(), moved.descriptions
    expected = reference(source, scene, Resampling.nearest, 0, 3)
    both = (pixels > 0).all(0) & (expected > 0).all(0)
    assert both.mean() > 0.6
    # Bilinear is smoother than nearest, and shows the same places: they correlate as no shift by a pixel would.
    for ours, theirs in zip(pixels, expected, strict=True):
        here = np.corrcoef(ours[both], theirs[both])[0, 1]
        shifted = np.corrcoef(ours[both], np.roll(theirs, 1, 1)[both])[0, 1]
        assert here > 0.97
        assert here > shifted
    assert len(names) == 3
    assert Path(scene.images[0]).parent == cache_folder() / "aligned"

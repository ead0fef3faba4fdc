"""A class map is whole, in its place on the ground, or not there at all."""

from __future__ import annotations

import resource
import warnings

import numpy as np
import pytest
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.windows import Window
from rio_cogeo.cogeo import cog_validate

from ununennium.errors import ConfigError, StorageError
from ununennium.prediction.writers import COLOURS, NODATA, ClassMapWriter, ProbabilityWriter, colour

CLASSES = ["water", "forest", "town"]


def write(path, scene, values, *, row=0, col=0, step=70, classes=CLASSES, valid=None):
    height, width = values.shape
    valid = np.ones(values.shape, bool) if valid is None else valid
    with ClassMapWriter(path, scene, row=row, col=col, height=height, width=width, classes=classes) as writer:
        for top in range(0, height, step):
            writer.write(top, values[top : top + step], valid[top : top + step])


def random_classes(shape, number=3):
    return np.random.default_rng(1).integers(0, number, shape)


@pytest.mark.parametrize("shape", [(1, 1), (300, 200), (40, 700), (1100, 530)])
@pytest.mark.parametrize("step", [1, 70, 512])
def test_any_size_in_any_steps_is_a_valid_cog_of_the_same_pixels(scene, tmp_path, shape, step):
    values = random_classes(shape)
    write(tmp_path / "map.tif", scene, values, step=max(step, shape[0] // 50))
    valid, errors, _ = cog_validate(tmp_path / "map.tif", strict=True)
    assert valid, errors
    with rasterio.open(tmp_path / "map.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), values)
        assert dataset.dtypes == ("uint8",)


def test_the_window_lies_where_the_scenes_pixels_lie(scene, tmp_path):
    with rasterio.open(scene.images[0]) as image:
        expected = image.window_transform(Window(30, 110, 50, 60))
        crs = image.crs
    write(tmp_path / "map.tif", scene, random_classes((60, 50)), row=110, col=30)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert dataset.transform == expected
        assert dataset.crs == crs


def test_a_rotated_scene_keeps_its_rotation(make_scene, tmp_path):
    rotated = make_scene(np.zeros((1, 64, 64), np.uint8), name="rotated", transform=(0.4, 0.3, 100.0, 0.3, -0.4, 200.0))
    write(tmp_path / "map.tif", rotated, random_classes((20, 20)), row=10, col=5)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        for ours, theirs in zip(
            dataset.transform * (0, 0), (100 + 0.4 * 5 + 0.3 * 10, 200 + 0.3 * 5 - 4.0), strict=True
        ):
            assert ours == pytest.approx(theirs)


def test_a_scene_without_georeference_is_mapped_without_a_warning(make_scene, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain = make_scene(np.zeros((1, 64, 64), np.uint8), name="plain", crs=None, transform=(1, 0, 0, 0, 1, 0))
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotGeoreferencedWarning)
        write(tmp_path / "map.tif", plain, random_classes((64, 64)))


def test_pixels_without_data_are_nodata_and_classes_are_named_and_coloured(scene, tmp_path):
    values = random_classes((300, 200))
    valid = np.random.default_rng(2).random(values.shape) < 0.7
    write(tmp_path / "map.tif", scene, values, valid=valid)
    with rasterio.open(tmp_path / "map.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1, masked=True).mask, ~valid)
        assert dataset.nodata == NODATA
        assert [dataset.tags()[f"CLASS_{number}"] for number in range(3)] == CLASSES
        assert [dataset.colormap(1)[number][:3] for number in range(3)] == list(COLOURS[:3])
        assert dataset.descriptions == ("class",)


def test_overviews_show_the_class_that_is_most_common_never_one_between(scene, tmp_path):
    values = np.zeros((1024, 1024), int)
    values[::4, ::4] = 2
    write(tmp_path / "map.tif", scene, values, step=512)
    with rasterio.open(tmp_path / "map.tif", overview_level=1) as overview:
        assert set(np.unique(overview.read(1))) == {0}


@pytest.mark.parametrize("number", [2, 3, 4, 5])
def test_bands_of_classes_are_no_colours_and_no_alpha(scene, tmp_path, number):
    """GDAL takes three and four bands of bytes for red, green, blue and alpha."""
    with ProbabilityWriter(tmp_path / "map.tif", scene, [f"class {place}" for place in range(number)]) as writer:
        shape = (scene.height, scene.width)
        writer.write(0, np.zeros((number, *shape), np.uint8))
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert {colour.name for colour in dataset.colorinterp} <= {"gray", "undefined"}
        assert (dataset.read_masks() == 255).all()


def test_every_class_number_has_a_colour_of_its_own():
    assert len({colour(number) for number in range(NODATA)}) == NODATA


def test_more_classes_than_a_byte_holds_are_refused(scene, tmp_path):
    write(tmp_path / "map.tif", scene, random_classes((20, 20), 255), classes=[str(n) for n in range(255)])
    with pytest.raises(ConfigError, match="at most 255"):
        write(tmp_path / "map.tif", scene, random_classes((20, 20)), classes=[str(n) for n in range(256)])


@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.95])
def test_a_disk_that_fills_up_is_named_and_leaves_what_was_there(scene, tmp_path, share):
    """GDAL closes some truncated files without a word; the read-back notices."""
    target = tmp_path / "maps" / "map.tif"
    values, classes = random_classes((500, 500), 200), [str(number) for number in range(200)]
    write(target, scene, values, classes=classes)
    room = int(share * target.stat().st_size)
    target.write_bytes(b"the map before")
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, unlimited[1]))
    try:
        with pytest.raises(StorageError, match=r"map\.tif cannot be written .* is there space left"):
            write(target, scene, values, classes=classes)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert [path.name for path in target.parent.iterdir()] == ["map.tif"]
    assert target.read_bytes() == b"the map before"


def test_rows_that_are_missing_are_noticed(scene, tmp_path):
    writer = ClassMapWriter(tmp_path / "map.tif", scene, row=0, col=0, height=300, width=200, classes=CLASSES)
    with pytest.raises(StorageError, match="reads back as something else"), writer:
        writer.write(0, random_classes((100, 200)), np.ones((100, 200), bool))
    assert not (tmp_path / "map.tif").exists()


def test_an_exception_leaves_the_map_that_was_there(scene, tmp_path):
    target = tmp_path / "maps" / "map.tif"
    write(target, scene, random_classes((60, 50)))
    before = target.read_bytes()
    writer = ClassMapWriter(target, scene, row=0, col=0, height=60, width=50, classes=CLASSES)

    def breaks():
        writer.write(0, random_classes((20, 50)), np.ones((20, 50), bool))
        raise RuntimeError("the model broke")

    with pytest.raises(RuntimeError, match="the model broke"), writer:
        breaks()
    assert target.read_bytes() == before
    assert [path.name for path in target.parent.iterdir()] == ["map.tif"]


def test_a_place_that_cannot_be_written_is_named(scene, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"file/map\.tif cannot be written"):
        write(tmp_path / "file" / "map.tif", scene, random_classes((20, 20)))
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(StorageError, match=r"folder\.tif cannot be written"):
        write(tmp_path / "folder.tif", scene, random_classes((20, 20)))

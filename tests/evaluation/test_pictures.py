"""Pictures show what they say, in colours that tell classes apart, and fit into a report."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rasterio
from matplotlib.image import imread

from ununennium.config import SceneConfig
from ununennium.data.scenes.open import open_scene
from ununennium.evaluation import pictures
from ununennium.prediction.writers import ClassMapWriter, colour
from ununennium.report import MAX_PICTURE_BYTES


def shown(path):
    """The colours of a picture, as (red, green, blue) with their share of it."""
    pixels = (imread(path)[..., :3] * 255).round().astype(int).reshape(-1, 3)
    colours, counts = np.unique(pixels, axis=0, return_counts=True)
    return {tuple(rgb): count / len(pixels) for rgb, count in zip(colours.tolist(), counts, strict=True)}


@pytest.mark.parametrize(
    "history",
    [
        {"train_loss": [1.0, 0.5], "val_loss": [1.0, None], "val_IoU_a": [0.1, math.nan], "lr": [0.1, 0.1]},
        {"train_loss": [1.0]},
        {"train_loss": []},
        {"train_loss": [0.3] * 40, **{f"val_IoU_class {n}": [n / 30] * 40 for n in range(30)}},
        {},
    ],
)
def test_any_history_is_drawn(history, tmp_path):
    pictures.loss_curve(history, tmp_path / "deep" / "curve.png")
    assert imread(tmp_path / "deep" / "curve.png").std() > 0.05


def test_a_value_between_gaps_is_seen(tmp_path):
    pictures.loss_curve({"train_loss": [None, 0.5, None]}, tmp_path / "curve.png")
    pictures.loss_curve({"train_loss": [None, None, None]}, tmp_path / "nothing.png")
    assert shown(tmp_path / "curve.png").get((31, 119, 180), 0) > 1.2 * shown(tmp_path / "nothing.png")[(31, 119, 180)]


@pytest.mark.parametrize("size", [(300, 100), (100, 100), (100, 250), (40, 600)])
def test_the_panel_shows_each_class_where_it_is_predicted_and_errors_in_its_colour(tmp_path, size):
    label = np.zeros(size, int)
    label[: size[0] // 2] = 1
    prediction = np.zeros(size, int)
    prediction[:, : size[1] // 2] = 1
    pictures.prediction_panel(np.ones(size), label, prediction, ["a", "b"], tmp_path / "panel.png")
    share = shown(tmp_path / "panel.png")
    # Half of the label, half of the prediction and a quarter of the errors are class 1; a quarter is a wrong class 0.
    assert share[colour(1)] / share[colour(2)] == pytest.approx(5, rel=0.25)
    assert share[colour(0)] / share[colour(1)] == pytest.approx(1 / 1.25, rel=0.1)
    assert share[colour(2)] > 0.01


def test_wrong_background_has_a_colour_that_no_class_has(tmp_path):
    label = np.repeat(np.arange(6), 20)[:, None] * np.ones((1, 120), int)
    pictures.prediction_panel(np.ones(label.shape), label, label * 0, list("abcdef"), tmp_path / "panel.png")
    assert shown(tmp_path / "panel.png")[colour(6)] > 0.05


def test_unlabelled_pixels_and_pixels_without_data_are_white_and_no_errors(tmp_path):
    label, prediction = np.full((50, 50), -1), np.full((50, 50), 255)
    pictures.prediction_panel(np.ones((50, 50, 3)), label, prediction, ["a", "b"], tmp_path / "p.png", ignore_index=-1)
    share = shown(tmp_path / "p.png")
    assert share.get(colour(1), 0) < 0.01
    assert share[(255, 255, 255)] > 0.6


def test_each_band_is_stretched_by_its_own_data(tmp_path):
    """Bands of very different range, and nodata zeros, do not hide each other."""
    rng = np.random.default_rng(0)
    image = np.stack([rng.uniform(low, low * 1.5, (60, 60)) for low in (10, 1000, 60000)], -1)
    image[:30] = 0
    image[-1, -1] = np.nan
    stretched = pictures.stretch(image)
    assert (stretched[:30] == 0).all()
    np.testing.assert_allclose(np.quantile(stretched[30:].reshape(-1, 3), 0.5, axis=0), 0.5, atol=0.05)


@pytest.mark.parametrize("image", [np.zeros((40, 40)), np.full((40, 40, 3), np.nan), np.full((40, 40), 7, np.uint16)])
def test_an_image_without_contrast_is_drawn(image, tmp_path):
    label = np.zeros((40, 40), int)
    pictures.prediction_panel(image, label, label, ["a", "b"], tmp_path / "panel.png")


@pytest.mark.slow
def test_a_panel_of_noise_still_fits_into_a_report(tmp_path):
    rng = np.random.default_rng(0)
    label = rng.integers(0, 8, (600, 600))
    pictures.prediction_panel(rng.random((600, 600, 3)), label, label[::-1], list("abcdefgh"), tmp_path / "panel.png")
    assert (tmp_path / "panel.png").stat().st_size <= MAX_PICTURE_BYTES


@pytest.mark.parametrize("size", [(60, 200), (200, 20)])
def test_the_picture_of_a_map_has_its_classes(tmp_path, size):
    profile = {"driver": "GTiff", "height": size[0], "width": size[1], "count": 1, "dtype": "uint8"}
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 0, 0, -10, 0)}
    with rasterio.open(tmp_path / "image.tif", "w", **profile, **place):
        pass
    scene = open_scene(SceneConfig(image=str(tmp_path / "image.tif")))
    classes = np.zeros(size, np.uint8)
    classes[: size[0] // 4] = 2
    valid = np.ones(size, bool)
    valid[size[0] // 2 :] = False
    with ClassMapWriter(
        tmp_path / "map.tif", scene, row=0, col=0, height=size[0], width=size[1], classes=["a", "b", "c"]
    ) as writer:
        writer.write(0, classes, valid)
    pictures.class_map_picture(tmp_path / "map.tif", ["a", "b", "c"], tmp_path / "map.png")
    share = shown(tmp_path / "map.png")
    assert share[colour(2)] == pytest.approx(share[colour(0)], rel=0.2)
    assert share.get(colour(1), 0) < 0.02

"""Every labelled pixel of the fold is predicted and counted once, whatever the tiles."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import torch
from rio_cogeo.cogeo import cog_validate
from torch import nn

from ununennium.config import DataConfig
from ununennium.data import HOLDOUT, VALIDATION, build_index, compute_statistics
from ununennium.errors import ConfigError, DataError
from ununennium.evaluation import pictures
from ununennium.evaluation.evaluate import evaluate
from ununennium.inference.predict import predict_bands
from ununennium.inference.windows import window_reader
from ununennium.models import UNet


@pytest.fixture(scope="module")
def data(request):
    folder = request.config.rootpath / "examples" / "atlanta" / "data"
    config = DataConfig.model_validate(
        {
            "scenes": [{"image": str(folder / "atlanta_pan_05m.tif"), "label": str(folder / "atlanta_buildings.tif")}],
            "classes": ["background", "building"],
            "split": {"holdout_regions": [{"columns": [592, None]}]},
        }
    )
    index = build_index(config)
    return config, index, compute_statistics(index)


class Threshold(nn.Module):
    """Bright pixels are buildings: a model without context, whose answer is known for every pixel."""

    def forward(self, image):
        return torch.cat((-image, image), 1)


def test_the_confusion_matrix_is_numpys_over_the_whole_holdout(data):
    """correctness 33: against arrays read by rasterio."""
    config, index, statistics = data
    measured = evaluate(Threshold(), index, statistics, config)
    with rasterio.open(config.scenes[0].image) as image, rasterio.open(config.scenes[0].label) as label:
        bright = (image.read(1)[:, 592:] > statistics.mean[0]).astype(int)
        truth = label.read(1)[:, 592:]
    expected = [[int(((truth == t) & (bright == p)).sum()) for p in (0, 1)] for t in (0, 1)]
    assert measured.confusion == expected
    assert measured.num_pixels == 900 * 308
    hit = expected[1][1]
    assert measured.metric("IoU.building") == pytest.approx(hit / (hit + expected[0][1] + expected[1][0]))


def test_scattered_blocks_of_two_scenes_are_counted_once_and_nothing_else(two_scenes, tmp_path):
    """correctness 33, 34: pixels without data, without a label or of another fold are nowhere."""
    config, index, statistics = two_scenes
    measured = evaluate(Threshold(), index, statistics, config, prediction_path=tmp_path)
    expected = np.zeros((2, 2), int)
    for scene in index.scenes:
        with rasterio.open(scene.image) as image, rasterio.open(scene.label) as label:
            pixels, truth = image.read(1), label.read(1)
        held_out = (index.split.folds(scene, 0, 0, *pixels.shape) == HOLDOUT) & (pixels != config.nodata)
        assert 0 < held_out.sum() < pixels.size / 2
        bright = (pixels > statistics.mean[0]).astype(int)
        counted = held_out & (truth != 255)
        np.add.at(expected, (truth[counted], bright[counted]), 1)
        with rasterio.open(tmp_path / f"{scene.name}.tif") as drawn:
            col, row = (round(v) for v in ~scene.affine @ (drawn.transform.c, drawn.transform.f))
            window = slice(row, row + drawn.height), slice(col, col + drawn.width)
            np.testing.assert_array_equal(drawn.read(1), np.where(held_out, bright, 255)[window])
            assert held_out.sum() == held_out[window].sum()
    assert measured.confusion == expected.tolist()
    assert measured.num_pixels == expected.sum()


def test_a_model_sees_the_imagery_around_the_fold(data, tmp_path):
    """The holdout's edge is predicted from what really lies beside it, not from padding."""
    config, index, statistics = data

    class FromTheLeft(nn.Module):
        def forward(self, image):
            left = torch.roll(image, 20, -1)
            return torch.cat((-left, left), 1)

    evaluate(FromTheLeft(), index, statistics, config, prediction_path=tmp_path)
    with rasterio.open(config.scenes[0].image) as image, rasterio.open(tmp_path / "atlanta_pan_05m.tif") as drawn:
        bright = image.read(1)[:, 572:592] > statistics.mean[0]
        np.testing.assert_array_equal(drawn.read(1)[:, :20], bright)


def test_a_fold_without_labelled_pixels_is_named(two_scenes, monkeypatch):
    config, index, statistics = two_scenes
    monkeypatch.setattr(
        index.split, "folds", lambda scene, row, col, height, width: np.zeros((height, width), np.uint8)
    )
    with pytest.raises(DataError, match="the holdout fold has no labelled pixel"):
        evaluate(Threshold(), index, statistics, config)


def test_another_fold_counts_other_pixels(data):
    config, index, statistics = data
    measured = evaluate(Threshold(), index, statistics, config, fold=VALIDATION)
    assert measured.num_pixels == sum(index.labelled["validation"])


def test_the_prediction_is_a_valid_cog_of_the_holdout(data, tmp_path):
    config, index, statistics = data
    evaluate(Threshold(), index, statistics, config, fold=HOLDOUT, prediction_path=tmp_path)
    (written,) = tmp_path.iterdir()
    valid, errors, _ = cog_validate(written)
    assert valid, errors
    with rasterio.open(written) as dataset, rasterio.open(config.scenes[0].image) as image:
        assert dataset.shape == (900, 308)
        assert dataset.crs == image.crs
        assert dataset.transform * (0, 0) == image.transform * (592, 0)
        assert dataset.nodata == 255
        assert dataset.tags()["CLASS_1"] == "building"
        assert dataset.colormap(1)[1][:3] == (213, 94, 0)
        np.testing.assert_array_equal(dataset.read(1), image.read(1)[:, 592:] > statistics.mean[0])


def test_a_map_that_fails_half_way_leaves_no_file(data, tmp_path):
    config, index, statistics = data

    class Breaks(Threshold):
        calls = 0

        def forward(self, image):
            self.calls += 1
            if self.calls == 2:
                raise RuntimeError("the model broke")
            return super().forward(image)

    with pytest.raises(RuntimeError, match="the model broke"):
        evaluate(Breaks(), index, statistics, config, prediction_path=tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("tile", "overlap"), [(64, 0), (64, 32), (100, 33), (256, 64)])
@pytest.mark.parametrize("size", [(64, 64), (150, 97), (1, 300), (257, 3)])
def test_a_model_without_context_is_exact_for_any_tile_and_overlap(tile, overlap, size):
    rng = np.random.default_rng(0)
    scene = rng.normal(size=(1, *size)).astype(np.float32)
    hole = rng.random(size) < 0.1

    def read(row, col, height, width):
        image, valid = np.zeros((1, height, width), np.float32), np.zeros((height, width), bool)
        top, left = max(row, 0), max(col, 0)
        bottom, right = min(row + height, size[0]), min(col + width, size[1])
        if top < bottom and left < right:
            inside = slice(top - row, bottom - row), slice(left - col, right - col)
            image[(slice(None), *inside)] = scene[:, top:bottom, left:right]
            valid[inside] = ~hole[top:bottom, left:right]
        return image, valid

    bands = list(predict_bands(Threshold(), read, *size, num_classes=2, tile=tile, overlap=overlap))
    assert [band.row for band in bands] == list(np.cumsum([0, *(b.valid.shape[0] for b in bands)])[:-1])
    probabilities = np.concatenate([band.probabilities for band in bands], 1)
    valid = np.concatenate([band.valid for band in bands])
    np.testing.assert_array_equal(valid, ~hole)
    expected = 1 / (1 + np.exp(-2 * scene[0]))
    np.testing.assert_allclose(probabilities[1][valid], expected[valid], rtol=1e-4, atol=1e-5)
    assert (probabilities[:, ~valid] == 0).all()


def test_a_unets_interior_is_that_of_one_forward_pass_of_the_whole(data):
    _, index, statistics = data
    torch.manual_seed(0)
    model = UNet(1, 2, base_channels=4, depth=2).eval()
    read = window_reader(index.reader(index.scenes[0]), statistics, 0, 0)
    bands = list(predict_bands(model, read, 256, 256, num_classes=2, tile=128, overlap=64))
    blended = np.concatenate([band.probabilities for band in bands], 1)
    with torch.no_grad():
        whole = model(torch.from_numpy(read(0, 0, 256, 256)[0])[None]).softmax(1)[0].numpy()
    np.testing.assert_allclose(blended[:, 40:88, 40:88], whole[:, 40:88, 40:88], atol=1e-4)


def test_what_lies_outside_is_the_mirrored_scene(data):
    _, index, statistics = data
    read = window_reader(index.reader(index.scenes[0]), statistics)
    inside, _ = read(0, 0, 900, 900)
    image, valid = read(-20, 880, 40, 60)
    expected = np.pad(inside, ((0, 0), (20, 0), (0, 40)), mode="reflect")[:, :40, 880:]
    np.testing.assert_array_equal(image, expected)
    assert valid[20:, :20].all()
    assert not valid[:20].any()
    assert not valid[:, 20:].any()


def test_averaging_over_flips_and_turns_is_symmetric():
    torch.manual_seed(0)
    model = UNet(1, 2, base_channels=4, depth=2).eval()
    image = np.random.default_rng(0).normal(size=(1, 32, 32)).astype(np.float32)

    def predict(array):
        def read(row, col, height, width):
            return array, np.ones((height, width), bool)

        (band,) = predict_bands(model, read, 32, 32, num_classes=2, tile=32, overlap=0, tta=True)
        return band.probabilities

    np.testing.assert_allclose(predict(image[:, ::-1].copy())[:, ::-1], predict(image), atol=1e-5)
    np.testing.assert_allclose(
        np.rot90(predict(np.rot90(image, 1, (1, 2)).copy()), -1, (1, 2)), predict(image), atol=1e-5
    )


def test_the_model_is_left_in_the_mode_it_was_in(data):
    config, index, statistics = data
    model = UNet(1, 2, base_channels=2, depth=2)
    model.head.eval()
    evaluate(model, index, statistics, config)
    assert model.training
    assert not model.head.training


@pytest.mark.parametrize("arguments", [{"tile": 0}, {"overlap": -1}, {"tile": 64, "overlap": 40}, {"batch_size": 0}])
def test_an_impossible_tiling_is_refused(arguments):
    with pytest.raises(ConfigError):
        list(predict_bands(Threshold(), lambda *_: None, 8, 8, num_classes=2, **arguments))


def test_a_model_of_other_classes_is_named(data):
    config, index, statistics = data
    with pytest.raises(DataError, match=r"it must be \(\d, 2, 256, 256\)"):
        evaluate(UNet(1, 3, base_channels=2, depth=1), index, statistics, config)


def test_the_pictures_are_pictures(tmp_path):
    history = {"train_loss": [1.0, 0.5], "val_loss": [1.0, None], "val_IoU_a": [0.1, float("nan")]}
    pictures.loss_curve(history, tmp_path / "curve.png")
    label = np.zeros((40, 30), int)
    label[:5] = 255
    pictures.prediction_panel(np.ones((40, 30, 3)), label, np.ones((40, 30), int), ["a", "b"], tmp_path / "panel.png")
    for name in ("curve.png", "panel.png"):
        from matplotlib.image import imread

        assert imread(tmp_path / name).std() > 0.05  # not blank


def test_an_evaluation_is_json(data):
    config, index, statistics = data
    json.dumps(evaluate(Threshold(), index, statistics, config).to_json(), allow_nan=False)

"""Every labelled pixel of the fold is counted once, and no other."""

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
from ununennium.errors import DataError
from ununennium.evaluation.evaluate import evaluate
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
        with rasterio.open(scene.images[0]) as image, rasterio.open(scene.label) as label:
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


def test_the_model_is_left_in_the_mode_it_was_in(data):
    config, index, statistics = data
    model = UNet(1, 2, base_channels=2, depth=2)
    model.head.eval()
    evaluate(model, index, statistics, config)
    assert model.training
    assert not model.head.training


def test_a_model_of_other_classes_is_named(data):
    config, index, statistics = data
    with pytest.raises(DataError, match=r"it must be \(\d, 2, 256, 256\)"):
        evaluate(UNet(1, 3, base_channels=2, depth=1), index, statistics, config)


def test_an_evaluation_is_json(data):
    config, index, statistics = data
    json.dumps(evaluate(Threshold(), index, statistics, config).to_json(), allow_nan=False)

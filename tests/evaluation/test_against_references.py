"""Metrics of a whole evaluation beside scikit-learn's, and boundaries beside SciPy's distances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from scipy import ndimage
from sklearn import metrics as sklearn
from torch import nn

from ununennium.config import DataConfig
from ununennium.data import HOLDOUT, build_index, compute_statistics
from ununennium.evaluation.evaluate import evaluate
from ununennium.evaluation.evaluation import Evaluation
from ununennium.evaluation.measures import TOLERANCE_PX

NAMES = ["unlabelled", *(f"class {number}" for number in range(1, 17))]


class Pixelwise(nn.Module):
    """A linear model of each pixel, which is fitted to nothing: its answers are many classes, mostly wrong."""

    def __init__(self, bands: int, classes: int) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.layer = nn.Conv2d(bands, classes, 1)

    def forward(self, image):
        return self.layer(image)


@pytest.fixture(scope="module")
def pines(tmp_path_factory):
    """The evaluation of Indian Pines, and its labels and predictions, read with rasterio."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "indian_pines"
    if not folder.is_dir():
        pytest.skip(f"needs the shared scene in {folder}")
    out = tmp_path_factory.mktemp("pines")
    config = DataConfig.model_validate(
        {
            "scenes": [{"name": "pines", "image": str(folder / "indian_pines_200b.tif"),
                        "label": str(folder / "indian_pines_gt.tif")}],
            "classes": NAMES,
            "allow_absent": NAMES[:1],
            "chip_size": 32,
            "split": {"block_size": 16, "buffer": 2, "validation": 0.2, "holdout": 0.4},
        }
    )  # fmt: skip
    index = build_index(config)
    model = Pixelwise(len(index.bands), len(NAMES))
    measured = evaluate(model, index, compute_statistics(index), config, prediction_path=out)
    with rasterio.open(folder / "indian_pines_gt.tif") as label, rasterio.open(out / "pines.tif") as drawn:
        truth, held_out = label.read(1), index.split.folds(index.scenes[0], 0, 0, *label.shape) == HOLDOUT
        predicted = np.full(label.shape, 255, np.uint8)
        col, row = (round(v) for v in ~label.transform @ (drawn.transform.c, drawn.transform.f))
        predicted[row : row + drawn.height, col : col + drawn.width] = drawn.read(1)
    return measured, truth, predicted, held_out & (truth != 0)  # nodata of the label raster


def test_metrics_are_scikit_learns_to_1e_12(pines):
    """correctness 33: overall accuracy, kappa, and precision, recall, F1 and IoU of each class."""
    measured, truth, predicted, counted = pines
    one, other = truth[counted], predicted[counted]
    assert measured.num_pixels == len(one) > 4000
    numbers = range(len(NAMES))
    np.testing.assert_array_equal(measured.confusion, sklearn.confusion_matrix(one, other, labels=numbers))
    assert measured.metric("accuracy") == pytest.approx(sklearn.accuracy_score(one, other), abs=1e-12)
    assert measured.metric("kappa") == pytest.approx(sklearn.cohen_kappa_score(one, other), abs=1e-12)
    nan = float("nan")
    precision, recall, f1, _ = sklearn.precision_recall_fscore_support(one, other, labels=numbers, zero_division=nan)
    iou = sklearn.jaccard_score(one, other, labels=numbers, average=None, zero_division=0)
    seen = np.isin(numbers, np.union1d(one, other))
    expected = {"precision": precision, "recall": recall, "F1": f1, "IoU": np.where(seen, iou, nan)}
    for family, values in expected.items():
        ours = [measured.metric(f"{family}.{name}") for name in NAMES]
        np.testing.assert_allclose(ours, np.where(seen, values, nan), rtol=0, atol=1e-12, err_msg=family)
        labelled = np.isin(numbers, one)  # their mean is over these, and one that is never predicted has a 0 in it
        mean = np.nan_to_num(values[labelled]).mean()
        assert measured.metric(f"{family}.mean") == pytest.approx(mean, abs=1e-12)
    weighted = sklearn.f1_score(one, other, average="weighted", labels=numbers, zero_division=0)
    assert measured.metric("frequency_weighted_F1") == pytest.approx(weighted, abs=1e-12)


def test_blocks_add_up_to_the_whole(pines):
    measured, truth, _, counted = pines
    units = measured.units
    number = len(NAMES) ** 2
    np.testing.assert_array_equal(units.total[:number].reshape(len(NAMES), -1), measured.confusion)
    for unit in range(len(units)):
        top, left, height, width = units.window(unit)
        block = np.s_[max(top, 0) : top + height, max(left, 0) : left + width]
        labelled = np.bincount(truth[block][counted[block]], minlength=len(NAMES))
        np.testing.assert_array_equal(units.sums[unit, :number].reshape(len(NAMES), -1).sum(1), labelled)
    again = Evaluation.from_json(measured.to_json())
    np.testing.assert_array_equal(again.units.sums, units.sums)
    assert again.to_json() == measured.to_json()


def test_boundaries_are_met_as_distances_say(pines):
    """A boundary pixel has one of four neighbours of another class; distances by SciPy's exact transform."""
    measured, truth, predicted, counted = pines
    for number, name in enumerate(NAMES):
        outlines = []
        for classes in (predicted, truth):
            outline = np.zeros(truth.shape, bool)
            for axis in (0, 1):
                for step in (1, -1):
                    moved, there = np.roll(classes, step, axis), np.roll(counted, step, axis)
                    edge = np.s_[:1] if step == 1 else np.s_[-1:]
                    there[(edge, slice(None)) if axis == 0 else (slice(None), edge)] = False
                    outline |= counted & there & (moved != classes)
            outlines.append(outline & (classes == number))
        shares = []
        for mine, its in (outlines, outlines[::-1]):
            near = ndimage.distance_transform_edt(~its) <= TOLERANCE_PX if its.any() else np.zeros_like(its)
            shares.append((near & mine).sum() / mine.sum() if mine.any() else None)
        found = measured.metric(f"boundary_F1.{name}")
        if shares == [None, None]:
            assert np.isnan(found)
        elif None in shares or sum(shares) == 0:
            assert found == 0
        else:
            assert found == pytest.approx(2 * shares[0] * shares[1] / sum(shares), abs=1e-12)

"""A first model has to beat the best constant prediction and a linear classifier of single pixels."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F

from tests.rasters import write_raster
from ununennium.config import DataConfig, GateConfig
from ununennium.data import HOLDOUT, TRAIN, build_index, compute_statistics
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.statistics import BandStatistics, normalise
from ununennium.evaluation.baselines import _WEIGHT_DECAY, best_constant, fit_linear_classifier, measure_baselines
from ununennium.evaluation.evaluate import evaluate
from ununennium.evaluation.evaluation import Baseline, Evaluation
from ununennium.evaluation.gate import GateDecision, decide

SIDE = 256
GATE = {"metric": "IoU.square", "floors": {}}
Field = tuple[DataConfig, ChipIndex, BandStatistics, np.ndarray]


@pytest.fixture(scope="module")
def field(tmp_path_factory: pytest.TempPathFactory) -> Field:
    """Squares of 16 pixels that are brighter than the noise of a single pixel tells, a quarter of all pixels."""
    folder, rng = tmp_path_factory.mktemp("field"), np.random.default_rng(0)
    squares = np.kron(rng.random((SIDE // 16, SIDE // 16)) < 0.25, np.ones((16, 16))).astype(np.uint8)
    image = rng.normal(1000, 100, (2, SIDE, SIDE)) + 100 * squares
    return indexed(folder, image.astype(np.uint16), squares, {"classes": ["ground", "square"]})


def indexed(folder: Path, image: np.ndarray, label: np.ndarray, data: dict[str, Any], block: int = 32) -> Field:
    scene = {
        "image": write_raster(folder / "image.tif", image),
        "label": write_raster(folder / "label.tif", label[None]),
    }
    split = {"block_size": block, "buffer": 0, "validation": 0.2, "holdout": 0.3}
    config = DataConfig.model_validate({"scenes": [scene], "chip_size": 32, "split": split, **data})
    index = build_index(config)
    return config, index, compute_statistics(index), label


class Smooth(nn.Module):
    """Squares found by the mean of 9 x 9 pixels: what a small network learns."""

    def forward(self, image: Tensor) -> Tensor:
        mean = F.avg_pool2d(image.mean(1, keepdim=True), 9, 1, 4)
        return torch.cat([torch.zeros_like(mean), 20 * (mean - 0.35)], 1)


class OneClass(nn.Module):
    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, image: Tensor) -> Tensor:
        logits = image.new_zeros(len(image), 2, *image.shape[-2:])
        logits[:, self.number] = 1.0
        return logits


class Noise(nn.Module):
    """Classes that have nothing to do with the image, the same for a pixel whenever it is asked."""

    def forward(self, image: Tensor) -> Tensor:
        noise = torch.sin(1e4 * image.sum(1, keepdim=True))
        return torch.cat([noise, -noise], 1)


def judged(field: Field, model: nn.Module, **gate: Any) -> GateDecision:
    config, index, statistics, _ = field
    challenger = evaluate(model, index, statistics, config)
    settings = GateConfig.model_validate({**GATE, **gate})
    baselines = measure_baselines(challenger, index, statistics, config, settings.metric)
    return decide(challenger, None, settings, baselines=baselines)


@pytest.mark.parametrize("metric", ["IoU", "IoU.square", "F1", "accuracy", "boundary_F1"])
def test_the_best_constant_is_the_one_that_numpy_finds(field: Field, metric: str) -> None:
    config, index, statistics, label = field
    truth = label[index.split.folds(index.scenes[0], 0, 0, SIDE, SIDE) == HOLDOUT]
    share = np.array([(truth == number).mean() for number in (0, 1)])
    expected = {
        "IoU": max(share) / 2, "IoU.square": share[1], "F1": max(2 * share / (1 + share)) / 2, "accuracy": max(share),
        "boundary_F1": 0.0,
    }[metric]  # fmt: skip
    found = best_constant(evaluate(Smooth(), index, statistics, config), metric)
    assert found is not None
    assert found.evaluation.metric(metric) == pytest.approx(expected, abs=1e-12)
    if metric == "IoU.square":
        assert found.name == "the constant prediction 'square'"
        one = evaluate(OneClass(1), index, statistics, config)
        assert found.evaluation.confusion == one.confusion
        assert found.evaluation.units is not None
        assert one.units is not None
        np.testing.assert_array_equal(found.evaluation.units.sums[:, :4], one.units.sums[:, :4])


def test_the_classifier_of_pixels_is_scikit_learns_logistic_regression(field: Field) -> None:
    _, index, statistics, label = field
    scene = index.scenes[0]
    image, valid = index.reader(scene).read(0, 0, SIDE, SIDE)
    used = index.split.folds(scene, 0, 0, SIDE, SIDE) == TRAIN
    assert used.sum() < 50_000, "the sample is the whole fold"
    pixels, targets = normalise(image, valid, statistics)[:, used].T, label[used]
    weights = (len(targets) / np.bincount(targets))[targets] ** 0.5
    reference = LogisticRegression(C=1 / (4 * _WEIGHT_DECAY * weights.sum()), tol=1e-8, max_iter=1000)
    reference.fit(pixels, targets, sample_weight=weights)
    with torch.no_grad():
        logits = fit_linear_classifier(index, statistics)(torch.from_numpy(pixels.T[None, :, None]))
    found = logits.softmax(1)[0, 1, 0].numpy()
    np.testing.assert_allclose(found, reference.predict_proba(pixels)[:, 1], atol=2e-3)


def test_a_model_that_is_better_than_both_is_promoted(field: Field) -> None:
    decision = judged(field, Smooth())
    assert decision.verdict == "promoted", decision.reason
    assert decision.reason.startswith("first model: IoU.square 0.")
    assert "beats a linear classifier of single pixels (0." in decision.reason
    assert "90% interval of the difference +0." in decision.reason


@pytest.mark.parametrize("model", [OneClass(0), OneClass(1), Noise()], ids=["ground", "square", "noise"])
def test_one_class_everywhere_and_noise_are_not_promoted(field: Field, model: nn.Module) -> None:
    """correctness 109"""
    decision = judged(field, model)
    assert decision.verdict == "not_promoted"
    assert "does not beat a linear classifier of single pixels" in decision.reason
    (check,) = (check for check in decision.checks if check.kind == "baseline")
    assert check.baseline is not None
    assert check.value is not None
    assert check.value < check.baseline


@pytest.mark.parametrize("metric", ["recall.square", "recall.ground"])
def test_a_metric_that_a_constant_has_at_its_best_is_compared_by_iou(field: Field, metric: str) -> None:
    decision = judged(field, Smooth(), metric=metric)
    assert decision.verdict == "promoted", decision.reason
    assert f"IoU.{metric.partition('.')[2]} 0." in decision.reason
    assert judged(field, OneClass(int(metric == "recall.square")), metric=metric).verdict == "not_promoted"


def test_what_the_linear_classifier_does_as_well_is_not_promoted(field: Field) -> None:
    _, index, statistics, _ = field
    decision = judged(field, fit_linear_classifier(index, statistics, seed=1))
    assert decision.verdict == "not_promoted"
    assert "interval of the difference" in decision.reason


def test_with_first_any_it_is_promoted_and_said_so(field: Field) -> None:
    decision = judged(field, OneClass(0), first="any")
    assert decision.verdict == "promoted"
    assert decision.reason == "first model, not compared with a baseline: IoU.square 0.0000"


def test_with_too_few_blocks_the_difference_alone_decides_and_is_said_so(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    squares = np.kron(rng.random((16, 16)) < 0.25, np.ones((16, 16))).astype(np.uint8)
    image = (rng.normal(1000, 100, (2, SIDE, SIDE)) + 100 * squares).astype(np.uint16)
    few = indexed(tmp_path, image, squares, {"classes": ["ground", "square"]}, block=128)
    decision = judged(few, Smooth())
    assert decision.verdict == "promoted", decision.reason
    assert "by the difference alone: the holdout has too few blocks for an interval" in decision.reason


class Heights(nn.Module):
    """Standardised heights: the band times a factor, or its smoothed mean."""

    def __init__(self, smooth: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.smooth = smooth

    def forward(self, image: Tensor) -> Tensor:
        return self.smooth(image.mean(1, keepdim=True))


@pytest.fixture(scope="module")
def terrain(tmp_path_factory: pytest.TempPathFactory) -> Field:
    """Heights in steps of 16 pixels, and an image that is them with noise."""
    folder, rng = tmp_path_factory.mktemp("terrain"), np.random.default_rng(1)
    heights = np.kron(rng.normal(0, 30, (SIDE // 16, SIDE // 16)), np.ones((16, 16))).astype(np.float32)
    image = (1000 + 10 * heights + rng.normal(0, 100, (1, SIDE, SIDE))).astype(np.uint16)
    return indexed(folder, image, heights, {"task": "regression", "classes": ["height"]})


@pytest.mark.parametrize("metric", ["RMSE", "MAE", "R2", "bias"])
def test_a_regression_has_to_beat_the_training_mean_and_to_explain_variance(terrain: Field, metric: str) -> None:
    """correctness 109"""
    good = judged(terrain, Heights(lambda band: F.avg_pool2d(band, 5, 1, 2)), metric=metric)
    assert good.verdict == "promoted", good.reason
    assert f"{'RMSE' if metric == 'bias' else metric} " in good.reason
    assert "the training mean" in good.reason
    for bad in (
        Heights(lambda band: -band),
        Heights(torch.zeros_like),
        Heights(lambda band: 3 * torch.sin(1e3 * band)),
    ):
        decision = judged(terrain, bad, metric=metric)
        assert decision.verdict == "not_promoted"
        assert "not above 0" in decision.reason or "does not beat the training mean" in decision.reason


def test_the_training_mean_is_numpys(terrain: Field) -> None:
    config, index, statistics, label = terrain
    folds = index.split.folds(index.scenes[0], 0, 0, SIDE, SIDE)
    mean, truth = label[folds == TRAIN].mean(), label[folds == HOLDOUT]
    challenger = evaluate(Heights(torch.zeros_like), index, statistics, config)
    (baseline,) = measure_baselines(challenger, index, statistics, config, "RMSE")
    assert baseline.name == f"the training mean {mean:.4g}"
    assert baseline.evaluation.metric("RMSE") == pytest.approx(np.sqrt(((truth - mean) ** 2).mean()), rel=1e-5)
    assert baseline.evaluation.metric("MAE") == pytest.approx(np.abs(truth - mean).mean(), rel=1e-5)


def test_a_baseline_is_written_and_read_back(field: Field) -> None:
    config, index, statistics, _ = field
    challenger = evaluate(Smooth(), index, statistics, config)
    for each in measure_baselines(challenger, index, statistics, config, "IoU"):
        again = Baseline.from_json(each.to_json())
        assert again.name == each.name
        assert isinstance(again.evaluation, Evaluation)
        assert again.to_json() == each.to_json()

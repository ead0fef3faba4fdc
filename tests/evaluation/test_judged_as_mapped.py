"""A model is judged as it is mapped: the same probabilities and classes on the same pixels, at any temperature."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import rasterio
import torch
from torch import nn

from tests.rasters import write_raster
from ununennium.config import DataConfig
from ununennium.data import build_index, compute_statistics
from ununennium.data.splits.splits import HOLDOUT
from ununennium.evaluation.evaluate import evaluate, fit_temperature_on
from ununennium.inference import Predictor
from ununennium.prediction.strips import predict_strips
from ununennium.prediction.temperature import tempered

HEIGHT, WIDTH, STEP = 300, 400, 0.004


class Lopsided(nn.Module):
    """Far too sure, of three classes, and another answer for each turn of an image and each place in a tile."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.layer = nn.Conv2d(1, 3, 7, padding=3)

    def forward(self, image):
        slope = torch.linspace(-2, 2, image.shape[-1]).expand(image.shape[0], 1, *image.shape[-2:])
        return 6 * self.layer(image) + torch.cat((slope, 0 * slope, -slope), 1)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    """Index, statistics and configuration of three scenes, of which the last one is held out as a whole."""
    folder = tmp_path_factory.mktemp("scenes")
    listed = []
    for place, name in enumerate(("first", "second", "held")):
        rng = np.random.default_rng(place)
        label = rng.integers(0, 3, (1, HEIGHT, WIDTH)).astype(np.uint8)
        image = (300 + 100.0 * label + rng.normal(0, 120, label.shape)).clip(1).astype(np.uint16)
        label[:, rng.random((HEIGHT, WIDTH)) < 0.1] = 255
        image[:, :40, :30] = 0
        paths = {}
        for kind, array in (("image", image), ("label", label)):
            transform = rasterio.Affine(10, 0, 500000, 0, -10, 5000000 - 100000 * place)
            nodata = 0 if kind == "image" else 255
            paths[kind] = write_raster(folder / f"{name}_{kind}.tif", array, transform=transform, nodata=nodata)
        listed.append({"name": name, **paths})
    regions = {f"{fold}_regions": [{"scene": name}] for fold, name in (("validation", "second"), ("holdout", "held"))}
    config = DataConfig.model_validate(
        {"scenes": listed, "classes": ["a", "b", "c"], "chip_size": 64, "split": {"block_size": 32, **regions}}
    )
    index = build_index(config)
    return index, compute_statistics(index), config


def contract(index, statistics, **changes):
    return {
        "classes": index.classes, "bands": index.bands, "chip_size": 64, "num_dates": 1, "layout": "channels",
        "statistics": {"mean": statistics.mean, "std": statistics.std}, "nodata": 0, "resolution": [10.0, 10.0],
        "crs": index.scenes[2].crs, "ignore_index": 255, "task": "segmentation", **changes,
    }  # fmt: skip


@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize("tta", [False, True])
def test_what_is_judged_is_what_is_mapped(scenes, tmp_path, monkeypatch, tta, temperature):
    """correctness 99: classes, and confidence, which the curve of reliability sums over the labelled pixels."""
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    index, statistics, config = scenes
    model = Lopsided()
    judged = evaluate(
        model, index, statistics, config, tta=tta, temperature=temperature, prediction_path=tmp_path / "judged"
    )
    predictor = Predictor(model, contract(index, statistics, tta=tta, temperature=temperature))
    scene = index.scenes[2]
    predictor.map(scene.images[0], tmp_path / "map.tif", outputs=["map", "probabilities"])
    with rasterio.open(tmp_path / "map.tif") as dataset:
        mapped = dataset.read(1)
    with rasterio.open(tmp_path / "judged" / "held.tif") as dataset:
        np.testing.assert_array_equal(dataset.read(1), mapped)
    with rasterio.open(tmp_path / "map-probabilities.tif") as dataset:
        probabilities = dataset.read().astype(float) * STEP
    with rasterio.open(scene.label) as dataset:
        truth = dataset.read(1)
    counted = (truth != 255) & (mapped != 255)
    assert judged.num_pixels == counted.sum()
    filled = [row for row in judged.calibration.bins if row["count"]]
    confidence = sum(row["count"] * row["confidence"] for row in filled) / judged.num_pixels
    accuracy = sum(row["count"] * row["accuracy"] for row in filled) / judged.num_pixels
    assert confidence == pytest.approx(probabilities.max(0)[counted].mean(), abs=STEP / 10)
    assert accuracy == pytest.approx((mapped == truth)[counted].mean(), abs=1e-12)
    assert confidence != pytest.approx(probability_without(judged), abs=0.02)  # the temperature is not idle


def probability_without(judged) -> float:
    rows = [row for row in judged.calibration.raw_bins if row["count"]]
    return sum(row["count"] * row["confidence"] for row in rows) / judged.num_pixels


class Array:
    """Reads windows of an array, mirrored outside it."""

    def __init__(self, image: np.ndarray) -> None:
        self.image = image

    def __call__(self, row, col, height, width):
        rows, cols = np.arange(row, row + height), np.arange(col, col + width)
        inside = ((rows >= 0) & (rows < self.image.shape[1]))[:, None] & ((cols >= 0) & (cols < self.image.shape[2]))
        return self.image[:, rows.clip(0, self.image.shape[1] - 1)][:, :, cols.clip(0, self.image.shape[2] - 1)], inside


@pytest.mark.parametrize("overlap", [0, 16])
@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("temperature", [0.05, 0.7, 5.0, 20.0])
def test_a_temperature_changes_probabilities_after_they_are_put_together_and_no_class(overlap, tta, temperature):
    """correctness 99: p^(1/T) over its sum in float64, of the blended probabilities."""
    image = np.random.default_rng(0).normal(size=(1, 90, 110)).astype(np.float32)

    def predicted(at: float) -> np.ndarray:
        bands = predict_strips(
            Lopsided(), Array(image), 90, 110, num_classes=3, tile=64, overlap=overlap, tta=tta, temperature=at
        )
        return np.concatenate([band.probabilities for band in bands], 1)

    plain, found = predicted(1.0), predicted(temperature)
    logs = np.log(np.maximum(plain.astype(np.float64), np.finfo(np.float32).tiny)) / temperature
    powers = np.exp(logs - logs.max(0))
    np.testing.assert_allclose(found, powers / powers.sum(0), rtol=2e-4, atol=1e-7)
    np.testing.assert_array_equal(found.argmax(0), plain.argmax(0))


@pytest.mark.parametrize("temperature", [0.05, 3.0, 20.0])
def test_the_largest_probability_stays_the_largest_by_however_little_it_was(temperature):
    """correctness 99: at a high temperature float32 would make neighbouring numbers one and the same."""
    first = torch.full((1000,), 1 / 3)
    second = torch.nextafter(first, torch.ones(1000))
    for order in ([first, second, first], [second, first, first], [first, first, second], [first, first, first]):
        given = torch.stack(order)
        found = tempered(given.clone(), temperature)
        torch.testing.assert_close(found.argmax(0), given.argmax(0), rtol=0, atol=0)
        torch.testing.assert_close(found.sum(0), torch.ones(1000))


def test_pixels_without_data_and_other_outputs_have_no_temperature():
    """correctness 99."""
    given = torch.tensor([[0.0, 0.9], [0.0, 0.1]])
    assert tempered(given, 2.0)[:, 0].tolist() == [0.0, 0.0]
    image = np.random.default_rng(0).normal(size=(1, 64, 64)).astype(np.float32)
    for output in ("values", "presences"):
        one, other = (
            next(predict_strips(Lopsided(), Array(image), 64, 64, num_classes=3, tile=64, overlap=0, output=output,
                               temperature=at)).probabilities
            for at in (1.0, 3.0)
        )  # fmt: skip
        np.testing.assert_array_equal(one, other)


def test_the_fitted_temperature_brings_the_judged_error_down_with_tta(scenes):
    """correctness 99: fitted on the validation fold and judged on the holdout, both put together from eight views."""
    index, statistics, config = scenes
    model = Lopsided()
    temperature = fit_temperature_on(model, index, statistics, config, tta=True)
    found = evaluate(model, copy.copy(index), statistics, config, fold=HOLDOUT, tta=True, temperature=temperature)
    assert found.calibration.ece < 0.5 * found.calibration.raw_ece

"""A number per pixel: read, standardised, lost, measured, judged and mapped, against NumPy, rasterio, scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given
from hypothesis import strategies as st
from rasterio.warp import Resampling, reproject
from rio_cogeo.cogeo import cog_validate
from sklearn import metrics as sklearn_metrics
from torch import nn

from ununennium.checkpoints.artifact import load_artifact
from ununennium.checkpoints.registry import Registry
from ununennium.config import DataConfig, RunConfig
from ununennium.data import GridChips, TrainingChips, build_index, compute_statistics
from ununennium.data.chips.index import ChipIndex
from ununennium.data.splits.splits import HOLDOUT, TRAIN, VALIDATION
from ununennium.data.targets.regression import ValueReader
from ununennium.errors import ConfigError, DataError
from ununennium.evaluation import pictures
from ununennium.evaluation.evaluate import evaluate
from ununennium.inference.scene import map_scene
from ununennium.losses import HuberLoss, L1Loss, MSELoss
from ununennium.metrics import RegressionMoments
from ununennium.runs.directory import read_json
from ununennium.training import Trainer, TrainerConfig
from ununennium.training.callbacks import RegressionMetrics

SPLIT = {"block_size": 32, "buffer": 4, "validation": 0.2, "holdout": 0.2}
NODATA = -9999.0


def height_scene(scenes, seed=0, size=160, **changes):
    """Two bands, and a height that is a function of them, unlabelled in two ways at a fifth of the pixels."""
    rng = np.random.default_rng(seed)
    image = rng.integers(100, 1000, (2, size, size)).astype(np.uint16)
    height = 500 + 0.05 * image[0].astype(np.float32) - 0.02 * image[1]
    drawn = rng.random((size, size))
    height[drawn < 0.1] = NODATA
    height[(drawn >= 0.1) & (drawn < 0.2)] = np.nan
    height[:40, :40] = NODATA
    label = scenes.write(f"height{seed}", height[None], nodata=NODATA)
    return {"name": f"hill{seed}", "image": scenes.write(f"image{seed}", image), "label": label, **changes}


def configure(*scenes, **settings):
    values = {"scenes": list(scenes), "classes": ["height"], "task": "regression", "chip_size": 32, "split": SPLIT}
    return DataConfig.model_validate({**values, **settings})


def truth_of(scene):
    """Heights as float64, NaN where unlabelled, read by rasterio."""
    with rasterio.open(scene["label"]) as dataset:
        values = dataset.read(1).astype(np.float64)
    values[values == NODATA] = np.nan
    return values


def test_targets_are_standardised_by_the_training_fold(scenes, tmp_path):
    scene, other = height_scene(scenes), height_scene(scenes, 1)
    other["label"] = scenes.write("shifted", truth_of(other)[None] + 1e5)
    index = build_index(configure(scene, other))
    trained = []
    for place, its in enumerate((scene, other)):
        values = truth_of(its)
        trains = index.split.folds(index.scenes[place], 0, 0, *values.shape) == TRAIN
        trained.append(values[trains & ~np.isnan(values)])
    trained = np.concatenate(trained)
    assert index.target_scale == pytest.approx((trained.mean(), trained.std()), rel=1e-9)
    assert index.labelled["train"] == [trained.size]
    index.save(tmp_path / "index.json")
    assert ChipIndex.load(tmp_path / "index.json").target_scale == index.target_scale

    read = index.targets(index.scenes[0]).read(-10, 20, 170, 100)
    expected = np.full((170, 100), np.nan)
    expected[10:] = ((truth_of(scene) - trained.mean()) / trained.std())[:, 20:120]
    assert read.dtype == np.float32
    np.testing.assert_allclose(read, expected, rtol=1e-5)


def test_chips_hold_targets_and_nothing_of_other_folds(scenes):
    scene = height_scene(scenes)
    index = build_index(configure(scene, augment={"flips": False, "quarter_turns": False}))
    statistics = compute_statistics(index)
    config = configure(scene, augment={"flips": False, "quarter_turns": False})
    chips = TrainingChips(index, statistics, chip_size=32, num_chips=8, seed=0, augmentation=config.augment)
    mean, std = index.target_scale
    for number in range(8):
        image, target = chips[0, number]
        assert target.dtype == torch.float32
        labelled = ~target.isnan()
        assert 0 < labelled.sum() < labelled.numel()
        bands = image.numpy() * np.array(statistics.std)[:, None, None] + np.array(statistics.mean)[:, None, None]
        known = 500 + 0.05 * bands[0] - 0.02 * bands[1]
        np.testing.assert_allclose((target.numpy() * std + mean)[labelled], known[labelled], atol=1e-2)


def test_validation_chips_show_every_labelled_pixel_once(scenes):
    scene = height_scene(scenes, size=150)
    index = build_index(configure(scene))
    grid = GridChips(index, compute_statistics(index), chip_size=32, fold=VALIDATION)
    found = torch.cat([target[~target.isnan()] for _, target in grid]).double().sort().values
    values = truth_of(scene)
    values = values[(index.split.folds(index.scenes[0], 0, 0, 150, 150) == VALIDATION) & ~np.isnan(values)]
    mean, std = index.target_scale
    np.testing.assert_allclose(found.numpy(), np.sort((values - mean) / std), atol=1e-5)


def test_an_infinite_target_is_named(scenes):
    scene = height_scene(scenes)
    values = truth_of(scene).astype(np.float32)
    values[100, 100] = np.inf
    scene["label"] = scenes.write("infinite", values[None])
    with pytest.raises(DataError, match=r"infinite\.tif holds 1 infinite values.*write NaN"):
        build_index(configure(scene))


def test_shapes_are_no_values(scenes, tmp_path):
    (tmp_path / "shapes.geojson").write_text(
        '{"type": "FeatureCollection", "crs": {"type": "name", "properties": {"name": "EPSG:32633"}}, "features": '
        '[{"type": "Feature", "properties": {}, "geometry": {"type": "Point", "coordinates": [500100, 4999900]}}]}'
    )
    with pytest.raises(DataError, match="a regression learns from a raster of values"):
        build_index(configure(height_scene(scenes, label=str(tmp_path / "shapes.geojson"))))


@pytest.mark.parametrize("number", [0, 2])
def test_a_regression_predicts_one_thing(scenes, number):
    with pytest.raises(ValueError, match=r"give one name|at least 1 item"):
        configure(height_scene(scenes), classes=["height", "width"][:number])
    with pytest.raises(ValueError, match="tells at least 2 classes apart"):
        configure(height_scene(scenes), task="segmentation")


def test_the_task_brings_its_loss_and_gate_unless_they_are_given(scenes):
    data = configure(height_scene(scenes)).model_dump()
    config = RunConfig.parse({"name": "a", "data": data})
    assert (config.loss.target, config.gate.metric) == ("ununennium.losses:MSELoss", "RMSE")
    given_ones = {"loss": {"target": "ununennium.losses:L1Loss"}, "gate": {"floors": {"R2": 0.5}, "metric": "MAE"}}
    config = RunConfig.parse({"name": "a", "data": data, **given_ones})
    assert (config.loss.target, config.gate.metric, config.gate.floors) == (
        "ununennium.losses:L1Loss",
        "MAE",
        {"R2": 0.5},
    )
    assert RunConfig(name="a", data=configure(height_scene(scenes))).gate.metric == "RMSE"
    segmented = {**data, "task": "segmentation", "classes": ["a", "b"]}
    config = RunConfig.parse({"name": "a", "data": segmented})
    assert (config.loss.target, config.gate.metric) == ("ununennium.losses:CrossEntropyLoss", "IoU")


REFERENCES = {
    MSELoss(): lambda d: d**2,
    L1Loss(): abs,
    HuberLoss(0.5): lambda d: np.where(abs(d) <= 0.5, d**2 / 2, 0.5 * (abs(d) - 0.25)),
}


@pytest.mark.parametrize(("loss", "of"), REFERENCES.items(), ids=["mse", "l1", "huber"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_are_numpys_sums_over_labelled_pixels(loss, of, dtype):
    rng = np.random.default_rng(0)
    target = rng.normal(size=(3, 5, 7)).astype(np.float32)
    target[rng.random(target.shape) < 0.4] = np.nan
    output = torch.from_numpy(rng.normal(size=(3, 1, 5, 7))).to(dtype).requires_grad_()
    total, count = loss(output, torch.from_numpy(target))
    labelled = ~np.isnan(target)
    difference = output.detach().float().numpy()[:, 0][labelled] - target[labelled]
    assert (total.dtype, float(count)) == (torch.float32, labelled.sum())
    assert total.item() == pytest.approx(of(difference).sum(), rel=1e-5)
    total.backward()
    assert torch.isfinite(output.grad).all()
    assert (output.grad[:, 0][torch.from_numpy(~labelled)] == 0).all()
    assert (output.grad[:, 0][torch.from_numpy(labelled)] != 0).all()


@pytest.mark.parametrize("loss", REFERENCES, ids=["mse", "l1", "huber"])
def test_without_a_labelled_pixel_a_loss_weighs_nothing(loss):
    output = torch.full((1, 1, 4, 4), torch.inf, requires_grad=True)  # what is predicted there is nobody's business
    total, count = loss(output, torch.full((1, 4, 4), torch.nan))
    assert (float(total), float(count)) == (0.0, 0.0)
    total.backward()
    assert (output.grad == 0).all()


def test_what_does_not_fit_a_regression_is_named():
    with pytest.raises(DataError, match=r"must be \(2, 1, 4, 4\)"):
        MSELoss()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4))
    with pytest.raises(DataError, match=r"int64.*data\.task: regression"):
        MSELoss()(torch.zeros(2, 1, 4, 4), torch.zeros(2, 4, 4, dtype=torch.int64))
    with pytest.raises(ConfigError, match="delta"):
        HuberLoss(0.0)


def test_a_windows_gradient_is_that_of_all_its_labelled_pixels():
    """correctness 2, 3: three micro-batches of one tile each, labelled to 6, 100 and 0 %."""
    generator = torch.Generator().manual_seed(0)
    tiles = []
    for share in (0.06, 1.0, 0.0):
        target = torch.randn(1, 8, 8, generator=generator)
        target[torch.rand(1, 8, 8, generator=generator) >= share] = torch.nan
        tiles.append((torch.randn(1, 2, 8, 8, generator=generator), target))
    torch.manual_seed(0)
    model, reference = nn.Conv2d(2, 1, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)
    reference.load_state_dict(model.state_dict())
    config = TrainerConfig(device="cpu", mixed_precision=False, epochs=1, accumulation_steps=3, gradient_clip=None)
    Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), MSELoss(), tiles, config=config).fit()

    image, target = (torch.cat(parts) for parts in zip(*tiles, strict=True))
    labelled = ~target.isnan()
    nn.functional.mse_loss(reference(image)[:, 0][labelled], target[labelled]).backward()
    for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad)


def check_moments(metrics, truth, predicted):
    assert metrics["RMSE"] == pytest.approx(sklearn_metrics.root_mean_squared_error(truth, predicted), rel=1e-6)
    assert metrics["MAE"] == pytest.approx(sklearn_metrics.mean_absolute_error(truth, predicted), rel=1e-6)
    assert metrics["bias"] == pytest.approx((predicted - truth).mean(), rel=1e-5, abs=1e-9)
    assert metrics["R2"] == pytest.approx(sklearn_metrics.r2_score(truth, predicted), rel=1e-6)


@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(0, 1000))
def test_errors_are_scikit_learns_however_the_pixels_are_batched(sizes, seed):
    """correctness 28, 29, in the targets' unit: a value is 1e5 + 30 times the number."""
    rng = np.random.default_rng(seed)
    moments = RegressionMoments(1e5, 30.0)
    parts = [(rng.normal(size=(size, 1, 2, 2)), rng.normal(size=(size, 2, 2))) for size in sizes]
    for predicted, truth in parts:
        truth[rng.random(truth.shape) < 0.3] = np.nan
        moments.update(torch.from_numpy(predicted), torch.from_numpy(truth))
    predicted, truth = (np.concatenate([part.ravel() for part in side]) for side in zip(*parts, strict=True))
    labelled = ~np.isnan(truth)
    assert int(moments.sums[0]) == labelled.sum()
    if labelled.sum() < 2:
        assert np.isnan(moments.to_metrics()["R2"])
        return
    check_moments(moments.to_metrics(), 1e5 + 30 * truth[labelled], 1e5 + 30 * predicted[labelled])


def test_constant_targets_have_no_r2_and_no_pixels_no_errors():
    moments = RegressionMoments()
    assert all(np.isnan(value) for value in moments.to_metrics().values())
    moments.update(torch.zeros(1, 1, 3, 3), torch.full((1, 3, 3), 0.1))
    assert moments.to_metrics()["RMSE"] == pytest.approx(0.1)
    assert np.isnan(moments.to_metrics()["R2"])


def test_the_history_has_the_errors_of_all_validation_pixels():
    generator = torch.Generator().manual_seed(1)
    batches = []
    for size in (3, 1):
        target = torch.randn(size, 6, 6, generator=generator)
        target[torch.rand(size, 6, 6, generator=generator) < 0.5] = torch.nan
        batches.append((torch.randn(size, 2, 6, 6, generator=generator), target))
    model = nn.Conv2d(2, 1, 1)
    config = TrainerConfig(device="cpu", mixed_precision=False, epochs=1)
    trainer = Trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.01),
        MSELoss(),
        batches,
        batches,
        callbacks=[RegressionMetrics(10.0, 4.0)],
        config=config,
    )
    history = trainer.fit()
    image, target = (torch.cat(parts) for parts in zip(*batches, strict=True))
    labelled = ~target.isnan()
    with torch.no_grad():
        predicted = 10 + 4 * model(image)[:, 0][labelled].double().numpy()
    truth = 10 + 4 * target[labelled].double().numpy()
    check_moments({name: history[f"val_{name}"][-1] for name in ("RMSE", "MAE", "bias", "R2")}, truth, predicted)


class KnownAnswer(nn.Module):
    """The height, from normalised bands, off by 2 m."""

    def __init__(self, index, statistics):
        super().__init__()
        self.mean, self.std, self.scale = statistics.mean, statistics.std, index.target_scale

    def forward(self, image):
        first, second = (image[:, n] * self.std[n] + self.mean[n] for n in (0, 1))
        return ((502 + 0.05 * first - 0.02 * second - self.scale.mean) / self.scale.std)[:, None]


def test_an_evaluation_and_its_map_are_in_the_targets_unit(scenes, tmp_path):
    scene = height_scene(scenes)
    config = configure(scene)
    index = build_index(config)
    statistics = compute_statistics(index)
    measured = evaluate(KnownAnswer(index, statistics), index, statistics, config, prediction_path=tmp_path / "map")
    values = truth_of(scene)
    held_out = index.split.folds(index.scenes[0], 0, 0, 160, 160) == HOLDOUT
    assert measured.num_pixels == (held_out & ~np.isnan(values)).sum()
    for name in ("RMSE", "MAE", "bias"):
        assert measured.metric(name) == pytest.approx(2.0, abs=1e-3)
    assert measured.metric("R2") == pytest.approx(1 - 4 / np.nanvar(values[held_out]), abs=1e-3)
    assert measured.confusion == []
    with rasterio.open(tmp_path / "map" / "hill0.tif") as drawn, rasterio.open(scene["image"]) as image:
        assert drawn.dtypes == ("float32",)
        assert np.isnan(drawn.nodata)
        assert drawn.descriptions == ("height",)
        col, row = (round(v) for v in ~image.transform @ (drawn.transform.c, drawn.transform.f))
        window = slice(row, row + drawn.height), slice(col, col + drawn.width)
        bands = image.read().astype(np.float64)
        expected = np.where(held_out, 502 + 0.05 * bands[0] - 0.02 * bands[1], np.nan)[window]
        np.testing.assert_allclose(drawn.read(1), expected, atol=1e-3)
    valid, errors, _ = cog_validate(tmp_path / "map" / "hill0.tif")
    assert valid, errors


def test_pictures_of_values_are_drawn_where_much_is_missing(tmp_path):
    truth = np.full((40, 60), np.nan)
    truth[:20, :30] = np.arange(600).reshape(20, 30)
    pictures.value_panel(np.ones((40, 60)), truth, truth + 5, "height", tmp_path / "some.png")
    empty = np.full((40, 60), np.nan)
    pictures.value_panel(np.ones((40, 60, 3)), empty, empty, "height", tmp_path / "none.png", later=np.ones((40, 60)))
    for file in tmp_path.iterdir():
        assert file.read_bytes().startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.slow
def test_a_regression_is_trained_judged_promoted_and_mapped_and_then_meets_its_champion(
    scenes, run_config, run_through, tmp_path
):
    scene = height_scene(scenes)
    data = {"scenes": [scene], "task": "regression", "classes": ["height"]}
    model = {"target": "ununennium.models:UNet", "kwargs": {"base_channels": 8, "depth": 1}}
    config = run_config(data, model=model, trainer={"epochs": 6}, gate={"floors": {"R2": 0.8}})
    run, summary = run_through(config)
    assert summary.verdict == "promoted", summary.reason
    assert set(summary.holdout) == {"RMSE", "MAE", "bias", "R2"}
    assert (run.pictures_folder / "prediction.png").stat().st_size > 1000
    history = read_json(run.result_file)["history"]
    assert {"val_RMSE", "val_MAE", "val_bias", "val_R2"} <= history.keys()

    network, contract = load_artifact(Registry(run.storage, "tiny").version_url(summary.champion.version))
    mapped = map_scene(network, contract, scene["image"], tmp_path / "map.tif")
    assert mapped.pixels == {"height": 160 * 160}
    index = build_index(config.data)
    values = truth_of(scene)
    judged = (index.split.folds(index.scenes[0], 0, 0, 160, 160) == HOLDOUT) & ~np.isnan(values)
    with rasterio.open(tmp_path / "map.tif") as drawn:
        check = drawn.read(1).astype(np.float64)
    # Tiles over the scene and over the fold lie differently: their blend is not the same to the last digit.
    rmse = sklearn_metrics.root_mean_squared_error(values[judged], check[judged])
    assert summary.holdout["RMSE"] == pytest.approx(rmse, rel=0.05)
    with rasterio.open(run.prediction_folder / "hill0.tif") as drawn:
        col, row = (round(v) for v in ~index.scenes[0].affine @ (drawn.transform.c, drawn.transform.f))
        predicted = np.full((160, 160), np.nan)
        predicted[row : row + drawn.height, col : col + drawn.width] = drawn.read(1)
    check_moments(summary.holdout, values[judged], predicted[judged])

    worse = run_config(data, model=model, trainer={"epochs": 1}, optimizer={"target": "torch.optim:SGD"})
    run, summary = run_through(worse)
    assert summary.verdict == "not_promoted"
    champion = read_json(run.evaluation_file)["champion"]
    assert champion["metrics"]["RMSE"] == pytest.approx(rmse, rel=0.05)
    assert f"is not below the champion's {champion['metrics']['RMSE']:.4f}" in summary.reason


@pytest.mark.slow
def test_heights_of_olinda_from_landsat(request, run_config, run_through, tmp_path):
    """A real DEM and six bands; the DEM is brought to the image's grid first."""
    folder = request.config.rootpath.parent / "shared" / "data" / "landsat7_olinda"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here")
    with rasterio.open(folder / "L7_ETMs.tif") as image, rasterio.open(folder / "olinda_dem_utm25s.tif") as dem:
        heights = np.full(image.shape, np.nan, np.float32)
        reproject(
            dem.read(1), heights, src_transform=dem.transform, src_crs=image.crs, dst_transform=image.transform,
            dst_crs=image.crs, dst_nodata=np.nan, resampling=Resampling.bilinear,
        )  # fmt: skip
        settings = {"height": image.height, "width": image.width, "crs": image.crs, "transform": image.transform}
    label = tmp_path / "heights.tif"
    with rasterio.open(label, "w", driver="GTiff", count=1, dtype="float32", nodata=np.nan, **settings) as dataset:
        dataset.write(heights[None])
    config = run_config(
        {
            "scenes": [{"image": str(folder / "L7_ETMs.tif"), "label": str(label)}],
            "task": "regression",
            "classes": ["elevation"],
            "chip_size": 64,
        },
        trainer={"epochs": 2},
        loss={"target": "ununennium.losses:HuberLoss"},
    )
    run, summary = run_through(config)
    assert summary.verdict == "promoted", summary.reason
    with rasterio.open(next(Path(run.prediction_folder).glob("*.tif"))) as drawn:
        assert np.isfinite(drawn.read(1)).any()
    assert summary.holdout["RMSE"] < 3 * np.nanstd(heights)


def test_values_are_read_in_any_process(scenes):
    """A reader that has been pickled reads the same."""
    import pickle

    scene = build_index(configure(height_scene(scenes))).scenes[0]
    reader = ValueReader(scene)
    before = reader.read(0, 0, 50, 50)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(reader)).read(0, 0, 50, 50), before)

"""A class, or several, for a patch: read, lost, measured, judged and mapped, against NumPy and scikit-learn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics
from torch import nn
from torch.nn import functional as F

from ununennium.checkpoints.artifact import load_artifact
from ununennium.checkpoints.contract import ModelContract
from ununennium.checkpoints.registry import Registry
from ununennium.config import DataConfig, RunConfig
from ununennium.data import GridChips, build_index, compute_statistics
from ununennium.data.describe import scene_rows
from ununennium.data.splits.splits import HOLDOUT, VALIDATION
from ununennium.data.targets.patch_labels import PatchTargets, SceneLabelReader, classes_present, most_common_class
from ununennium.errors import ConfigError, DataError
from ununennium.evaluation.evaluate import evaluate
from ununennium.evaluation.promoted import check_comparable
from ununennium.inference.scene import map_scene
from ununennium.losses import PresenceLoss
from ununennium.metrics import PresenceCounts
from ununennium.models import PatchClassifier, Patchwise
from ununennium.runs.directory import read_json

CLASSES = ["water", "field", "town"]


def own_class(scenes, number, *names, size=32, **changes):
    """A scene of one place per number, whose bands are bright where a class is."""
    rng = np.random.default_rng(number)
    image = rng.normal(1000, 100, (3, size, size))
    for name in names:
        image[CLASSES.index(name)] += 300
    corner = rasterio.Affine(10, 0, 500000 + 2000 * number, 0, -10, 5000000)
    path = scenes.write(f"scene{number}", image.astype(np.uint16), transform=corner)
    return {"name": f"scene{number}", "image": path, "classes": list(names), **changes}


def configure(*listed, **settings):
    values = {"scenes": list(listed), "classes": CLASSES, "task": "classification", "chip_size": 32}
    return DataConfig.model_validate({**values, **settings})


# ------------------------------------------------------------------ targets


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.floats(0.0, 1.0))
def test_a_patch_is_what_most_of_its_labelled_pixels_are(seed, num_classes, share):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, num_classes, (4, 5, 6))
    target[rng.random(target.shape) < share] = 255
    found = most_common_class(num_classes, 255)(torch.from_numpy(target)).tolist()
    digits = np.where(target == 255, np.nan, 2.0**target)
    shown = classes_present(num_classes)(torch.from_numpy(digits)).numpy()
    for patch, number, present in zip(target, found, shown, strict=True):
        counts = [int((patch == one).sum()) for one in range(num_classes)]
        if not sum(counts):
            assert number == 255
            assert np.isnan(present).all()
            continue
        assert number == counts.index(max(counts))  # the first of equals
        assert present.tolist() == [float(count > 0) for count in counts]


def test_targets_are_those_of_the_patch_after_it_was_changed():
    """What a zoom or a turn shows of a patch decides, not what the loader read."""

    def zoomed(image, target, valid, *, training, epoch, batch):
        assert (training, epoch, batch) == (True, 3, 4)
        return image + 1, target[:, :2]

    target = torch.tensor([[[1, 1], [1, 2], [2, 2], [2, 2]]])
    image, labels = PatchTargets(most_common_class(3, 255), zoomed)(
        torch.zeros(1), target, None, training=True, epoch=3, batch=4
    )
    assert image.tolist() == [1.0]
    assert labels.tolist() == [1]


def test_a_scene_without_labels_is_all_of_its_class(scenes):
    index = build_index(configure(*[own_class(scenes, number, CLASSES[number % 3]) for number in range(12)]))
    reader = SceneLabelReader(index.scenes[1], CLASSES, 255)
    expected = np.full((4, 6), 1)
    expected[0], expected[:, :2] = 255, 255
    assert (reader.read(-1, -2, 4, 6) == expected).all()
    facts = scene_rows(index)[1]
    assert (facts["labels"], facts["labelled"]) == ("the scene is field", "100.0 %")


def test_whole_scenes_are_dealt_to_the_folds_by_their_class(scenes):
    listed = [own_class(scenes, number, CLASSES[number % 3]) for number in range(30)]
    index = build_index(configure(*listed, split={"validation": 0.2, "holdout": 0.3}))
    folds = [np.unique(index.split.folds(scene, 0, 0, 32, 32)) for scene in index.scenes]
    assert all(len(fold) == 1 for fold in folds)
    held_out = [listed[place]["classes"][0] for place, fold in enumerate(folds) if fold[0] == HOLDOUT]
    assert sorted(held_out) == sorted(CLASSES * 3)


@pytest.mark.parametrize("side", [1, 2, 16])
def test_every_class_of_a_scene_is_in_every_part_of_it(scenes, side):
    listed = [own_class(scenes, number, *(CLASSES[:2] if number % 2 else CLASSES[2:])) for number in range(12)]
    index = build_index(configure(*listed, task="multilabel"))
    of_patch = index.of_patch
    for scene, given_settings in zip(index.scenes, listed, strict=True):
        labels = index.targets(scene).read(3, 5, side, side)
        expected = [float(name in given_settings["classes"]) for name in CLASSES]
        assert of_patch(torch.from_numpy(labels)[None]).tolist() == [expected]


@pytest.mark.parametrize(
    ("names", "task", "error", "message"),
    [
        (["lake"], "classification", DataError, r"'lake' is no class.*water, field, town"),
        ([], "classification", DataError, r"neither a label file nor a class.*data.scenes\[\].classes"),
        (["water", "town"], "classification", ConfigError, r"one class per scene.*multilabel"),
    ],
)
def test_a_scene_whose_class_is_missing_or_unknown_is_refused(scenes, names, task, error, message):
    bad = {**own_class(scenes, 0, "water"), "classes": names}
    with pytest.raises(error, match=message):
        build_index(configure(bad, own_class(scenes, 1, "field"), task=task))


def test_classes_come_from_folders_and_from_a_table(scenes, tmp_path):
    from ununennium.data.scenes.sources import scenes_of

    rows = ["image,classes"]
    for number in range(4):
        name = CLASSES[number % 2]
        (tmp_path / "eurosat" / name).mkdir(parents=True, exist_ok=True)
        written = Path(own_class(scenes, number, name)["image"])
        written.rename(tmp_path / "eurosat" / name / written.name)
        rows.append(f"eurosat/{name}/{written.name},{name}; town")
    (tmp_path / "scenes.csv").write_text("\n".join(rows))
    catalog = {"folder": str(tmp_path / "eurosat"), "class_from": "folder"}
    found = scenes_of(configure(catalog=catalog))
    assert [(scene.name, scene.classes) for scene in found] == [
        ("scene1", ["field"]), ("scene3", ["field"]), ("scene0", ["water"]), ("scene2", ["water"]),
    ]  # fmt: skip
    table = scenes_of(configure(catalog={"table": str(tmp_path / "scenes.csv")}, task="multilabel"))
    assert [scene.classes for scene in table] == [[CLASSES[number % 2], "town"] for number in range(4)]


def test_scenes_with_and_without_labels_are_all_dealt_whole(scenes):
    listed = [own_class(scenes, number, CLASSES[number % 3], size=96) for number in range(12)]
    labels = np.kron(np.arange(9).reshape(3, 3) % 3, np.ones((32, 32))).astype(np.uint8)
    corner = rasterio.Affine(10, 0, 900000, 0, -10, 5000000)
    files = {name: scenes.write(name, labels[None], transform=corner) for name in ("mosaic", "mosaic_label")}
    mosaic = {"name": "mosaic", "image": files["mosaic"], "label": files["mosaic_label"]}
    with pytest.warns(UserWarning, match="class of their own: all are dealt to the folds whole"):
        index = build_index(configure(*listed, mosaic, bands=[1]))
    assert all(len(np.unique(index.split.folds(scene, 0, 0, 96, 96))) == 1 for scene in index.scenes)


@pytest.mark.parametrize("size", [32, 33, 34])
def test_what_is_in_every_scene_is_found_in_every_patch(scenes, size):
    """Slivers at the edges of scenes are no patches."""
    listed = [own_class(scenes, n, *(CLASSES[:2] if n % 2 else CLASSES[1:]), size=size) for n in range(12)]
    config = configure(*listed, task="multilabel", split={"validation": 0.2, "holdout": 0.4})
    index = build_index(config)
    statistics = compute_statistics(index)

    class AlwaysField(nn.Module):
        def forward(self, image):
            return torch.tensor([-1.0, 1.0, -1.0]).expand(len(image), -1)

    measured = evaluate(AlwaysField(), index, statistics, config)
    folds = [index.split.folds(scene, 0, 0, 1, 1)[0, 0] for scene in index.scenes]
    assert measured.num_pixels == folds.count(HOLDOUT)
    assert measured.metrics["F1"]["field"] == 1.0
    grid = GridChips(index, statistics, chip_size=32, fold=VALIDATION)
    of_patch = index.of_patch
    found = [tuple(of_patch(grid[number][1][None]).tolist()[0]) for number in range(len(grid))]
    truth = [
        tuple(float(name in settings_of["classes"]) for name in CLASSES)
        for settings_of, fold in zip(listed, folds, strict=True)
        if fold == VALIDATION
    ]
    assert sorted(found) == sorted(truth)


@pytest.mark.parametrize(
    ("changes", "task", "message"),
    [
        ({"label": True}, "classification", "has a label file, too"),
        ({}, "segmentation", "classification or multilabel"),
    ],
)
def test_classes_that_would_not_be_used_are_refused(scenes, changes, task, message):
    scene = own_class(scenes, 0, "water")
    if changes or task == "segmentation":
        scene["label"] = scenes.write(
            "label", np.zeros((1, 32, 32), np.uint8), transform=rasterio.Affine(10, 0, 500000, 0, -10, 5000000)
        )
    with pytest.raises(ConfigError, match=message):
        build_index(configure(scene, task=task))


def test_a_champion_of_other_patches_is_not_compared(scenes):
    listed = [own_class(scenes, number, CLASSES[number % 3]) for number in range(3)]
    data = {"scenes": listed, "classes": CLASSES, "task": "classification", "chip_size": 32}
    config = RunConfig.parse({"name": "patches", "data": data})
    contract = ModelContract(task="classification", classes=CLASSES, chip_size=64)
    with pytest.raises(ConfigError, match=r"data.chip_size = 32: .* made for 64"):
        check_comparable(config, contract)
    check_comparable(config, replace(contract, chip_size=32))


def test_another_class_is_other_data(scenes):
    """No file changes when a table names another class: the champion must be measured again all the same."""
    listed = [own_class(scenes, number, CLASSES[number % 3]) for number in range(12)]
    before = build_index(configure(*listed)).data_sha256
    listed[0]["classes"] = ["town"]
    assert build_index(configure(*listed)).data_sha256 != before


# ------------------------------------------------------------------ loss, metrics, models


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_loss_of_several_classes_counts_what_is_known(seed):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 3, generator=generator, dtype=torch.float64)
    target = torch.randint(0, 2, (5, 3), generator=generator).double()
    target[torch.rand(5, 3, generator=generator) < 0.3] = torch.nan
    known = ~target.isnan()
    total, weight = PresenceLoss()(logits.requires_grad_(), target)
    expected = F.binary_cross_entropy(torch.sigmoid(logits.double())[known], target[known], reduction="sum")
    assert weight == known.sum()
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=1e-6)
    total.backward()
    assert logits.grad is not None
    assert (logits.grad[~known] == 0).all()
    with pytest.raises(DataError, match=r"both must be \(batch, classes\)"):
        PresenceLoss()(torch.zeros(2, 3), torch.zeros(2))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_each_class_is_measured_as_scikit_learn_does(seed):
    rng = np.random.default_rng(seed)
    truth, predicted = rng.integers(0, 2, (2, 30, 4))
    truth[:, 3] = predicted[:, 3] = 0
    counts = PresenceCounts(4)
    for part in (slice(0, 7), slice(7, 30)):
        counts.update(torch.from_numpy(predicted[part]).bool(), torch.from_numpy(truth[part]).float())
    per_class = counts.per_class()
    assert per_class["F1"][3].isnan()  # neither there nor seen: no 0 and no 1
    for name, function in (
        ("F1", sklearn_metrics.f1_score),
        ("precision", sklearn_metrics.precision_score),
        ("recall", sklearn_metrics.recall_score),
    ):
        expected = function(truth[:, :3], predicted[:, :3], average=None, zero_division=np.nan)
        np.testing.assert_allclose(per_class[name][:3].numpy(), expected, equal_nan=True)
    assert counts.accuracy == pytest.approx((truth == predicted).mean())


def test_a_patch_that_is_too_small_for_the_network_is_refused():
    model = PatchClassifier(3, 2, base_channels=4, depth=4)
    assert model(torch.zeros(2, 3, 8, 9)).shape == (2, 2)
    with pytest.raises(DataError, match="at least 8 x 8 pixels"):
        model(torch.zeros(2, 3, 7, 9))
    with pytest.raises(DataError, match=r"needs \(batch, classes\)"):
        Patchwise(nn.Conv2d(3, 2, 1))(torch.zeros(1, 3, 8, 8))


# ------------------------------------------------------------------ evaluation


class BrightestBand(nn.Module):
    """Logits that grow with each band's mean: what the scenes here were made of."""

    def forward(self, image):
        return 40 * (image.mean((-2, -1)) - image.mean((1, 2, 3))[:, None])


@pytest.mark.parametrize("size", [96, 110])
def test_evaluation_counts_each_patch_of_the_holdout_once(scenes, size):
    """Patches from label files, sizes that are no multiple of a patch, against a count by hand."""
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 3, (4, 4)), np.ones((32, 32), int))[:size, :size]
    image = rng.normal(1000, 100, (3, size, size)) + 300 * (np.arange(3)[:, None, None] == blocks)
    label = blocks.astype(np.uint8)
    label[5, 40] = (label[5, 40] + 1) % 3  # a minority does not decide
    listed = {
        "name": "mosaic", "image": scenes.write("mosaic", image.astype(np.uint16)),
        "label": scenes.write("mosaic_label", label[None]),
    }  # fmt: skip
    split = {"block_size": 32, "buffer": 0, "validation": 0, "holdout_regions": [{"columns": [32, None]}]}
    config = configure(listed, split=split, allow_absent=["field"])
    index = build_index(config)
    statistics = compute_statistics(index)
    measured = evaluate(BrightestBand(), index, statistics, config)
    expected = np.zeros((3, 3), int)
    for row in range(0, 96, 32):  # of 110 pixels the last 14 are slivers
        for col in range(32, 96, 32):
            number = np.bincount(label[row : row + 32, col : col + 32].ravel()).argmax()
            expected[number, number] += 1
    assert np.trace(measured.confusion) >= 0.9 * expected.sum()
    assert np.sum(measured.confusion, 1).tolist() == expected.sum(1).tolist()
    assert measured.num_pixels == expected.sum()


def test_evaluation_of_several_classes_is_that_of_scikit_learn(scenes, tmp_path):
    rng = np.random.default_rng(1)
    chosen = [[name for name in CLASSES if rng.random() < 0.6] or ["town"] for _ in range(24)]
    listed = [own_class(scenes, number, *names) for number, names in enumerate(chosen)]
    config = configure(*listed, task="multilabel", split={"validation": 0, "holdout": 0.5})
    index = build_index(config)

    class Guess(nn.Module):
        def forward(self, image):
            return image[:, :, 0, 0] + 0.3

    statistics = compute_statistics(index)
    measured = evaluate(Guess(), index, statistics, config, prediction_path=tmp_path / "maps")
    truth, predicted = [], []
    for scene, names in zip(index.scenes, chosen, strict=True):
        if index.split.folds(scene, 0, 0, 1, 1)[0, 0] != HOLDOUT:
            continue
        truth.append([name in names for name in CLASSES])
        with rasterio.open(scene.images[0]) as dataset:
            pixel = dataset.read(window=((0, 1), (0, 1)))[:, 0, 0]
        predicted.append((pixel - np.array(statistics.mean)) / np.array(statistics.std) + 0.3 >= 0)
        with rasterio.open(tmp_path / "maps" / f"{scene.name}.tif") as written:
            assert written.descriptions == tuple(CLASSES)
            assert written.nodata == 255
            assert (written.read() == np.array(predicted[-1])[:, None, None]).all()
    assert len(truth) == measured.num_pixels
    for name, function in (("F1", sklearn_metrics.f1_score), ("recall", sklearn_metrics.recall_score)):
        expected = function(truth, predicted, average=None, zero_division=np.nan)
        found = [measured.metrics[name][label] for label in CLASSES]
        np.testing.assert_allclose(found, expected, equal_nan=True)
        assert measured.metrics[name]["mean"] == pytest.approx(np.nanmean(expected))


# ------------------------------------------------------------------ the whole way


@pytest.mark.slow
@pytest.mark.parametrize("task", ["classification", "multilabel"])
def test_from_scenes_to_a_champion_and_its_map(scenes, run_config, run_through, tmp_path, task):
    rng = np.random.default_rng(5)
    listed = []
    for number in range(36):
        names = [CLASSES[number % 3]]
        if task == "multilabel" and rng.random() < 0.5:
            names.append(CLASSES[(number + 1) % 3])
        listed.append(own_class(scenes, number, *names))
    config = run_config(
        {
            "scenes": listed, "classes": CLASSES, "task": task, "split": {"validation": 0.2, "holdout": 0.25},
            "augment": {"where": "device" if task == "multilabel" else "cpu", "scale": 0.2},
        },
        model={"target": "ununennium.models:PatchClassifier", "kwargs": {"base_channels": 8, "depth": 3}},
        checkpoints={"monitor": "val_F1", "mode": "max"},
        trainer={"epochs": 6},
    )  # fmt: skip
    run, summary = run_through(config)
    assert summary.verdict == "promoted", summary
    assert summary.holdout["F1"]["mean"] > 0.8
    assert {"val_F1", "val_accuracy", "val_F1_town"} <= read_json(run.result_file)["history"].keys()
    assert (run.pictures_folder / "loss_curve.png").exists()
    assert list(run.pictures_folder.glob("prediction*.png"))

    registry = Registry(run.storage, "tiny")
    model, contract = load_artifact(registry.version_url(registry.current().version))
    new = own_class(scenes, 99, "town", size=70)
    mapped = map_scene(model, contract, new["image"], tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as written:
        answer = written.read()
    assert answer.shape == ((3 if task == "multilabel" else 1), 70, 70)
    found = answer[2] == 1 if task == "multilabel" else answer[0] == 2
    assert found.mean() > 0.6
    assert mapped.pixels["town"] == found.sum()


def test_a_classification_has_defaults_of_its_own(scenes):
    run = RunConfig.parse(
        {
            "name": "patches",
            "data": {"scenes": [own_class(scenes, 0, "town")], "classes": CLASSES, "task": "multilabel"},
        }
    )
    assert run.model.target == "ununennium.models:PatchClassifier"
    assert run.loss.target == "ununennium.losses:PresenceLoss"
    assert run.gate.metric == "F1"

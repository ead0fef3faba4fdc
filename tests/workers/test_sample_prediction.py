"""The sample prediction: a true picture of one validation chip, which costs training nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.windows import Window

from ununennium.prediction.writers import colour
from ununennium.runs.directory import RunDirectory
from ununennium.training.callbacks import Callback
from ununennium.workers import train as worker
from ununennium.workers.sample_prediction import SamplePrediction
from ununennium.workers.train import build_trainer

pytestmark = pytest.mark.slow
Prepared = Callable[..., RunDirectory]
SIDE, GAP = 256, 4


class Witness(Callback):
    """Keeps what the last epoch validated."""

    def on_epoch_start(self, trainer: Any) -> None:
        self.outputs: list[Any] = []
        self.targets: list[Any] = []

    def on_validation_batch(self, trainer: Any, output: Any, target: Any) -> None:
        self.outputs.extend(output.clone())
        self.targets.extend(target.clone())


def panels(file: Path, size: int) -> list[np.ndarray]:
    """The panels of the picture, in the pixels of the chip."""
    with Image.open(file) as image:
        picture = np.asarray(image)
    assert picture.shape[0] == SIDE
    places = range(0, picture.shape[1], SIDE + GAP)
    return [picture[:: SIDE // size, left : left + SIDE : SIDE // size] for left in places]


def test_it_shows_the_chip_its_label_and_what_validation_predicted(prepared: Prepared, atlanta: Path) -> None:
    run = prepared("trainer.epochs=1", "data.chips_per_epoch=64")
    witness = Witness()
    trainer, _ = build_trainer(run, [witness])
    trainer.fit()
    image, label, prediction, errors = panels(run.sample_file, 64)
    buildings = [int((target == 1).sum()) for target in witness.targets]
    item = int(np.argmax(buildings))
    assert item >= trainer.val_loader.batch_size  # not in the first batch, which shows no building
    assert max(buildings[: trainer.val_loader.batch_size]) == 0
    table = np.array([colour(0), colour(1)], np.uint8)
    target, predicted = witness.targets[item].numpy(), witness.outputs[item].argmax(0).numpy()
    np.testing.assert_array_equal(label[target != 255], table[target[target != 255]])
    assert (label[target == 255] == 255).all()
    np.testing.assert_array_equal(prediction, table[predicted])
    right = (target != 255) & (target == predicted)
    assert (errors[right] == 225).all()
    assert (errors[(target != 255) & ~right] != 225).any(-1).all()

    # The image is that of the place where the raster of the labels says the same.
    place, row, col = trainer.val_loader.dataset.place_of(item)
    window = Window(col, row, 64, 64)
    with rasterio.open(atlanta / "atlanta_buildings.tif") as source:
        np.testing.assert_array_equal(source.read(1, window=window)[target != 255], target[target != 255])
    with rasterio.open(atlanta / "atlanta_pan_05m.tif") as source:
        pixels = source.read(1, window=window)
    order = np.argsort(pixels, axis=None, kind="stable")
    assert (np.diff(image[..., 0].ravel()[order].astype(int)) >= 0).all()  # brighter there is brighter here
    assert place == 0


def test_weights_history_and_random_state_are_those_of_a_training_without_it(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = ["model.target=tests.launch.dropping_model:Dropping", "model.kwargs={}", "data.augment.flips=true"]
    found = []
    for drawn in (True, False):
        run = prepared(*changes)
        with monkeypatch.context() as patched:
            patched.setattr(worker, "SamplePrediction", always if drawn else lambda file, index: Callback())
            trainer, _ = build_trainer(run)
            history = trainer.fit()
        assert run.sample_file.exists() == drawn
        found.append((trainer.module.state_dict(), history, torch.get_rng_state()))
    (weights, history, state), (plain_weights, plain_history, plain_state) = found
    assert weights.keys() == plain_weights.keys()
    assert all(torch.equal(weights[name], plain_weights[name]) for name in weights)
    assert history == plain_history
    assert torch.equal(state, plain_state)


def always(file: Path, index: Any) -> SamplePrediction:
    """One that draws in every epoch."""
    return SamplePrediction(file, index, every_s=0.0)


def test_a_picture_that_cannot_be_written_ends_no_training(
    prepared: Prepared, caplog: pytest.LogCaptureFixture
) -> None:
    run = prepared()
    run.live_folder.write_text("where the folder would be")
    trainer, _ = build_trainer(run)
    with caplog.at_level(logging.WARNING):
        trainer.fit()
    assert trainer.state.epoch == 2
    assert sum("no sample prediction is drawn" in record.getMessage() for record in caplog.records) == 1

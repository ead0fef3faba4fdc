"""Callbacks, metrics and augmentation of a user's, by import path in the configuration."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.own_parts import Darken
from ununennium.config import RunConfig
from ununennium.data.chips.transforms import apply_own
from ununennium.errors import ConfigError
from ununennium.runs.directory import RunDirectory
from ununennium.workers.build import Components
from ununennium.workers.train import build_trainer

Prepared = Callable[..., RunDirectory]
STILL = "data.augment.flips=false", "data.augment.quarter_turns=false"


def part(name: str, **kwargs: object) -> dict[str, object]:
    return {"target": f"tests.own_parts:{name}", "kwargs": kwargs}


def test_own_callbacks_and_metrics_take_part_in_training(prepared: Prepared) -> None:
    callbacks = f"trainer.callbacks={json.dumps([part('Alarm', limit=0.0)])}"
    metrics = f"trainer.metrics={json.dumps({'val_accuracy': part('Accuracy')})}"
    run = prepared(callbacks, metrics, "checkpoints.monitor=val_accuracy", "checkpoints.mode=max")
    trainer, _ = build_trainer(run)
    history = trainer.fit()
    (alarm,) = (each for each in trainer.callbacks if type(each).__name__ == "Alarm")
    assert alarm.alarms == 2
    assert len(history["val_accuracy"]) == 2
    trainer.module.eval()
    right = number = 0
    for image, target in trainer.val_loader:
        with torch.no_grad():
            labelled = target != 255
            right += int((trainer.module(image).argmax(1) == target)[labelled].sum())
            number += int(labelled.sum())
    assert history["val_accuracy"][-1] == pytest.approx(right / number, abs=1e-6)


def test_an_own_change_is_the_last_and_the_same_for_a_chip_whenever_it_is_read(prepared: Prepared) -> None:
    plain = Components(prepared(*STILL)).loaders.train
    changed = f"data.augment.transform={json.dumps(part('Darken', amount=2.0))}"
    dark, again = (Components(prepared(*STILL, changed)).loaders.train for _ in range(2))
    for (before, labels), (after, same), (repeated, _) in zip(plain, dark, again, strict=True):
        torch.testing.assert_close(same, labels)
        torch.testing.assert_close(after, repeated, rtol=0, atol=0)
        seen = before != 0
        fall = (before - after)[seen].numpy()
        assert np.all((fall > 1.999) & (fall < 2.011))
        assert not after[~seen].any(), "what is not valid stays 0"


def test_pixels_without_data_stay_0_whatever_the_change_does() -> None:
    image, target = np.ones((2, 4, 4), np.float32), np.zeros((4, 4), np.int64)
    valid = np.arange(16).reshape(4, 4) % 3 != 0
    apply_own(Darken(5.0), image, valid, target, np.random.default_rng(0))
    assert not image[:, ~valid].any()
    assert (image[:, valid] < -3.9).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (f"trainer.callbacks={json.dumps([part('Accuracy', ignore_index=0)])}",
         r"trainer\.callbacks\.0\.target.*makes a Accuracy, not a ununennium\.training\.Callback"),
        (f"trainer.metrics={json.dumps({'val_x': part('Darken', amount=1)})}", "has no update"),
        (f"trainer.callbacks={json.dumps([part('Alarm')])}", r"trainer\.callbacks\.0.*limit"),
        (f"trainer.callbacks={json.dumps([part('Nobody')])}", r"trainer\.callbacks\.0\.target.*Nobody"),
    ],
)  # fmt: skip
def test_a_part_that_does_not_fit_is_refused_by_its_setting(prepared: Prepared, change: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_trainer(prepared(change))


def test_a_change_that_returns_other_shapes_is_refused(prepared: Prepared) -> None:
    run = prepared(f"data.augment.transform={json.dumps(part('Cropped'))}")
    with pytest.raises(ConfigError, match=r"data\.augment\.transform.*returns shapes .* keep \(1, 64, 64\)"):
        next(iter(Components(run).loaders.train))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"trainer": {"metrics": {"jaccard": part("Accuracy")}}}, "begins with 'val_'"),
        ({"data": {"augment": {"where": "device", "transform": part("Darken", amount=1)}}}, "leave out where: device"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(settings: dict, words: str) -> None:
    data = {"scenes": [{"image": "a.tif", "label": "b.tif"}], "classes": ["a", "b"], **settings.pop("data", {})}
    with pytest.raises(ConfigError, match=words):
        RunConfig.parse({"name": "m", "data": data, **settings})

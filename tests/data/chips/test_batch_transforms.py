"""Normalising and augmenting on the device, against what the loader does on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ununennium.config import AugmentConfig
from ununennium.data import build_index, build_loaders, compute_statistics
from ununennium.data.chips.batch_transforms import DeviceTransform, _turn, _zoom
from ununennium.data.chips.transforms import zoom
from ununennium.losses import CrossEntropyLoss
from ununennium.models import UNet
from ununennium.training import CheckpointCallback, Trainer, TrainerConfig

STILL = {"flips": False, "quarter_turns": False}
ALL = {"scale": 0.3, "brightness": 0.2, "contrast": 0.1, "noise": 0.1, "band_dropout": 0.3}


@pytest.fixture
def data(make):
    """A scene with holes, in which some chips show everything and others do not."""
    image = np.random.default_rng(0).integers(1, 1000, (2, 256, 256)).astype(np.uint16)
    image[:, 30:60, 40:90] = 0
    scene = {**make.scene(), "image": make.raster("holes.tif", image, nodata=0)}

    def build(augment, **settings):
        config = make.config(scene, chips_per_epoch=24, batch_size=4, augment=augment, **settings)
        index = build_index(config)
        statistics = compute_statistics(index)
        transform = DeviceTransform(index, statistics, config.augment, seed=1)
        return build_loaders(config, index, statistics, seed=1), transform

    return build


def test_without_augmentation_it_is_bit_for_bit_what_the_cpu_makes(data):
    ready, _ = data(STILL)
    raw, transform = data({**STILL, "where": "device"})
    masked = 0
    for kind in ("train", "validation"):
        for number, (expected, batch) in enumerate(zip(getattr(ready, kind), getattr(raw, kind), strict=True)):
            assert batch["image"].dtype == torch.uint16
            assert batch["target"].dtype == torch.uint8
            masked += "valid" in batch
            parts = batch["image"], batch["target"], batch.get("valid")
            image, target = transform(*parts, training=kind == "train", epoch=0, batch=number)
            assert torch.equal(image, expected[0])
            assert torch.equal(target, expected[1])
            assert (image.dtype, target.dtype) == (torch.float32, torch.int64)
    assert masked


def test_validation_is_never_augmented(data):
    ready, _ = data(STILL)
    raw, transform = data({**ALL, "where": "device"})
    for number, (expected, batch) in enumerate(zip(ready.validation, raw.validation, strict=True)):
        parts = batch["image"], batch["target"], batch.get("valid")
        assert torch.equal(transform(*parts, training=False, epoch=0, batch=number)[0], expected[0])


def test_it_is_a_function_of_seed_epoch_batch_and_rank(data):
    raw, transform = data({**ALL, "where": "device"})
    batch = next(iter(raw.train))
    parts = batch["image"], batch["target"], batch.get("valid")

    def made(epoch=0, number=0, rank=0, seed=1):
        transform.rank, transform.seed = rank, seed
        torch.rand(3)
        return transform(*parts, training=True, epoch=epoch, batch=number)

    first = made()
    assert all(torch.equal(a, b) for a, b in zip(first, made(), strict=True))
    for other in ({"epoch": 1}, {"number": 1}, {"rank": 1}, {"seed": 2}):
        assert not torch.equal(first[0], made(**other)[0])


@given(seed=st.integers(0, 99))
@settings(max_examples=20, deadline=None)
def test_labels_are_turned_with_their_pixels(seed):
    rng = np.random.default_rng(seed)
    target = torch.from_numpy(rng.integers(0, 9, (16, 6, 6)))
    image = target[:, None].float()
    turns, mirrored = rng.integers(4, size=16), rng.random((2, 16)) < 0.5
    turned, labels, valid = _turn(image, target, target > 3, turns, mirrored)
    assert torch.equal(turned[:, 0].long(), labels)
    assert torch.equal(valid, labels > 3)
    for place in range(16):
        expected = np.rot90(target[place].numpy(), turns[place])
        expected = expected[::-1] if mirrored[0, place] else expected
        expected = expected[:, ::-1] if mirrored[1, place] else expected
        np.testing.assert_array_equal(labels[place].numpy(), expected)


@given(seed=st.integers(0, 2**32 - 1), size=st.integers(2, 20), scale=st.floats(0.01, 3), masked=st.booleans())
@settings(max_examples=60, deadline=None)
def test_zoom_is_the_loaders(seed, size, scale, masked):
    rng = np.random.default_rng(seed)
    valid = rng.random((size, size)) < 0.8 if masked else None
    image = rng.standard_normal((2, size, size)).astype(np.float32)
    target = rng.integers(0, 5, (size, size))
    if valid is not None:
        image[:, ~valid], target[~valid] = 0, 255
    factor = (1 + scale) ** np.random.default_rng(seed).uniform(-1, 1)
    ours, labels, there = _zoom(
        torch.from_numpy(image)[None], torch.from_numpy(target)[None],
        None if valid is None else torch.from_numpy(valid)[None], np.array([factor]), 255,
    )  # fmt: skip
    ours, labels, there = ours.clone(), labels.clone(), there.clone()
    mask = zoom(image, valid, target, 255, AugmentConfig(scale=scale), np.random.default_rng(seed))
    np.testing.assert_array_equal(there[0].numpy(), np.ones((size, size), bool) if mask is None else mask)
    np.testing.assert_array_equal(labels[0].numpy(), target)
    np.testing.assert_allclose(ours[0].numpy(), image, atol=2e-3)


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_weights(data, tmp_path):
    """correctness 62: with everything drawn on the device."""

    def trainer(*callbacks):
        raw, transform = data({**ALL, "where": "device"})
        torch.manual_seed(0)
        model = UNet(2, 2, base_channels=4, depth=2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
        return Trainer(
            model, optimizer, CrossEntropyLoss(ignore_index=255), raw.train, raw.validation, callbacks=list(callbacks),
            config=TrainerConfig(device="cpu", mixed_precision=False, epochs=4), batch_transform=transform,
        )  # fmt: skip

    whole = trainer()
    history = whole.fit()
    assert history["train_loss"][-1] < history["train_loss"][0]
    trainer(CheckpointCallback(str(tmp_path), "val_loss")).fit(2)
    resumed = trainer()
    assert resumed.fit(resume_from=str(tmp_path)) == history
    for ours, theirs in zip(resumed.module.parameters(), whole.module.parameters(), strict=True):
        assert torch.equal(ours, theirs)

"""Splits, samplers and chips: nothing leaks, nothing is lost, and everything is a function of its seed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ununennium.config import AugmentConfig
from ununennium.data import (
    HOLDOUT,
    TRAIN,
    VALIDATION,
    ChipIndex,
    GridChips,
    RandomChipSampler,
    TrainingChips,
    build_index,
    compute_statistics,
    memory,
)
from ununennium.data.splits import assign_blocks
from ununennium.data.transforms import augment
from ununennium.errors import ConfigError


@pytest.fixture
def indexed(make):
    config = make.config(make.scene())
    index = build_index(config)
    return config, index, compute_statistics(index)


def whole(index, scene=0):
    its = index.scenes[scene]
    return index.split.folds(its, 0, 0, its.height, its.width)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(block=st.integers(16, 80), buffer=st.integers(0, 12), seed=st.integers(0, 99), holdout=st.integers(0, 200))
def test_folds_do_not_overlap_and_the_buffer_is_kept(make, block, buffer, seed, holdout):
    split = {"block_size": block, "buffer": buffer, "seed": seed, "validation": 0.3, "holdout": 0.3}
    if holdout > 60:
        split["holdout_regions"] = [{"columns": [holdout, None], "rows": [10, 200]}]
    index = build_index(make.config(make.scene(), split=split))
    folds = whole(index)
    others = np.argwhere(folds > TRAIN)
    trains = np.argwhere(folds == TRAIN)
    assert len(trains)
    assert (folds == VALIDATION).any()
    assert (folds == HOLDOUT).any()
    distance = 1 + min(
        np.abs(trains[:, None, :] - part[None]).max(2).min()
        for part in np.array_split(others[:: max(1, len(others) // 300)], 4)
    )
    assert distance > buffer
    if "holdout_regions" in split:
        assert (folds[10:200, holdout:] == HOLDOUT).all()
        assert ((folds == HOLDOUT).sum()) == 190 * (256 - holdout)
    assert set(np.unique(folds)) <= {0, 1, 2, 3}
    # A window says what the whole says, also where it reaches outside.
    window = index.split.folds(index.scenes[0], -5, 200, 100, 90)
    np.testing.assert_array_equal(window[5:, :56], folds[:95, 200:])
    assert not window[:5].any()
    assert not window[:, 56:].any()


@given(
    seed=st.integers(0, 50),
    counts=st.lists(st.lists(st.integers(0, 9), min_size=3, max_size=3), min_size=12, max_size=40),
)
def test_blocks_are_dealt_by_share_whatever_their_order(seed, counts):
    blocks = {("g", 0, number): np.array(c) for number, c in enumerate(counts) if any(c)}
    shares = {TRAIN: 0.6, VALIDATION: 0.2, HOLDOUT: 0.2}
    dealt = assign_blocks(blocks, shares, seed)
    assert dealt.keys() == blocks.keys()
    assert dealt == assign_blocks(dict(reversed(blocks.items())), shares, seed)
    for fold, share in shares.items():
        assert abs(sum(f == fold for f in dealt.values()) - share * len(blocks)) <= 4


def test_rare_classes_reach_every_fold():
    blocks = {("g", 0, n): np.array([9, int(n in (3, 17, 31)), 0]) for n in range(40)}
    dealt = assign_blocks(blocks, {TRAIN: 0.34, VALIDATION: 0.33, HOLDOUT: 0.33}, 0)
    assert {dealt[("g", 0, n)] for n in (3, 17, 31)} == {TRAIN, VALIDATION, HOLDOUT}


def test_the_split_does_not_depend_on_the_runs_seed_and_survives_json(indexed, tmp_path):
    _, index, _ = indexed
    index.save(tmp_path / "index.json")
    loaded = ChipIndex.load(tmp_path / "index.json")
    np.testing.assert_array_equal(whole(loaded), whole(index))
    assert loaded.split.sha256 == index.split.sha256
    assert loaded.summary() == index.summary()
    for ours, theirs in ((loaded.cells.places, index.cells.places), (loaded.cells.counts, index.cells.counts)):
        np.testing.assert_array_equal(ours, theirs)


@given(
    num_chips=st.integers(1, 60), world=st.integers(1, 5), seed=st.integers(0, 9), epoch=st.integers(0, 5),
    start=st.integers(0, 20),
)  # fmt: skip
def test_ranks_share_a_permutation_evenly_and_a_resume_takes_the_rest(num_chips, world, seed, epoch, start):
    """correctness 63, 64: rank-disjoint, of equal length; the order is a function of (seed, epoch)."""
    if num_chips < world:
        with pytest.raises(ConfigError, match="each needs a chip"):
            RandomChipSampler(num_chips, seed=seed, world_size=world)
        return
    drawn = []
    for rank in range(world):
        sampler = RandomChipSampler(num_chips, seed=seed, rank=rank, world_size=world)
        sampler.set_epoch(epoch)
        mine = list(sampler)
        assert len(mine) == len(sampler)
        assert {e for e, _ in mine} <= {epoch}
        sampler.set_start(start)
        assert list(sampler) == mine[start:]
        drawn += [chip for _, chip in mine]
    assert len(set(drawn)) == len(drawn) == num_chips // world * world
    assert set(drawn) <= set(range(num_chips))
    if num_chips > 20:
        other = RandomChipSampler(num_chips, seed=seed)
        other.set_epoch(epoch + 1)
        assert [c for _, c in other] != [c for _, c in RandomChipSampler(num_chips, seed=seed)] or epoch == -1


def chips(indexed, seed=3, **arguments):
    config, index, statistics = indexed
    return TrainingChips(index, statistics, chip_size=config.chip_size, seed=seed, **arguments)


def test_a_chip_is_a_function_of_seed_epoch_and_number(indexed):
    """correctness 65: whatever was drawn before, in whatever order."""
    augmentation = AugmentConfig(brightness=0.2, contrast=0.2, noise=0.1)
    first, second = (chips(indexed, augmentation=augmentation) for _ in range(2))
    keys = [(epoch, chip) for epoch in (0, 1) for chip in range(5)]
    ahead = {key: first[key] for key in keys}
    torch.rand(5)
    for key in reversed(keys):
        image, target = second[key]
        assert torch.equal(image, ahead[key][0])
        assert torch.equal(target, ahead[key][1])
    assert not torch.equal(ahead[0, 0][0], ahead[1, 0][0])
    assert not torch.equal(ahead[0, 0][0], chips(indexed, seed=4, augmentation=augmentation)[0, 0][0])


def test_a_training_chip_shows_and_labels_no_pixel_of_another_fold(make):
    """The image codes each pixel's fold, so that a leak is visible."""
    scene = make.scene()
    index = build_index(make.config(scene, split={"buffer": 6}))
    coded = np.where(whole(index) > TRAIN, 1000, 1).astype(np.uint16)
    coded += (np.arange(256) % 2).astype(np.uint16)
    scene["image"] = make.raster("coded.tif", np.stack([coded, coded]))
    index = build_index(make.config(scene, split={"buffer": 6}))
    statistics = compute_statistics(index)
    assert statistics.mean[0] < 3
    dataset = TrainingChips(index, statistics, chip_size=32, seed=0)
    labelled = 0
    for number in range(60):
        image, target = dataset[0, number]
        assert image.abs().max() < 10
        labelled += int((target != 255).sum())
        assert (target[(image == 0).all(0)] == 255).all()
    assert labelled > 0


def test_class_balance_centres_chips_on_the_rare_class(make):
    label = np.zeros((1, 256, 256), np.uint8)
    label[0, ::32, ::32] = 1  # one pixel in a thousand
    scene = make.scene()
    scene["label"] = make.raster("rare.tif", label)
    index = build_index(make.config(scene))
    statistics = compute_statistics(index)
    share = {}
    for balance in (0.0, 1.0):
        dataset = TrainingChips(index, statistics, chip_size=16, seed=0, class_balance=balance)
        share[balance] = np.mean([bool((dataset[0, n][1] == 1).any()) for n in range(80)])
    assert share[1.0] == 1.0
    assert share[0.0] < 0.6


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(chip=st.integers(16, 100), fold=st.sampled_from([TRAIN, VALIDATION, HOLDOUT]), seed=st.integers(0, 20))
def test_the_grid_has_every_labelled_pixel_of_the_fold_exactly_once(make, chip, fold, seed):
    rng = np.random.default_rng(7)
    scene = make.scene()
    scene["label"] = make.raster("holes.tif", np.where(rng.random((1, 256, 256)) < 0.3, 255, 1).astype(np.uint8))
    scene["image"] = make.raster("places.tif", np.arange(1, 65537, dtype=np.float32).reshape(1, 256, 256))
    index = build_index(make.config(scene, chip_size=chip, split={"seed": seed}))
    from ununennium.data import BandStatistics

    grid = GridChips(index, BandStatistics([0.0], [1.0], 1), chip_size=chip, fold=fold)
    seen = np.zeros(65537, int)
    for number in range(len(grid)):
        image, target = grid[number]
        seen[image[0][target != 255].numpy().astype(int)] += 1
    labels = index.labels(index.scenes[0]).read(0, 0, 256, 256)
    expected = (whole(index) == fold) & (labels != 255)
    np.testing.assert_array_equal(seen[1:].reshape(256, 256), expected)


def test_chips_are_the_same_where_scenes_are_not_kept_in_memory(indexed, monkeypatch):
    config, index, statistics = indexed
    kept, grid = chips(indexed), GridChips(index, statistics, chip_size=40, fold=HOLDOUT)
    expected = [kept[0, number] for number in range(20)] + [grid[number] for number in range(len(grid))]
    del kept, grid
    index.save(config.scenes[0].image + ".json")
    index = ChipIndex.load(config.scenes[0].image + ".json")
    monkeypatch.setattr(memory.DECODED, "budget_bytes", 0)
    before = memory.DECODED.num_bytes
    dataset, grid = chips((config, index, statistics)), GridChips(index, statistics, chip_size=40, fold=HOLDOUT)
    windowed = [dataset[0, number] for number in range(20)] + [grid[number] for number in range(len(grid))]
    assert memory.DECODED.num_bytes == before
    for ours, theirs in zip(windowed, expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_class_centred_chips_never_centre_on_a_pixel_without_data(make):
    """Half of every cell is nodata: a pixel is drawn among the valid ones, each as often as the others."""
    scene = make.scene()
    image = np.full((2, 256, 256), 5, np.uint16)
    image[:, :, ::2] = 0
    scene["image"] = make.raster("gaps.tif", image, nodata=0)
    index = build_index(make.config(scene))
    dataset = TrainingChips(
        index, compute_statistics(index), chip_size=16, seed=0, class_balance=1.0,
        augmentation=AugmentConfig(flips=False, quarter_turns=False),
    )  # fmt: skip
    checked = 0
    for number in range(50):
        place, row, col = dataset._draw(np.random.default_rng([0, 0, number]))
        bounds = dataset._bounds[place]
        if bounds[0] < row < bounds[1] - 16 and bounds[2] < col < bounds[3] - 16:
            assert dataset[0, number][1][8, 8] != 255
            checked += 1
    assert checked > 20


def test_augmentation_moves_labels_with_their_pixels():
    """The image holds the label: after any change the two still agree."""
    rng = np.random.default_rng(0)
    target = rng.integers(0, 3, (12, 12))
    valid = rng.random((12, 12)) < 0.9
    image = np.where(valid, target, 0)[None].astype(np.float32)
    shapes = set()
    for seed in range(40):
        moved, moved_target = augment(image, valid, target, AugmentConfig(), np.random.default_rng(seed))
        shapes.add(moved.tobytes())
        kept = moved[0] != 0
        np.testing.assert_array_equal(moved[0][kept], moved_target[kept])
        assert (moved[0] != 0).sum() == (image != 0).sum()
    assert len(shapes) == 8
    shaded, _ = augment(
        image, valid, target, AugmentConfig(flips=False, quarter_turns=False, brightness=1.0, noise=1.0), rng
    )
    assert (shaded[0][~valid] == 0).all()
    assert (shaded[0][valid] != image[0][valid]).all()

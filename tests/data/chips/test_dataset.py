"""Splits, samplers and chips: nothing leaks, nothing is lost, and everything is a function of its seed."""

from __future__ import annotations

from types import SimpleNamespace

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
    BandStatistics,
    BucketedRandomSampler,
    ChipIndex,
    GridChips,
    TrainingChips,
    build_index,
    compute_statistics,
)
from ununennium.data.chips.dataset import as_batch
from ununennium.data.chips.memory import DecodedCache
from ununennium.data.chips.regions import Regions, bucketed_order
from ununennium.data.chips.transforms import shade, turn
from ununennium.data.splits.stratify import assign_blocks
from ununennium.errors import ConfigError


@pytest.fixture
def indexed(make):
    config = make.config(make.scene())
    index = build_index(config)
    return config, index, compute_statistics(index)


def whole(index, scene=0):
    its = index.scenes[scene]
    return index.split.folds(its, 0, 0, its.height, its.width)


@pytest.mark.slow
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
    start=st.integers(0, 20), lanes=st.integers(0, 9), areas=st.integers(1, 12),
)  # fmt: skip
def test_ranks_share_a_permutation_evenly_and_a_resume_takes_the_rest(
    num_chips, world, seed, epoch, start, lanes, areas
):
    """correctness 63, 64: rank-disjoint, of equal length; the order is a function of (seed, epoch)."""

    def sampler_of(rank=0, world=1):
        return BucketedRandomSampler(
            lambda epoch: np.arange(num_chips) * 7 % areas + epoch,
            num_chips, lanes=lanes, seed=seed, rank=rank, world_size=world,
        )  # fmt: skip

    if num_chips < world:
        with pytest.raises(ConfigError, match="each needs a chip"):
            sampler_of(0, world)
        return
    alone = sampler_of()
    alone.set_epoch(epoch)
    order = [chip for _, chip in alone]
    assert sorted(order) == list(range(num_chips))
    for rank in range(world):
        sampler = sampler_of(rank, world)
        sampler.set_epoch(epoch)
        mine = list(sampler)
        assert mine == [(epoch, chip) for chip in order[: num_chips // world * world][rank::world]]
        assert len(mine) == len(sampler)
        sampler.set_start(start)
        assert list(sampler) == mine[start:]


def test_every_epoch_has_an_order_of_its_own():
    sampler = BucketedRandomSampler(lambda epoch: np.zeros(30, int), 30, lanes=8, seed=0)
    orders = []
    for epoch in range(5):
        sampler.set_epoch(epoch)
        orders.append(tuple(chip for _, chip in sampler))
    assert len(set(orders)) == 5


@given(
    areas=st.lists(st.integers(0, 9), min_size=1, max_size=200), lanes=st.integers(1, 9), seed=st.integers(0, 99),
)  # fmt: skip
def test_an_order_leaves_a_region_when_it_is_done_with_it(areas, lanes, seed):
    """Per lane: every region is entered once, except those that a border between lanes cuts."""
    order = bucketed_order(np.array(areas), lanes, np.random.default_rng(seed))
    assert sorted(order) == list(range(len(areas)))
    entered = 0
    for lane in range(lanes):
        visited = [areas[chip] for chip in order[lane::lanes]]
        entered += len([1 for before, now in zip([None, *visited], visited, strict=False) if before != now])
    assert entered <= len(set(areas)) + lanes - 1


def chips(indexed, seed=3, **arguments):
    config, index, statistics = indexed
    arguments = {"num_chips": 60, **arguments}
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
    dataset = TrainingChips(index, statistics, chip_size=32, num_chips=60, seed=0)
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
        dataset = TrainingChips(index, statistics, chip_size=16, num_chips=80, seed=0, class_balance=balance)
        share[balance] = np.mean([bool((dataset[0, n][1] == 1).any()) for n in range(80)])
    assert share[1.0] == 1.0
    assert share[0.0] < 0.6


@pytest.mark.slow
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    chip=st.integers(16, 100), fold=st.sampled_from([TRAIN, VALIDATION, HOLDOUT]), seed=st.integers(0, 20),
    cache=st.sampled_from([100_000, 200_000, 10**7]),
)  # fmt: skip
def test_the_grid_has_every_labelled_pixel_of_the_fold_exactly_once(make, chip, fold, seed, cache):
    rng = np.random.default_rng(7)
    scene = make.scene()
    scene["label"] = make.raster("holes.tif", np.where(rng.random((1, 256, 256)) < 0.3, 255, 1).astype(np.uint8))
    scene["image"] = make.raster("places.tif", np.arange(1, 65537, dtype=np.float32).reshape(1, 256, 256))
    index = build_index(make.config(scene, chip_size=chip, allow_absent=["even"], split={"seed": seed}))
    grid = GridChips(index, BandStatistics([0.0], [1.0], 1), chip_size=chip, fold=fold, cache=DecodedCache(cache))
    seen = np.zeros(65537, int)
    for number in range(len(grid)):
        image, target = grid[number]
        seen[image[0][target != 255].numpy().astype(int)] += 1
    labels = index.labels(index.scenes[0]).read(0, 0, 256, 256)
    expected = (whole(index) == fold) & (labels != 255)
    np.testing.assert_array_equal(seen[1:].reshape(256, 256), expected)


@pytest.fixture
def wide(make):
    """A scene of 1024 x 1152 pixels in blocks of 128, whose pixels say where they are."""
    places = np.arange(1, 1024 * 1152 + 1, dtype=np.float32).reshape(1, 1024, 1152)
    label = np.broadcast_to((np.arange(1152) // 8 % 2).astype(np.uint8), (1, 1024, 1152))
    tiles = {"tiled": True, "blockxsize": 128, "blockysize": 128}
    return make.config({
        "image": make.raster("places.tif", places, **tiles),
        "label": make.raster("stripes.tif", np.ascontiguousarray(label), **tiles),
    }, split={"block_size": 128, "buffer": 8})  # fmt: skip


def test_chips_of_a_large_scene_lie_in_regions_that_fit_the_budget_and_show_the_file(wide):
    """Eight regions in use fill the cache and never overfill it; each is decoded about once; pixels are the file's."""
    index = build_index(wide)
    cache = DecodedCache(2 * 2**20)
    dataset = TrainingChips(
        index, BandStatistics([0.0], [1.0], 1), chip_size=64, num_chips=400, seed=0, cache=cache,
        augmentation=AugmentConfig(flips=False, quarter_turns=False),
    )  # fmt: skip
    assert dataset.regions.lanes == 8
    assert dataset.regions.shapes.tolist() == [[256, 128]]
    folds = whole(index)
    labels = index.labels(index.scenes[0]).read(0, 0, 1024, 1152)
    corners = []
    for epoch in (0, 1):
        sampler = BucketedRandomSampler(dataset.chip_regions, 400, lanes=8, seed=0)
        sampler.set_epoch(epoch)
        before, keys = cache.num_decoded, list(sampler)
        used = dataset.chip_regions(epoch)
        for first in range(0, 400, 32):
            samples = dataset.__getitems__(keys[first : first + 32])
            assert cache.num_bytes <= cache.budget_bytes
            assert len({used[chip] for _, chip in keys[first : first + 32]}) >= 8
            for image, target in samples:
                image = image[0].numpy()
                place = int(image.max()) - 1
                row, col = place // 1152 - int((image > 0).any(1).nonzero()[0][-1]), 0
                col = place % 1152 - int((image[place // 1152 - row] > 0).nonzero()[0][-1])
                part = slice(row, row + 64), slice(col, col + 64)
                expected = np.where(folds[part] <= TRAIN, np.arange(1, 1024 * 1152 + 1).reshape(1024, 1152)[part], 0)
                np.testing.assert_array_equal(image, expected)
                np.testing.assert_array_equal(target, np.where(folds[part] == TRAIN, labels[part], 255))
                corners.append((epoch, row, col))
        assert cache.num_decoded - before <= len(set(used.tolist())) + 8
    assert len({(row % 128 > 64, col % 128 > 64) for _, row, col in corners}) == 4  # chips cross the blocks


def test_chips_are_the_same_for_readers_of_any_history(wide):
    """correctness 65: what is in the cache decides when a region is decoded, never what a chip shows."""
    index = build_index(wide)
    statistics = compute_statistics(index)
    settings = {"chip_size": 64, "num_chips": 60, "seed": 1}
    one, other = (TrainingChips(index, statistics, cache=DecodedCache(2**21), **settings) for _ in range(2))
    keys = [(epoch, chip) for epoch in (0, 1) for chip in range(60)]
    expected = {key: one[key] for key in keys}
    for key in reversed(keys):
        assert all(torch.equal(a, b) for a, b in zip(other[key], expected[key], strict=True))
    images, targets = as_batch(other.__getitems__(keys[:7]))
    for place, key in enumerate(keys[:7]):
        assert torch.equal(images[place], expected[key][0])
        assert torch.equal(targets[place], expected[key][1])


def test_a_cache_too_small_for_a_chip_is_refused(wide):
    index = build_index(wide)
    with pytest.raises(ConfigError, match=r"data\.cache_mb = 0: a chip of 64 pixels takes 1 MB"):
        TrainingChips(
            index, compute_statistics(index), chip_size=64, num_chips=1, seed=0, cache=DecodedCache(9000),
        )  # fmt: skip


@given(
    height=st.integers(130, 700), width=st.integers(130, 700),
    block=st.sampled_from([(1, None), (64, 64), (96, 80), (256, 256)]),
    chip=st.integers(16, 130), budget=st.integers(181, 600), epoch=st.integers(0, 4),
)  # fmt: skip
def test_regions_cover_every_pixel_and_hold_a_chip(height, width, block, chip, budget, epoch):
    scene = SimpleNamespace(height=height, width=width, block_shape=(block[0], block[1] or width))
    regions = Regions([scene], [5], chip, budget * 1024, seed=1)
    cells = np.array([(0, row, col) for row in range(0, height, 64) for col in range(0, width, 64)])
    numbers = regions.of(cells, epoch)
    for number in set(numbers.tolist()):
        window = regions.window(number, epoch)
        assert 0 <= window.row <= window.row + window.height <= height
        assert 0 <= window.col <= window.col + window.width <= width
        assert min(window.height, window.width) >= chip
        assert regions.num_bytes(window) * max(1, regions.lanes) <= budget * 1024
        for _, row, col in cells[numbers == number]:
            assert window.row <= row < min(row + 64, height) <= window.row + window.height
            assert window.col <= col < min(col + 64, width) <= window.col + window.width


def test_class_centred_chips_never_centre_on_a_pixel_without_data(make):
    """Half of every cell is nodata: a pixel is drawn among the valid ones, each as often as the others."""
    scene = make.scene()
    image = np.full((2, 256, 256), 5, np.uint16)
    image[:, :, ::2] = 0
    scene["image"] = make.raster("gaps.tif", image, nodata=0)
    index = build_index(make.config(scene))
    dataset = TrainingChips(
        index, compute_statistics(index), chip_size=16, num_chips=50, seed=0, class_balance=1.0,
        augmentation=AugmentConfig(flips=False, quarter_turns=False),
    )  # fmt: skip
    checked = 0
    for number in range(50):
        window = dataset.regions.window(int(dataset.chip_regions(0)[number]), 0)
        row, col = dataset._draw((0, number), window, dataset._decoded(window, None), None)
        bounds = dataset._bounds[0]
        if bounds[0] < row < bounds[1] - 16 and bounds[2] < col < bounds[3] - 16:
            target = dataset[0, number][1]
            assert target[8, 8] != 255
            assert (target[:, ::2] == 255).all() or (target[:, 1::2] == 255).all()  # no target without data
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
        moved, moved_target = turn([image, target], AugmentConfig(), np.random.default_rng(seed))
        shapes.add(moved.tobytes())
        kept = moved[0] != 0
        np.testing.assert_array_equal(moved[0][kept], moved_target[kept])
        assert (moved[0] != 0).sum() == (image != 0).sum()
    assert len(shapes) == 8
    shaded = image.copy()
    shade(shaded, valid, AugmentConfig(brightness=1.0, noise=1.0), rng)
    assert (shaded[0][~valid] == 0).all()
    assert (shaded[0][valid] != image[0][valid]).all()

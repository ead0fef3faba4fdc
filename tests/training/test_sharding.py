"""Loaders that know nothing of ranks: split as they must be, or refused; two and three real processes."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
)

from tests.training.sharded_ranks import RUNS, Tiles, train
from ununennium.data.chips.sharding import ShardSampler
from ununennium.errors import ConfigError
from ununennium.training import TrainerConfig
from ununennium.training.parallel import ParallelModel
from ununennium.training.sharding import for_this_rank

PROGRAM = Path(__file__).with_name("sharded_ranks.py")


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, kit, tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks") / "out"
    kit.on_ranks(request.param, PROGRAM, out)
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in range(request.param)]


def in_one_process(world_size: int, accumulation_steps: int, shuffle: bool):
    """The same global batches, in the order that torch's sampler gives all ranks together."""
    tiles = Tiles(12)
    sampler = DistributedSampler(tiles, 1, 0, shuffle=shuffle, seed=5)
    return train(DataLoader(tiles, world_size, sampler=sampler), accumulation_steps)


def assert_same_run(found, expected):
    for key, value in expected["weights"].items():
        torch.testing.assert_close(found["weights"][key], value, rtol=1e-5, atol=1e-6)
    for name, values in expected["history"].items():
        assert found["history"][name] == pytest.approx(values, rel=1e-5, abs=1e-6), name


@pytest.mark.slow
def test_ranks_with_plain_loaders_train_as_one_process(ranks):
    """correctness 2, 3, 6, 14, 64: uneven valid counts, a short last window, shuffled anew each epoch."""
    for number, (accumulation_steps, shuffle) in enumerate(RUNS):
        expected = in_one_process(len(ranks), accumulation_steps, shuffle)
        for rank in ranks:
            assert_same_run(rank["plain"][number], expected)
            assert rank["plain"][number]["history"] == ranks[0]["plain"][number]["history"]


@pytest.mark.slow
def test_a_model_that_is_wrapped_already_trains_the_same_with_one_all_reduce_a_window(ranks):
    """correctness 8, 9: the short last window, too, costs one."""
    micro_batches = 12 // len(ranks)
    for rank in ranks:
        assert_same_run(rank["wrapped"], rank["plain"][RUNS.index((4, True))])
        assert rank["all_reduces"] == 2 * -(-micro_batches // 4)


@pytest.mark.slow
def test_validation_counts_each_sample_once(ranks):
    """correctness 30, 31: fewer samples than ranks, and one more than divides, included."""
    for count in ranks[0]["validated"]:
        assert sorted(chain.from_iterable(rank["validated"][count] for rank in ranks)) == list(range(count))


@pytest.mark.slow
def test_ranks_with_different_numbers_of_steps_are_refused_before_the_first(ranks):
    """correctness 72: on every rank, with every rank's number; batches may differ where steps do not."""
    for rank in ranks:
        assert "rank 0: 4 batches, 2 optimizer steps, rank 1: 5 batches, 3 optimizer steps" in rank["unequal"]
        assert "no len() on ranks" in rank["no_length"]
        assert rank["equal_steps"] == "trained"


@pytest.mark.slow
def test_a_split_loader_is_warned_of_once(ranks):
    assert len(ranks[0]["warnings"]) == len(RUNS)
    assert "DistributedSampler(shuffle=True, seed=5)" in ranks[0]["warnings"][1]
    assert all(rank["warnings"] == [] for rank in ranks[1:])


@given(st.integers(0, 200), st.integers(1, 9))
def test_shards_are_a_partition_in_order(count, world_size):
    """correctness 30."""
    shards = [list(ShardSampler(count, rank, world_size)) for rank in range(world_size)]
    assert list(chain.from_iterable(shards)) == list(range(count))
    assert [len(shard) for shard in shards] == [len(ShardSampler(count, r, world_size)) for r in range(world_size)]
    assert np.ptp([len(shard) for shard in shards]) <= 1


NUMBERS = TensorDataset(torch.arange(10))


def split(loader, *, training=True):
    return for_this_rank(loader, "train_loader", training=training, seed=3, rank=1, world_size=2)


def test_a_split_loader_keeps_its_settings():
    def collate(samples):
        return torch.stack([sample[0] for sample in samples])

    generator = torch.Generator()
    loader = DataLoader(
        NUMBERS, 3, shuffle=True, num_workers=1, collate_fn=collate, drop_last=True, prefetch_factor=5,
        generator=generator, timeout=7,
    )  # fmt: skip
    made = split(loader)
    assert (made.batch_size, made.num_workers, made.prefetch_factor, made.timeout) == (3, 1, 5, 7)
    assert (made.collate_fn, made.drop_last, made.generator, made.dataset) == (collate, True, generator, NUMBERS)
    assert (made.sampler.num_replicas, made.sampler.rank, made.sampler.shuffle, made.sampler.seed) == (2, 1, True, 3)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(range(4))


class OwnLoader(DataLoader):
    pass


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("loader", "named"),
    [
        (DataLoader(Stream(), 2), "IterableDataset Stream"),
        (DataLoader(NUMBERS, sampler=SubsetRandomSampler(range(4))), "sampler SubsetRandomSampler"),
        (DataLoader(NUMBERS, sampler=RandomSampler(NUMBERS, replacement=True)), "RandomSampler of its own"),
        (DataLoader(NUMBERS, batch_sampler=BatchSampler(SequentialSampler(NUMBERS), 2, False)), "batch_sampler"),
        (OwnLoader(NUMBERS), "OwnLoader"),
    ],
)
def test_what_cannot_be_split_without_guessing_is_refused(loader, named, training):
    with pytest.raises(ConfigError, match=named) as caught:
        split(loader, training=training)
    assert "2 ranks" in str(caught.value)


def test_loaders_that_know_their_rank_are_left_alone():
    """A sampler, the sampler of a batch sampler, or a dataset may say so; and lists of batches are their giver's."""
    sampler = DistributedSampler(NUMBERS, 2, 1)
    shard = Subset(NUMBERS, range(5))
    shard.rank, shard.world_size = 1, 2
    for loader in (
        DataLoader(NUMBERS, sampler=sampler),
        DataLoader(NUMBERS, batch_sampler=BatchSampler(sampler, 2, False)),
        DataLoader(shard, 2),
        [1, 2],
        None,
    ):
        assert split(loader) is loader


def test_one_process_keeps_its_loader():
    loader = DataLoader(Stream())
    assert for_this_rank(loader, "train_loader", training=True, seed=0, rank=0, world_size=1) is loader


def test_synced_batchnorm_on_the_cpu_is_refused_where_there_are_ranks(monkeypatch):
    """Torch has no SyncBatchNorm for the CPU; one process has nothing to synchronise."""
    config = TrainerConfig(device="cpu", sync_batchnorm=True)
    model = nn.Sequential(nn.BatchNorm2d(2))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    assert ParallelModel(model, optimizer, config, torch.device("cpu")).module is model
    monkeypatch.setattr("ununennium.training.distributed.world_size", lambda: 2)
    with pytest.raises(ConfigError, match="sync_batchnorm"):
        ParallelModel(model, optimizer, config, torch.device("cpu"))

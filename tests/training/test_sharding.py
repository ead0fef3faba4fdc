"""Every rank its own part: plain DataLoaders are divided, and what cannot be divided is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, IterableDataset, SequentialSampler, TensorDataset

from ununennium.errors import ConfigError
from ununennium.training import distributed
from ununennium.training.sharding import ShardSampler, shard

PROGRAM = Path(__file__).with_name("sharded_ranks.py")
DATA = TensorDataset(torch.arange(10))


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_plain_loaders_are_divided_among_ranks(tmp_path: Path, world: int) -> None:
    """correctness 30, 72: training in equal parts, validation each sample once; uneven loaders are refused."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    finished = subprocess.run(
        [*command, str(PROGRAM), str(tmp_path / "out")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    ranks = [json.loads((tmp_path / f"out.{rank}").read_text()) for rank in range(world)]
    assert [len(rank["warnings"]) for rank in ranks] == [1, *[0] * (world - 1)]
    assert "train_loader has no distributed sampler" in ranks[0]["warnings"][0]
    orders = []
    for epoch in (0, 1):
        parts = [rank["epochs"][epoch] for rank in ranks]
        assert [len(part) for part in parts] == [5] * world  # the odd one is left out
        assert len({index for part in parts for index in part}) == 5 * world
        orders.append(parts)
    assert orders[0] != orders[1]  # set_epoch is called on the sampler that was put in

    torch.manual_seed(1)
    model = nn.Linear(4, 3)
    for place, length in enumerate(range(1, 2 * world + 2)):
        seen = sorted(index for rank in ranks for index in rank["validated"][place])
        assert seen == list(range(length))
        assert len({rank["losses"][place] for rank in ranks}) == 1
        images = torch.arange(length).float()[:, None].expand(-1, 4)
        expected = F.cross_entropy(model(images), torch.arange(length) % 3).item()
        assert ranks[0]["losses"][place] == pytest.approx(expected, rel=0.05)  # after a few tiny steps
    for rank in ranks:
        assert rank["uneven"].startswith("train_loader = 'batches of rank 0: 1, rank 1: 2")
        assert "has no length" in rank["endless"]


@pytest.fixture
def second_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(distributed, "rank", lambda: 1)


@pytest.mark.usefixtures("second_of_three")
def test_a_loader_that_knows_its_ranks_is_left_alone() -> None:
    for loader in (
        DataLoader(DATA, sampler=ShardSampler(10, 1, 3)),
        DataLoader(DATA, batch_sampler=BatchSampler(ShardSampler(10, 1, 3), 2, False)),
        DataLoader(DATA, sampler=torch.utils.data.DistributedSampler(DATA, 3, 1)),
        [1, 2, 3],
    ):
        assert shard(loader, "train_loader", None) is loader
    assert list(ShardSampler(10, 1, 3)) == [3, 4, 5]


@pytest.mark.usefixtures("second_of_three")
def test_what_the_loader_was_told_is_kept() -> None:
    def collate(batch: list[object]) -> int:
        return len(batch)

    given = DataLoader(DATA, batch_size=3, num_workers=2, collate_fn=collate, drop_last=True, prefetch_factor=5)
    made = shard(given, "val_loader", None)
    for name in ("batch_size", "num_workers", "collate_fn", "drop_last", "prefetch_factor", "dataset"):
        assert getattr(made, name) == getattr(given, name)
    assert list(made.sampler) == [3, 4, 5]


class Stream(IterableDataset):
    def __iter__(self):
        return iter([1])


class Own(SequentialSampler):
    pass


@pytest.mark.usefixtures("second_of_three")
@pytest.mark.parametrize(
    ("loader", "name"),
    [
        (DataLoader(Stream()), "Stream"),
        (DataLoader(DATA, sampler=Own(DATA)), "Own"),
        (DataLoader(DATA, batch_sampler=[[1], [2]]), "list"),
        (DataLoader(TensorDataset(torch.arange(2))), "each needs a sample"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_a_remedy(loader: DataLoader[object], name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^train_loader = .*{name}"):
        shard(loader, "train_loader", None)


def test_one_process_keeps_its_loader() -> None:
    loader = DataLoader(DATA, shuffle=True)
    assert shard(loader, "train_loader", None) is loader

"""Weights in parts over ranks (FSDP2): the same run as with whole ones, and the same checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.training.fully_sharded_ranks import batches, make_model
from ununennium.checkpoints.store import CheckpointStore
from ununennium.training.callbacks.ema import averaged_weights

PROGRAM = Path(__file__).with_name("fully_sharded_ranks.py")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(kit: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    kit.on_ranks(2, PROGRAM, folder)
    return folder


@pytest.fixture(scope="module")
def ranks(folder: Path):
    return [torch.load(folder / f"out.{rank}", weights_only=True) for rank in range(2)]


def test_each_rank_holds_a_part_and_trains_as_with_the_whole(ranks):
    """correctness 8, 30: accumulation, clipping, averages, and validation on one rank alone."""
    total = sum(parameter.numel() for parameter in make_model().parameters())
    assert ranks[0]["whole"]["held"] == total
    assert sum(rank["divided"]["held"] for rank in ranks) == total
    assert max(rank["divided"]["held"] for rank in ranks) < 0.6 * total
    for rank in ranks:
        for key, value in rank["whole"]["weights"].items():
            torch.testing.assert_close(rank["divided"]["weights"][key], value, rtol=1e-5, atol=1e-6)
        for name, values in rank["whole"]["history"].items():
            assert rank["divided"]["history"][name] == pytest.approx(values, rel=1e-5), name


def test_a_checkpoint_of_parts_is_one_of_the_whole(folder: Path):
    """It loads in one process, whose validation loss is the one that was logged; also resumed without parts."""
    divided, whole = (CheckpointStore.read(str(folder / name)) for name in ("divided", "whole"))
    assert divided.keys() == whole.keys()
    model = make_model().eval()
    model.load_state_dict(divided["model"])
    averages = averaged_weights(divided)
    assert averages is not None
    model.load_state_dict(averages)
    total, weight = 0.0, 0
    with torch.no_grad():
        for image, target in batches(7, 5):
            total += F.cross_entropy(model(image), target, ignore_index=255, reduction="sum").item()
            weight += int((target != 255).sum())
    assert divided["history"]["val_loss"][-1] == pytest.approx(total / weight, rel=1e-5)
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.load_state_dict(divided["optimizer"])
    assert [state["exp_avg"].shape for state in optimizer.state.values()] == [p.shape for p in model.parameters()]
    crossed = CheckpointStore.read(str(folder / "crossed"))
    for key, value in whole["model"].items():
        torch.testing.assert_close(crossed["model"][key], value, rtol=1e-5, atol=1e-6)


def test_a_resumed_run_is_the_uninterrupted_one_to_the_bit(ranks):
    """correctness 58."""
    for rank in ranks:
        assert rank["resumed"]["history"] == rank["divided"]["history"]
        for key, value in rank["divided"]["weights"].items():
            assert torch.equal(rank["resumed"]["weights"][key], value), key


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ("wrapped", "give the plain one"),
        ("stepped", "make a new one"),
        ("fp16", "use 'bf16' with fully_shard"),
        ("channels_last", "leave it off"),
    ],
)
def test_what_cannot_be_divided_is_refused_with_a_remedy(ranks, case, words):
    assert all(words in rank["refused"][case] for rank in ranks)

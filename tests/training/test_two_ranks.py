"""Two real processes compute what one does. (Killing them is the launcher's matter.)"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

PROGRAM = Path(__file__).with_name("two_ranks.py")


@pytest.fixture(scope="module")
def ranks(kit, tmp_path_factory):
    out = tmp_path_factory.mktemp("ranks") / "out"
    kit.on_ranks(2, PROGRAM, out)
    return [torch.load(f"{out}.{rank}", weights_only=True) for rank in (0, 1)]


@pytest.fixture(scope="module")
def one():
    spec = importlib.util.spec_from_file_location("two_ranks", PROGRAM)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    every = module.tiles()
    # The same global windows in one process: tiles 0..3, then 4..7.
    pairs = [tuple(torch.cat(part) for part in zip(*every[i : i + 2], strict=True)) for i in range(0, 8, 2)]
    trainer, history = module.train(pairs, every)
    return {"weights": trainer.module.state_dict(), "history": history}


def test_one_and_two_ranks_agree_with_uneven_valid_counts(ranks, one):
    """correctness 3, 6: to 1e-6 over the same global batches."""
    for key, value in one["weights"].items():
        torch.testing.assert_close(ranks[0]["weights"][key], value, rtol=1e-5, atol=1e-6)


def test_every_rank_returns_the_same_history(ranks, one):
    """correctness 7, 14, 29, 30, 31, 37: losses, norms and metrics are reduced; uneven validation counts each once."""
    assert ranks[0]["history"] == ranks[1]["history"]
    for name, values in one["history"].items():
        assert ranks[0]["history"][name] == pytest.approx(values, rel=1e-5, abs=1e-6), name


def test_a_window_costs_one_all_reduce(ranks):
    """correctness 8, 9: no_sync encloses forward and backward; the window's last micro-batch synchronises."""
    assert [rank["reduces"] for rank in ranks] == [3 * 2, 3 * 2]  # epochs x windows, one bucket each


def test_no_two_ranks_and_no_two_seeds_share_a_generator(ranks):
    assert [rank["seeds"] for rank in ranks] == [[6, 8], [7, 9]]

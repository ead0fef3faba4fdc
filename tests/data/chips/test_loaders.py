"""Loaders: the same batches for any number of workers, ranks and resumes, and workers that are never in the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from ununennium.data import build_index, build_loaders, compute_statistics
from ununennium.training.loading import epoch_batches

AUGMENT = {"brightness": 0.2, "contrast": 0.1, "noise": 0.1, "scale": 0.3, "band_dropout": 0.3}


@pytest.fixture
def loaders(make):
    """Loaders of 6 batches of 4 chips (2 in the last), with any number of workers."""
    config = make.config(make.scene(), chips_per_epoch=22, batch_size=4, augment=AUGMENT)
    index = build_index(config)
    statistics = compute_statistics(index)

    def build(workers=0, chips=22, **arguments):
        settings = config.model_copy(update={"num_workers": workers, "chips_per_epoch": chips})
        return build_loaders(settings, index, statistics, **{"seed": 1, **arguments})

    return build


def same(batches, others):
    assert len(batches) == len(others)
    for ours, theirs in zip(batches, others, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_resume_gives_the_rest_of_the_epoch_once(loaders, workers):
    """correctness 63: in a new loader, and after a second resume in the same epoch; each chip once."""
    reference = loaders().train
    whole = list(epoch_batches(reference, 3, 0))
    chips = reference.dataset
    reference.sampler.set_start(0)
    expected = [chips[key] for key in reference.sampler]
    assert sorted(i for _, i in reference.sampler) == list(range(22))
    same([(torch.stack([e[0] for e in expected]), torch.stack([e[1] for e in expected]))],
         [tuple(torch.cat(part) for part in zip(*whole, strict=True))])  # fmt: skip
    loader = loaders(workers).train
    first = epoch_batches(loader, 3, 0)
    same([next(first) for _ in range(2)], whole[:2])
    del first
    resumed = loaders(workers).train
    again = epoch_batches(resumed, 3, 2)
    same([next(again)], whole[2:3])
    del again
    same(list(epoch_batches(resumed, 3, 3)), whole[3:])
    same(list(epoch_batches(resumed, 3, 6)), [])
    same(list(epoch_batches(resumed, 4, 0)), list(epoch_batches(reference, 4, 0)))


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_order_and_augmentation_depend_on_seed_epoch_and_number_alone(loaders, workers):
    """correctness 64, 65: not on workers, on the epochs before, or on the state of any global generator."""
    expected = list(epoch_batches(loaders().train, 2, 0))
    built = loaders(workers)
    torch.manual_seed(5)
    for epoch in (0, 1):
        torch.rand(3)
        assert not all(torch.equal(ours[0], theirs[0]) for ours, theirs in
                       zip(epoch_batches(built.train, epoch, 0), expected, strict=True))  # fmt: skip
    same(list(epoch_batches(built.train, 2, 0)), expected)
    same(list(built.validation), list(loaders().validation))
    other = list(epoch_batches(loaders(workers, seed=2).train, 2, 0))
    assert not torch.equal(other[0][0], expected[0][0])


def test_ranks_train_on_the_same_chips_between_them(loaders):
    """correctness 65, 66: the ranks' batches in turn are the single rank's global batch."""
    alone = [torch.cat(part) for part in zip(*epoch_batches(loaders().train, 1, 0), strict=True)]
    ranks = [loaders(rank=rank, world_size=2) for rank in range(2)]
    for rank, built in enumerate(ranks):
        mine = [torch.cat(part) for part in zip(*epoch_batches(built.train, 1, 0), strict=True)]
        same([mine], [[part[rank::2] for part in alone]])
    whole = torch.cat([target for _, target in loaders().validation])
    parts = [torch.cat([target for _, target in built.validation]) for built in ranks]
    assert sum(len(part) for part in parts) == len(whole)
    assert sum(int((part != 255).sum()) for part in parts) == int((whole != 255).sum())


def test_a_rank_without_validation_chips_has_no_batch(loaders):
    """correctness 31: the number of validation chips need not reach every rank."""
    number = len(loaders().validation.dataset)
    assert list(loaders(chips=number + 1, rank=0, world_size=number + 1).validation) == []


def test_loading_leaves_the_training_generator_alone(loaders):
    """correctness 36: a loader draws nothing from the generator that dropout draws from."""
    built = loaders()
    before = torch.get_rng_state()
    for _ in (*built.train, *built.validation):
        pass
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
def test_a_stop_that_reaches_the_whole_process_group_does_not_break_an_epoch(loaders):
    """correctness 68: SIGTERM and SIGINT are the training process's to handle; its workers go on until it ends them."""
    import multiprocessing.forkserver

    loader = loaders(2).train
    expected = list(epoch_batches(loaders().train, 0, 0))
    batches = epoch_batches(loader, 0, 0)
    got = [next(batches)]
    workers = batches._workers
    for pid in (*(worker.pid for worker in workers), multiprocessing.forkserver._forkserver._forkserver_pid):
        for number in (signal.SIGINT, signal.SIGTERM):
            subprocess.run(["kill", f"-{int(number)}", str(pid)], check=True)  # by another process, as torchrun does
    time.sleep(0.3)
    same([*got, *batches], expected)
    assert all(worker.is_alive() for worker in workers)
    workers[0].terminate()
    workers[0].join(60)
    assert not workers[0].is_alive()


STOPPED = """
import sys
from ununennium.config import DataConfig
from ununennium.data import build_index, build_loaders, compute_statistics
from ununennium.training.loading import epoch_batches

if __name__ == "__main__":
    config = DataConfig.model_validate_json(sys.argv[1])
    index = build_index(config)
    batches = epoch_batches(build_loaders(config, index, compute_statistics(index), seed=0).train, 0, 0)
    next(batches)
    print(*(worker.pid for worker in batches._workers), flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_workers_end_when_their_training_process_is_killed(make, tmp_path):
    (tmp_path / "stopped.py").write_text(STOPPED)
    config = make.config(make.scene(), num_workers=2)
    with subprocess.Popen(
        [sys.executable, str(tmp_path / "stopped.py"), config.model_dump_json()],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[3],
    ) as process:  # fmt: skip
        workers = [int(pid) for pid in process.stdout.readline().split()]
        assert len(workers) == 2
        process.kill()
    deadline = time.monotonic() + 60
    while any(_runs(pid) for pid in workers):
        assert time.monotonic() < deadline, "loader workers outlive their training process"
        time.sleep(0.1)


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"

"""Ranks in processes that have imported torch already: a program that torchrun would start, in a second."""

from __future__ import annotations

import multiprocessing
import os
import runpy
import socket
import sys
import traceback
from pathlib import Path


def run_on_ranks(num_ranks: int, program: Path, *arguments: object, timeout_s: float = 240.0) -> None:
    """Run ``program`` as ``__main__`` on the ranks of one process group, as ``torchrun`` does.

    Raises:
        AssertionError: a rank failed, or did not end; with what it printed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch.distributed", "torch._dynamo", "ununennium.training"])
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    errors = context.SimpleQueue()
    words = [str(argument) for argument in arguments]
    processes = [
        context.Process(target=_rank, args=(str(program), words, rank, num_ranks, port, errors))
        for rank in range(num_ranks)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(timeout_s)
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
    said = "" if errors.empty() else errors.get()
    assert not late, f"a rank did not end within {timeout_s} s {said}"
    assert [process.exitcode for process in processes] == [0] * num_ranks, said


def _rank(program: str, arguments: list[str], rank: int, num_ranks: int, port: int, errors: object) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    sys.argv = [program, *arguments]
    try:
        import torch

        torch.set_num_threads(1)
        runpy.run_path(program, run_name="__main__")
    except BaseException:
        errors.put(f"rank {rank}: {traceback.format_exc()}")  # type: ignore[attr-defined]
        raise

"""What the end of torchrun is taken for; its words are as it printed them (torch 2.15)."""

from __future__ import annotations

from pathlib import Path

import pytest

from ununennium.files import write_json
from ununennium.launch.result import rank_error_file, read_result
from ununennium.processes.errors import RankError
from ununennium.processes.supervise import Outcome
from ununennium.runs.directory import RunDirectory

TABLE = """\
W1124 00:02:48.874 api.py:1028] Sending process 22289 closing signal SIGTERM
W1124 00:03:18.875 api.py:1047] Unable to shutdown process 22289 via 15, forcefully exiting via 9
Failures:
[1]:
  time      : 2026-11-24_00:03:19
  host      : localhost
  rank      : 0 (local_rank: 0)
  exitcode  : {rank0} (pid: 22289)
  error_file: <N/A>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-24_00:02:48
  host      : localhost
  rank      : 1 (local_rank: 1)
  exitcode  : {rank1} (pid: 22290)
  error_file: <N/A>
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepared) -> RunDirectory:
    return prepared()


def ended(run: RunDirectory, rank0: int, rank1: int):
    return read_result(run, Outcome(1, False, TABLE.format(rank0=rank0, rank1=rank1).splitlines(), 1.0))


def test_a_rank_that_torchrun_had_to_kill_is_not_the_cause(run: RunDirectory) -> None:
    """correctness 46: rank 1 lost its connection first; rank 0 only did not hear SIGTERM."""
    lost = RankError(1, 1.0, "RuntimeError", "timed out connecting", "rank 1's traceback", lost=True)
    write_json(rank_error_file(run, 1), vars(lost))
    result = ended(run, -9, 1)
    assert result.error == lost


def test_the_first_of_two_killed_ranks_is_the_cause(run: RunDirectory) -> None:
    result = ended(run, -6, -9)
    assert result.error is not None
    assert (result.error.rank, result.error.lost) == (1, True)
    assert "SIGKILL" in result.message


def test_a_peer_that_was_asked_to_stop_does_not_make_it_a_preemption(run: RunDirectory) -> None:
    assert ended(run, -15, 1).stop_reason == "failed"
    assert ended(run, 1, -15).stop_reason == "preempted"

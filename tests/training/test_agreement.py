"""All ranks leave after the same step, whenever one of them is told to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).with_name("late_stop.py")


@pytest.mark.parametrize(("step", "ended"), [(3, [4, "preempted"]), (4, [4, "preempted"])])
def test_a_stop_that_comes_just_after_the_ranks_agreed_waits_for_the_next_time(
    kit: Any, tmp_path: Path, step: int, ended: list[object]
) -> None:
    """correctness 43, 69: within an epoch, and at the end of one."""
    kit.on_ranks(2, PROGRAM, tmp_path / "out", step)
    assert [json.loads((tmp_path / f"out.{rank}").read_text()) for rank in (0, 1)] == [ended, ended]

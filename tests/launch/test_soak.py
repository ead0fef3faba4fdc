"""A run that is killed again and again ends as if nothing had been; ``benchmarks.soak`` is the long version."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.soak import soak


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")
@pytest.mark.parametrize(("ranks", "seed"), [(1, 1), (2, 0)])
def test_kills_at_random_moments_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ranks: int, seed: int
) -> None:
    """correctness 49, 62, 69: model, optimizer and history to the bit, and no complete checkpoint is lost."""
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))  # restored afterwards
    result = soak(tmp_path, kills=3, epochs=14, ranks=ranks, seed=seed)
    assert result["kills"] >= 1
    assert (result["lost_checkpoints"], result["differs"]) == (0, [])

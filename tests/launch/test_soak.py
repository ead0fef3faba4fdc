"""A run that is killed again and again ends as if nothing had been; ``benchmarks.soak`` is the long version."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.soak import soak


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds processes through /proc")
@pytest.mark.parametrize(
    ("starter", "ranks", "workers", "seed"),
    [("launcher", 1, 0, 1), ("launcher", 2, 1, 0), ("cli", 1, 0, 2), ("plain", 1, 1, 3), ("plain", 2, 0, 4)],
)
def test_kills_at_random_moments_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, starter: str, ranks: int, workers: int, seed: int
) -> None:
    """correctness 49, 62, 69, 85, 86: all that learns and the history to the bit; no complete checkpoint is lost."""
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))  # restored afterwards
    kills = 3 if ranks == 1 else 2  # each start of two ranks takes as long as three of one
    result = soak(tmp_path, kills=kills, epochs=14, ranks=ranks, seed=seed, starter=starter, workers=workers)
    assert result["kills"] >= 1
    assert (result["lost_checkpoints"], result["differs"]) == (0, [])

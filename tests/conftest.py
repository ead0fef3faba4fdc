"""Fixtures that every part of the suite shares."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

# Before torch is imported anywhere: the suite runs several workers on few cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session", autouse=True)
def index_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Indexes that the suite builds stay out of the checkout."""
    os.environ.setdefault("UNUNENNIUM_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def atlanta() -> Path:
    """The folder of the sample scene that the project ships."""
    return ROOT / "examples" / "atlanta" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Larger real scenes beside the checkout; tests that need them are skipped where they are absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the shared scenes in {folder}")
    return folder

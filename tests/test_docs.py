"""The documentation's site is built as `make docs` builds it: no page left out, no link or name that leads nowhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


def build(site: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def test_the_site_holds_every_page_and_the_reference(tmp_path: Path) -> None:
    done = build(tmp_path / "site")
    assert done.returncode == 0, done.stderr
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("")
        built = tmp_path / "site" / ("" if name.name == "index" else name) / "index.html"
        assert built.exists(), page.name
    site = tmp_path / "site"
    home = (site / "index.html").read_text(encoding="utf-8")
    assert "Operations" in home or not (ROOT / "docs" / "operations.md").exists()
    training = (site / "reference" / "training" / "index.html").read_text(encoding="utf-8")
    assert 'id="ununennium.training.trainer.Trainer"' in training
    sources = re.findall(r"""(?:src|href)=["']?(https?://[^"'> ]+\.(?:js|css|woff2?))""", home)
    assert not sources, "a reader without internet sees the same"


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs" / "images").glob("ui-*.png"):
        assert picture.stat().st_size < 200_000, picture.name

"""The storage that an earlier version wrote, at a place of the test's own."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.compat.write_storage import PLACEHOLDER, TEXTS
from ununennium.cli import run

STORED = Path(__file__).with_name("stored-2928e86")


@pytest.fixture
def stored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the stored files, with its own path in them; it is the working directory."""
    folder = tmp_path / "stored"
    shutil.copytree(STORED, folder)
    for file in folder.rglob("*"):
        if file.suffix in TEXTS:
            text = file.read_text(encoding="utf-8")
            if PLACEHOLDER in text:
                file.write_text(text.replace(PLACEHOLDER, str(folder)), encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("UNUNENNIUM_STORAGE", "store")
    monkeypatch.setenv("NO_COLOR", "1")
    return folder


@pytest.fixture
def command(stored: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """``command("runs", "--json")`` runs a command over the stored files, which has to succeed; gives its output."""

    def call(*arguments: str) -> str:
        capsys.readouterr()
        code = run(list(arguments))
        captured = capsys.readouterr()
        assert code == 0, captured.err
        return captured.out

    return call

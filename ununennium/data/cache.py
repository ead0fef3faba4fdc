"""Folder of what is kept between runs: indexes, warped scenes, hashes of files, downloaded weights."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

CACHE_FOLDER = ".ununennium/cache"
"""Default folder, under the working directory, of indexes and warped scenes; ``UNUNENNIUM_CACHE`` names another."""


def cache_folder() -> Path:
    """Folder of indexes and warped scenes, kept between runs."""
    return Path(os.environ.get("UNUNENNIUM_CACHE") or CACHE_FOLDER).absolute()


def write_whole(path: Path, text: str) -> None:
    """Write a file that nobody ever sees in part.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)

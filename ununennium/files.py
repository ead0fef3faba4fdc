"""Files of this machine: its work and cache folders, and writing that nobody ever sees in part."""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CACHE_FOLDER = ".ununennium/cache"
"""Default folder, under the working directory, of indexes and warped scenes; ``UNUNENNIUM_CACHE`` names another."""
WORK_FOLDER = ".ununennium/runs"
"""Default folder, under the working directory, of the work folders; ``UNUNENNIUM_WORK`` names another."""
PART = ".tmp"
"""Ending of a file that is being written."""


def cache_folder() -> Path:
    """Folder of indexes, warped scenes, hashes of files and downloaded weights, kept between runs."""
    return Path(os.environ.get("UNUNENNIUM_CACHE") or CACHE_FOLDER).absolute()


def work_root() -> Path:
    """Folder of the work folders on this machine."""
    return Path(os.environ.get("UNUNENNIUM_WORK") or WORK_FOLDER).expanduser().resolve()


def write_json(file: Path, content: Any) -> None:
    """Write ``content`` as JSON, whole or not at all; numbers that are not finite become null.

    Raises:
        OSError: it cannot be written.
    """
    write_text(file, json.dumps(finite(content), indent=1) + "\n")


def write_text(file: Path, content: str) -> None:
    """Write ``content`` in UTF-8, whole or not at all; the folder is made if need be.

    Raises:
        OSError: it cannot be written.
    """
    write_bytes(file, content.encode())


def write_bytes(file: Path, content: bytes) -> None:
    """Write ``content``, whole or not at all; the folder is made if need be.

    Raises:
        OSError: it cannot be written.
    """
    with replaced(file) as part:
        part.write_bytes(content)


@contextlib.contextmanager
def replaced(file: Path, *, durable: bool = False) -> Iterator[Path]:
    """Path beside ``file`` to write to, which takes its place when the block ends without an exception.

    Args:
        file: path of the file, written whole or not at all; its folder is made if need be.
        durable: wait until the content is on the disk before it takes the place.

    Raises:
        OSError: it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{os.getpid()}-{secrets.token_hex(4)}{PART}")
    try:
        yield part
        if durable:
            with part.open("rb") as written:
                os.fsync(written.fileno())
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


def finite(content: Any) -> Any:
    """``content`` with NaN and infinities as None, which JSON can carry."""
    if isinstance(content, float):
        return content if math.isfinite(content) else None
    if isinstance(content, Mapping):
        return {str(key): finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [finite(value) for value in content]
    return content

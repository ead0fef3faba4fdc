"""Whether files are what they were: hashes of contents, computed again only where the file system hints at a change."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ununennium.data.catalog import Scene

CACHE_FOLDER = ".ununennium/cache"
"""Default folder, under the working directory, of indexes and warped scenes; ``UNUNENNIUM_CACHE`` names another."""

_SETTLED_NS = 2 * 10**9
"""A file that was changed so shortly before it was hashed may change again within a tick of the file system's clock."""

_BESIDE_RASTERS = (".aux.xml", ".msk", ".ovr")  # appended to the name; what GDAL reads along with the file
_BESIDE_SHAPES = (".dbf", ".shx", ".prj", ".cpg")  # instead of .shp


def cache_folder() -> Path:
    """Where indexes and warped scenes are kept between runs."""
    return Path(os.environ.get("UNUNENNIUM_CACHE") or CACHE_FOLDER).absolute()


class Contents:
    """Hashes of files, kept between runs.

    A hash is taken from an earlier run if path, size, times of the last change (of contents and of the inode, which no
    program sets) and inode are the same.

    Args:
        path: where the hashes are kept; None keeps none.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[str, list[Any]] = {}
        self.num_hashed = 0
        """Files whose contents were read."""
        if path is not None:
            try:
                self._known = dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError):
                self._known = {}

    def sha256(self, file: Path) -> str:
        """Hash of a local file, 64 hexadecimal digits."""
        state = file.stat()
        signature = [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]
        key = str(file.resolve())
        known = self._known.get(key)
        if known is not None and known[:-1] == signature:
            return str(known[-1])
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        self.num_hashed += 1
        if time.time_ns() - max(state.st_mtime_ns, state.st_ctime_ns) > _SETTLED_NS:
            self._known[key] = [*signature, found]
        return found

    def of_scenes(self, scenes: list[Scene]) -> str:
        """One hash of the contents of all local files of the scenes, and of what remote ones say of themselves."""
        digest = hashlib.sha256()
        for scene in scenes:
            for location in scene.files:
                if Path(location).is_file():
                    for file in with_companions(Path(location)):
                        digest.update(bytes.fromhex(self.sha256(file)))
                else:
                    digest.update(json.dumps([location, scene.to_dict()], sort_keys=True).encode())
            if scene.classes:  # they are in no file
                digest.update(json.dumps([scene.name, scene.classes]).encode())
        return digest.hexdigest()

    def save(self) -> None:
        """Keep the hashes for the next run.

        Raises:
            OSError: they cannot be written.
        """
        if self._path is not None:
            write_whole(self._path, json.dumps(self._known))


def with_companions(file: Path) -> Iterator[Path]:
    """The file, and those beside it that are read along with it."""
    yield file
    names = [f"{file.name}{ending}" for ending in _BESIDE_RASTERS]
    if file.suffix.lower() == ".shp":
        names += [file.with_suffix(ending).name for ending in _BESIDE_SHAPES]
    for name in names:
        if (beside := file.with_name(name)).is_file():
            yield beside


def write_whole(path: Path, text: str) -> None:
    """Write a file that nobody ever sees in part.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)

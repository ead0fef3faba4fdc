"""Fingerprints of data: all that was made of files is made anew when one of the files that they depend on changes.

A file depends on itself, on the files beside it that are read along with it, and on those that it refers to, each with
its own (``data.scenes.references``). Local files are compared by hashes of their contents, which are computed
again only where the file system hints at a change; remote ones by what their store says of them. The chip index,
statistics, warped scenes, maps, watched catalogues and the check before a run is resumed all ask here.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ununennium.data.scenes.locations import local_file, remote_url
from ununennium.data.scenes.references import companions, listed, others_beside
from ununennium.data.scenes.scene import Scene
from ununennium.data.scenes.stores import Stores
from ununennium.data.scenes.virtual_sources import sources_of
from ununennium.errors import DataError
from ununennium.files import write_text as write_whole

_SETTLED_NS = 2 * 10**9
"""A file that was changed so shortly before it was hashed may change again within a tick of the file system's clock."""

_FIRST_RULE_FIELDS = (
    "name", "images", "dates", "files", "label", "label_kind", "label_field", "label_value", "outside", "width",
    "height", "num_bands", "dtype", "crs", "transform", "nodata", "band_names", "has_mask", "block_shape", "classes",
    "attributes",
)  # fmt: skip


class Fingerprints:
    """Hashes of files and of what they depend on, kept between runs.

    A hash is taken from an earlier run if path, size, times of the last change (of contents and of the inode, which no
    program sets) and inode are the same; the list of files that a raster is read from, if moreover nothing was added
    to, or removed from, its folder. Stores of remote files are asked once for each file.

    Args:
        path: file of the hashes; None keeps none.

    Attributes:
        num_hashed: files whose contents were read.
        num_listed: rasters that were opened to see what they depend on.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._hashes = _kept(path)
        self._listings = _kept(_beside(path))
        self._stores = Stores()
        self._is_changed = False
        self.num_hashed = 0
        self.num_listed = 0

    def sha256(self, file: Path) -> str:
        """Hash of a local file, 64 hexadecimal digits."""
        signature = _signature(file)
        key = str(file.resolve())
        known = self._hashes.get(key)
        if known is not None and known[:-1] == signature:
            return str(known[-1])
        with file.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        self.num_hashed += 1
        if _is_settled(signature):
            self._hashes[key] = [*signature, found]
            self._is_changed = True
        return found

    def of_scenes(self, scenes: Sequence[Scene], *, first_rule: bool = False) -> str:
        """One hash of all files that the scenes' images and labels are read from.

        Args:
            scenes: of a catalogue.
            first_rule: as up to version 0.1.0, for indexes of that time: without what files refer to, and without what
                stores say. Without references and remote files both rules give the same.

        Raises:
            DataError: a store does not answer.
        """
        digest = hashlib.sha256()
        if not first_rule:
            self._stores.ask(name for scene in scenes for name in _locations(scene))
        for scene in scenes:
            for location in scene.files:
                if Path(location).is_file():
                    for file in companions(Path(location)):
                        digest.update(bytes.fromhex(self.sha256(file)))
                elif first_rule:
                    values = {name: value for name, value in scene.to_dict().items() if name in _FIRST_RULE_FIELDS}
                    digest.update(json.dumps([location, values], sort_keys=True).encode())
            if not first_rule:
                for part in self._others(scene):
                    digest.update(json.dumps(part).encode())
            if scene.classes:  # they are in no file
                digest.update(json.dumps([scene.name, scene.classes]).encode())
        return digest.hexdigest()

    def of_files(self, names: Iterable[str]) -> list[list[Any]]:
        """Name and state of all files that the named ones depend on, JSON-ready: it changes when one of them does.

        Args:
            names: paths, URLs, names as GDAL has them, or texts of virtual rasters.

        Raises:
            DataError: a named file is not there, or its store does not answer.
        """
        names = list(names)
        self._stores.ask(names)
        found = []
        for name in names:
            if not name.startswith("<") and self._state(name) is None:
                raise DataError(f"{name} cannot be read: there is no such file; check the path")
            found += [[_short(each), self._state(each)] for each in self.dependencies(name)]
        return found

    def dependencies(self, name: str) -> list[str]:
        """The named file and all that it depends on, recursively, in a fixed order; also what is missing."""
        found: dict[str, None] = {}
        waiting = [name]
        while waiting:
            each = waiting.pop(0)
            key = str(file.resolve()) if (file := local_file(each)) is not None else each
            if key in found:
                continue
            if not each.startswith("<"):
                found[key] = None
            sources, others = self._references(each, file)
            for other in sorted(others):
                found.setdefault(str(its.resolve()) if (its := local_file(other)) is not None else other)
            waiting += sources
        return list(found)

    def save(self) -> None:
        """Keep the hashes for the next run.

        Raises:
            OSError: they cannot be written.
        """
        if self._path is not None and self._is_changed:
            write_whole(self._path, json.dumps(_kept(self._path) | self._hashes))
            write_whole(listings := _beside(self._path) or self._path, json.dumps(_kept(listings) | self._listings))
            self._is_changed = False

    def _others(self, scene: Scene) -> list[list[Any]]:
        """Name and state of what a scene depends on, besides the contents of its local files and their companions."""
        hashed = {str(f.resolve()) for name in scene.files if Path(name).is_file() for f in companions(Path(name))}
        names = dict.fromkeys(name for location in _locations(scene) for name in self.dependencies(location))
        return [[_short(name), self._state(name)] for name in names if name not in hashed]

    def _references(self, name: str, file: Path | None) -> tuple[list[str], list[str]]:
        """Sources of a file, which have references of their own, and what else it is read from."""
        if name.startswith("<"):
            return sources_of(name), []
        if file is None:
            return self._stores.references(name)
        if file.is_dir():
            return [], []
        sources, others = self._listed(file)
        return sources, [*others, *map(str, companions(file)), *map(str, others_beside(file))]

    def _listed(self, file: Path) -> tuple[list[str], list[str]]:
        signature = [*_signature(file), *_signature(file.resolve().parent)]
        key = str(file.resolve())
        known = self._listings.get(key)
        if known is not None and known[:-2] == signature:
            return list(known[-2]), list(known[-1])
        sources, others = listed(file)
        self.num_listed += 1
        if _is_settled(signature) and _is_settled(signature[4:]):
            self._listings[key] = [*signature, sources, others]
            self._is_changed = True
        return sources, others

    def _state(self, name: str) -> Any:
        """State of a file that tells a change: its hash, or what its store says; None where there is none."""
        file = local_file(name)
        if file is None:
            return self._stores.state(name)
        if file.is_dir():
            inside = [
                [str(each.relative_to(file)), self.sha256(each)] for each in sorted(file.rglob("*")) if each.is_file()
            ]
            return hashlib.sha256(json.dumps(inside).encode()).hexdigest()
        return self.sha256(file) if file.is_file() else None


def _locations(scene: Scene) -> list[str]:
    """All that a scene names: files, and texts of virtual rasters."""
    area = getattr(scene, "labelled_area", None)
    texts = [image for image in scene.images if image.startswith("<")]
    return [*scene.files, *texts, *([area] if isinstance(area, str) else [])]


def _short(name: str) -> str:
    """A name that stays the same where all files move to another folder."""
    return name if remote_url(name) is not None else Path(name).name


def _signature(file: Path) -> list[int]:
    state = file.stat()
    return [state.st_size, state.st_mtime_ns, state.st_ctime_ns, state.st_ino]


def _is_settled(signature: Sequence[int]) -> bool:
    return time.time_ns() - max(signature[1], signature[2]) > _SETTLED_NS


def _beside(path: Path | None) -> Path | None:
    return None if path is None else path.with_name("listings.json")


def _kept(path: Path | None) -> dict[str, list[Any]]:
    try:
        return {} if path is None else dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}

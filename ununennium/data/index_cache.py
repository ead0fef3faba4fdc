"""An index and its statistics, written once and reused while nothing changed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ununennium.config import DataConfig
from ununennium.data.catalog import Scene, open_catalog
from ununennium.data.contents import Contents, cache_folder, write_whole
from ununennium.data.index import VERSION, ChipIndex, index_scenes
from ununennium.data.statistics import BandStatistics, compute_statistics
from ununennium.errors import DataError, UnunenniumError
from ununennium.version import __version__

NOT_INDEXED = frozenset({"augment", "batch_size", "cache_mb", "chips_per_epoch", "class_balance", "num_workers"})
"""Settings of the data section that say how chips are drawn, and change nothing about the index."""

_KEPT = 20
_MOST_NAMED = 5


@dataclass(frozen=True)
class IndexedData:
    """An index, with where it is kept.

    Attributes:
        index: the chip index.
        folder: where it is kept.
        reused: whether it is that of an earlier run.
    """

    index: ChipIndex
    folder: Path
    reused: bool

    def statistics(self) -> BandStatistics:
        """Statistics of the training fold: computed once, and kept beside the index.

        Raises:
            DataError: the training fold has no valid pixel.
        """
        file = self.folder / "statistics.json"
        try:
            return BandStatistics.load(file)
        except (OSError, ValueError, TypeError):
            found = compute_statistics(self.index)
        _keep(lambda: write_whole(file, found.to_text()))
        return found


def indexed(
    config: DataConfig, progress: Callable[[str], None] | None = None, *, scenes: list[Scene] | None = None
) -> IndexedData:
    """The index of the data: an earlier one if files, settings and program are the same, else a new one.

    Files are compared by their contents, which are read again only where the file system hints at a change; remote ones
    by what their headers say.

    Args:
        config: the data section of a run.
        progress: told what is being done.
        scenes: the catalog, if it is open already.

    Raises:
        DataError, ConfigError: as ``build_index``.
    """
    root = cache_folder()
    scenes = open_catalog(config, progress) if scenes is None else scenes
    contents = Contents(root / "contents.json")
    data_sha256 = contents.of_scenes(scenes)
    settings = config.model_dump(mode="json", exclude=set(NOT_INDEXED))
    parts = [VERSION, __version__, settings, [scene.to_dict() for scene in scenes], data_sha256]
    fingerprint = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
    folder = root / "index" / fingerprint
    file = folder / "index.json"
    if file.is_file():
        try:
            found = IndexedData(ChipIndex.load(file), folder, reused=True)
        except (OSError, ValueError, TypeError, KeyError, UnunenniumError):
            pass  # a damaged one is built anew
        else:
            if progress is not None:
                progress(f"index reused: {len(scenes)} scene(s) are as they were ({file})")
            for note in found.index.notes:
                warnings.warn(note, stacklevel=2)
            _keep(lambda: os.utime(folder))
            return found
    index = index_scenes(scenes, config, progress, data_sha256=data_sha256)

    def write() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        write_whole(file, index.to_text())
        contents.save()
        _forget_oldest(root / "index")

    _keep(write)
    return IndexedData(index, folder, reused=False)


def check_unchanged(index: ChipIndex) -> None:
    """Make sure that the files are what they were when they were indexed, however long ago that was.

    Only what the file system hints at is read again.

    Raises:
        DataError: they are not.
    """
    contents = Contents(cache_folder() / "contents.json")
    if contents.of_scenes(index.scenes) != index.data_sha256:
        names = ", ".join(scene.name for scene in index.scenes[:_MOST_NAMED])
        more = f" and {len(index.scenes) - _MOST_NAMED} more" if len(index.scenes) > _MOST_NAMED else ""
        raise DataError(
            f"the files of the scenes ({names}{more}) are not what they were when this run indexed them: what it "
            "learnt and what it would be judged by no longer belong together; start a new run, or bring the files back"
        )
    _keep(contents.save)


def _keep(write: Callable[[], None]) -> None:
    """Write, or say why that is not possible: a run needs no cache."""
    try:
        write()
    except OSError as error:
        warnings.warn(f"the index is not kept for the next run: {error}", stacklevel=3)


def _forget_oldest(folder: Path) -> None:
    """Keep the indexes that were used last."""
    known = sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for old in known[_KEPT:]:
        shutil.rmtree(old, ignore_errors=True)

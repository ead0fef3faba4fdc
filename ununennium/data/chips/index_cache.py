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
from ununennium.data.chips.index import VERSION, ChipIndex, check_classes, fingerprints_of_settings, index_scenes
from ununennium.data.chips.statistics import BandStatistics, compute_statistics
from ununennium.data.scenes.catalog import open_catalog
from ununennium.data.scenes.fingerprints import Fingerprints
from ununennium.data.scenes.scene import Scene
from ununennium.errors import DataError, UnunenniumError
from ununennium.files import cache_folder
from ununennium.files import write_text as write_whole
from ununennium.formatting import scenes_text
from ununennium.live_line import Wait
from ununennium.version import __version__

NOT_INDEXED = frozenset(
    {
        "allow_absent", "augment", "batch_size", "cache_mb", "chip_size", "chips_per_epoch", "class_balance",
        "max_pixels", "num_workers", "transform",
    }
)  # fmt: skip
"""Settings of the data section that say how chips are drawn, or what is refused, and change nothing about the index."""

_KEPT = 20
_MOST_NAMED = 5
_NO_LONGER = (
    "what it learnt and what it would be judged by no longer belong together; start a new run, or bring the files back"
)


@dataclass(frozen=True)
class IndexedData:
    """An index, with where it is kept.

    Attributes:
        index: the chip index.
        folder: folder of the index.
        reused: whether it is that of an earlier run.
    """

    index: ChipIndex
    folder: Path
    reused: bool

    def statistics(self) -> BandStatistics:
        """Statistics of the training fold: computed once, and kept beside the index.

        Raises:
            DataError: the training fold has no valid pixel.
            ConfigError: the index's transform does not fit the values.
        """
        transform = self.index.transform
        file = self.folder / ("statistics.json" if transform == "linear" else f"statistics-{transform}.json")
        try:
            return BandStatistics.load(file)
        except (OSError, ValueError, TypeError):
            found = compute_statistics(self.index)
        _keep(lambda: write_whole(file, found.to_text()))
        return found


def indexed(
    config: DataConfig,
    progress: Callable[[str], None] | None = None,
    *,
    scenes: list[Scene] | None = None,
    for_training: bool = True,
    on_wait: Callable[[str], None] | None = None,
) -> IndexedData:
    """The index of the data: an earlier one if files, settings and program are the same, else a new one.

    Files, and those that they depend on, are compared as ``Fingerprints`` does.

    Args:
        config: the data section of a run.
        progress: told what is being done.
        scenes: the catalog, if it is open already.
        for_training: refuse classes without a labelled pixel in the training fold (``check_classes``).
        on_wait: told what takes more than two seconds.

    Raises:
        DataError, ConfigError: as ``build_index``.
    """
    found = _indexed(config, progress, scenes, on_wait)
    if for_training:
        check_classes(found.index.labelled, config)
    return found


def _indexed(
    config: DataConfig,
    progress: Callable[[str], None] | None,
    scenes: list[Scene] | None,
    on_wait: Callable[[str], None] | None,
) -> IndexedData:
    root = cache_folder()
    with Wait("opening the scenes", on_wait):
        scenes = open_catalog(config, progress) if scenes is None else scenes
    fingerprints = Fingerprints(root / "contents.json")
    with Wait(f"comparing the files of {scenes_text(len(scenes))} with those of earlier runs", on_wait):
        data_sha256 = fingerprints.of_scenes(scenes)
        other_files = fingerprints_of_settings(config, fingerprints)
    settings = config.model_dump(mode="json", exclude=set(NOT_INDEXED))
    parts = [VERSION, __version__, settings, [scene.to_dict() for scene in scenes], data_sha256, other_files]
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
            found.index.transform = config.transform
            for note in found.index.notes:
                warnings.warn(note, stacklevel=2)
            _keep(lambda: os.utime(folder))
            _keep(fingerprints.save)
            return found
    with Wait(f"reading labels of {scenes_text(len(scenes))}", on_wait):
        index = index_scenes(scenes, config, progress, data_sha256=data_sha256, other_files=other_files)

    def write() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        write_whole(file, index.to_text())
        fingerprints.save()
        _forget_oldest(root / "index")

    _keep(write)
    return IndexedData(index, folder, reused=False)


def check_unchanged(index: ChipIndex) -> None:
    """Make sure that the files are what they were when they were indexed, however long ago that was.

    That includes what they refer to, masks and other files beside them, and ``data.split.file``. Only what the file
    system hints at is read again.

    Raises:
        DataError: they are not.
    """
    fingerprints = Fingerprints(cache_folder() / "contents.json")
    first_rule = index.other_files is None
    if fingerprints.of_scenes(index.scenes, first_rule=first_rule) != index.data_sha256:
        names = ", ".join(scene.name for scene in index.scenes[:_MOST_NAMED])
        more = f" and {len(index.scenes) - _MOST_NAMED} more" if len(index.scenes) > _MOST_NAMED else ""
        raise DataError(
            f"the files of the scenes ({names}{more}), or files that they refer to, are not what they were when this "
            f"run indexed them: {_NO_LONGER}"
        )
    for name, before in (index.other_files or {}).items():
        if fingerprints.of_files([name]) != before:
            raise DataError(f"{name} is not what it was when this run indexed the data: {_NO_LONGER}")
    _keep(fingerprints.save)


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

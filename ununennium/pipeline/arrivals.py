"""Check for new data in a catalogue, compared with the last check.

No Prefect here. What a look found is kept, as immutable records beside the model's versions and promotions::

    models/<model>/arrivals/<10**10 - number>.json
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import fsspec

from ununennium.checkpoints.registry import Registry
from ununennium.config import RunConfig
from ununennium.data.scenes.catalog import open_catalog
from ununennium.data.scenes.fingerprints import Fingerprints
from ununennium.data.scenes.scene import Scene
from ununennium.data.scenes.sources import scenes_of
from ununennium.errors import CheckpointError
from ununennium.files import cache_folder
from ununennium.launch.stalls import OnLine
from ununennium.storage.base import Storage
from ununennium.storage.open import open_storage, resolve_storage
from ununennium.storage.record_log import next_number, record_key

_FORMAT = 1


@dataclass(frozen=True)
class Arrival:
    """Result of a check of the catalogue for new data.

    Attributes:
        model: name of the model of the catalogue.
        fingerprint: hash of all data, in all scenes.
        previous: the same at the last look, or when the champion was trained; None if there was neither.
        scenes: hash of each scene's data by its name.
        added: scenes that were not there at the last look; all, if there was none.
        changed: scenes with other contents than at the last look.
        removed: scenes that are gone.
        is_first: whether nobody has looked before.
        newest_s: age in seconds of the file that was changed last; None if no file system tells.
        storage: storage of the registry.
    """

    model: str
    fingerprint: str
    previous: str | None
    scenes: dict[str, str]
    added: list[str]
    changed: list[str]
    removed: list[str]
    is_first: bool
    newest_s: float | None
    storage: str

    @property
    def is_new(self) -> bool:
        """Tell whether the data are other ones."""
        return self.fingerprint != self.previous

    def remember(self) -> None:
        """Keep what was found, for the next look to compare with.

        Raises:
            FileExistsError: somebody else looked at the same moment.
            StorageError: the storage failed.
        """
        records = open_storage(self.storage)
        folder = _folder(self.model)
        key = record_key(folder, next_number(records, folder))
        seen = datetime.now(UTC).isoformat(timespec="milliseconds")
        content = {"format": _FORMAT, "seen": seen, "fingerprint": self.fingerprint, "scenes": self.scenes}
        records.create(key, (json.dumps(content, indent=1) + "\n").encode())


def check_for_new_data(config: RunConfig, *, on_line: OnLine | None = None) -> Arrival:
    """Look at the catalogue of ``config``, and compare it with what the last look found.

    Local files are compared by their contents, which are read again only where the file system hints at a change; those
    behind a URL by what their store says of them. Where nobody has looked yet, the data that the champion was trained
    on count as seen.

    Args:
        config: run configuration: its ``data`` is the catalogue, and its ``name`` is the model's.
        on_line: told what is warped to another grid.

    Raises:
        DataError, ConfigError: the catalogue cannot be read, or its scenes do not fit each other.
        CheckpointError: the record of the last look is damaged.
    """
    storage = resolve_storage(config.storage)
    scenes = open_catalog(config.data, on_line)
    fingerprints = Fingerprints(cache_folder() / "contents.json")
    data_sha256 = fingerprints.of_scenes(scenes)
    found = {scene.name: _hash(scene, fingerprints) for scene in scenes}
    with suppress(OSError):
        fingerprints.save()
    fingerprint = hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
    last = _last_look(open_storage(storage), config.name)
    before: Mapping[str, str] = last["scenes"] if last else {}
    previous = last["fingerprint"] if last else None
    if last is None and data_sha256 == _of_the_champion(storage, config.name):
        previous, before = fingerprint, found
    return Arrival(
        model=config.name,
        fingerprint=fingerprint,
        previous=previous,
        scenes=found,
        added=[name for name in found if name not in before],
        changed=[name for name in found if name in before and found[name] != before[name]],
        removed=[name for name in before if name not in found],
        is_first=last is None,
        newest_s=_newest_s(config),
        storage=storage,
    )


def _hash(scene: Scene, fingerprints: Fingerprints) -> str:
    # In the form of earlier records, so that a scene of local files is not taken for a changed one.
    return hashlib.sha256(json.dumps([fingerprints.of_scenes([scene]), []]).encode()).hexdigest()


def _info(location: str) -> Mapping[str, Any]:
    """Metadata of a file from its file system; empty, where that has none."""
    try:
        filesystem, path = fsspec.core.url_to_fs(location)
        return dict(filesystem.info(path))
    except Exception:  # it was opened before by GDAL, which may reach what fsspec does not
        return {}


def _newest_s(config: RunConfig) -> float | None:
    """Seconds since a file of the catalogue was changed last."""
    times = []
    for scene in scenes_of(config.data):
        for location in _locations([scene.image, scene.label]):
            info = _info(location)
            when = info.get("mtime") or info.get("LastModified")
            if isinstance(when, datetime):
                when = when.timestamp()
            if isinstance(when, int | float):
                times.append(float(when))
    return max(0.0, time.time() - max(times)) if times else None


def _locations(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if not value.startswith(("<", "/vsi")):
            yield value
    elif isinstance(value, Mapping):
        yield from _locations(list(value.values()))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _locations(each)


def _last_look(records: Storage, model: str) -> dict[str, Any] | None:
    newest = records.first(_folder(model))
    if newest is None:
        return None
    try:
        content: dict[str, Any] = json.loads(records.read_bytes(newest))
        if content["format"] != _FORMAT or not {"scenes", "fingerprint"} <= content.keys():
            raise ValueError(f"this version reads format {_FORMAT}")
    except (ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{records.url(newest)} is no record of a look at the data: {error}") from error
    return content


def _of_the_champion(storage: str, model: str) -> str | None:
    """Hash of the data that the champion was trained on."""
    registry = Registry(storage, model)
    champion = registry.current()
    return None if champion is None else registry.contract(champion.version).data_sha256


def _folder(model: str) -> str:
    return f"models/{model}/arrivals/"

"""Runs of a storage, by the summaries that they left."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ununennium.runs.records import RunSummary
from ununennium.storage.base import Storage
from ununennium.storage.open import open_storage, resolve_storage

SUMMARY = "summary.json"
RUN_ID = re.compile(r"^\d{8}T\d{6}Z-[a-z0-9][a-z0-9_-]*-[0-9a-f]{4}$")
"""UTC time of the start, the model's name and four hexadecimal digits."""


def list_runs(storage: str, *, name: str | None = None) -> list[RunSummary]:
    """The summaries of the runs in ``storage``, newest first.

    Args:
        storage: URL or folder.
        name: only this model's runs.
    """
    return list(newest_summaries(resolve_storage(storage), name))


def newest_summaries(root: str, name: str | None = None, limit: int | None = None) -> Iterator[RunSummary]:
    """The summaries of runs, newest first, each read when it is asked for.

    Args:
        root: of the storage, as ``resolve_storage`` gives it.
        name: only this model's.
        limit: at most so many.
    """
    if "://" not in root and not Path(root).is_dir():
        return
    runs: Storage = open_storage(f"{root}/runs")
    keys = [key for key in runs.list() if key.count("/") == 1 and key.endswith(f"/{SUMMARY}")]
    if name is not None:
        keys = [key for key in keys if RUN_ID.match(folder := key.partition("/")[0]) and folder[17:-5] == name]
    for key in sorted(keys, reverse=True)[:limit]:
        yield RunSummary.from_bytes(runs.read_bytes(key))

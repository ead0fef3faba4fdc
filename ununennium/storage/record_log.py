"""Numbered records in a folder of a storage, of which the newest comes first in a listing.

The record ``number`` (from 1) has the key ``<folder>/<10**10 - number>.json``; it is created exclusively and never
changed. Whoever wants the newest asks the storage for the first key instead of reading the whole log.
"""

from __future__ import annotations

import re

from ununennium.storage.base import Storage

_LAST = 10**10
_RECORD = re.compile(r"\d{10}\.json")


def is_record(key: str) -> bool:
    """Tell whether ``key`` has the form of a record's key."""
    return _RECORD.fullmatch(key.rpartition("/")[2]) is not None


def number_of(key: str) -> int:
    """Number of the record at ``key``, which has the form of one."""
    return _LAST - int(key.rpartition("/")[2].removesuffix(".json"))


def record_key(folder: str, number: int) -> str:
    """Key of the record ``number`` in ``folder``, which ends in ``/``."""
    return f"{folder}{_LAST - number:010d}.json"


def next_number(storage: Storage, folder: str) -> int:
    """Number of the record after the newest one in ``folder``; 1 in an empty one."""
    newest = storage.first(folder)
    return 1 if newest is None else number_of(newest) + 1

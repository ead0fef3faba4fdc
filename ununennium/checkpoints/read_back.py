"""Contents of storage after an upload, read back."""

from __future__ import annotations

import hashlib

from ununennium.errors import StorageUnavailable
from ununennium.storage.base import Storage

_ABSENT = (0, hashlib.sha256().hexdigest())


def read_back(storage: Storage, key: str) -> tuple[int, str]:
    """Length and SHA-256 of what is stored at ``key``; those of an empty object if nothing is."""
    size_bytes, digest = 0, hashlib.sha256()
    try:
        for chunk in storage.chunks(key):
            digest.update(chunk)
            size_bytes += len(chunk)
    except FileNotFoundError:
        return _ABSENT
    return size_bytes, digest.hexdigest()


def check_length(storage: Storage, key: str, size_bytes: int) -> None:
    """Find an upload that was cut off, by one small request, before it is committed.

    Raises:
        StorageUnavailable: the object is not there, or has another length.
    """
    url = storage.url(key)
    try:
        found = storage.size(key)
    except FileNotFoundError as error:
        raise StorageUnavailable(f"{url} was uploaded and is not there; it is not committed") from error
    if found != size_bytes:
        raise StorageUnavailable(f"{url} was stored with {found} bytes instead of {size_bytes}; it is not committed")

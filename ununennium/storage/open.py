"""Open storage by its URL, and probe that it can be written and creates exclusively."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

from ununennium.errors import ConfigError, StorageError
from ununennium.redaction import holds_credentials
from ununennium.storage.base import Storage
from ununennium.storage.local import LocalStorage
from ununennium.storage.object_store import MemoryStorage, ObjectStorage
from ununennium.storage.patience import patiently

logger = logging.getLogger(__name__)

_ONE_SLASH = re.compile(r"(s3a?|gs|gcs|az|abfss?|adl|memory|file|https?|ftp|sftp|hdfs):/", re.IGNORECASE)
"""A URL that went through ``pathlib``, which makes one slash of two."""
_NO_BUCKET = re.compile(r"^(s3a?|gc?s|az|abfss?)://*$", re.IGNORECASE)

UNSAFE_SINGLE_WRITER = "UNUNENNIUM_UNSAFE_SINGLE_WRITER"
"""Environment variable that allows storage without exclusive creation, if set to ``1``."""


def open_storage(url: str | os.PathLike[str]) -> Storage:
    """Open the folder at ``url``; it need not exist yet.

    Args:
        url: ``s3://bucket/prefix``, ``memory://name``, ``file:///data/runs`` or any other URL that fsspec knows; text
            without ``://`` is a path on the local disk. Credentials and endpoints come from the environment
            (``AWS_*``) or from fsspec's own configuration.

    Raises:
        ConfigError: the URL names no bucket, fsspec does not know its scheme or cannot open it, or the package for it
            is not installed.
    """
    text = os.fspath(url)
    if not text.strip():
        raise ConfigError("storage", text, "give a folder or a URL such as 's3://bucket/prefix'")
    scheme, separator, rest = text.partition("://")
    if not separator:
        mangled = _ONE_SLASH.match(text)
        if mangled:
            right = f"{mangled[1]}://{text[mangled.end() :].lstrip('/')}"
            raise ConfigError("storage", text, f"is neither a path nor a URL; write {right!r}")
        return LocalStorage(os.path.expanduser(text))
    if not scheme:
        raise ConfigError("storage", text, "names no scheme; give a folder or a URL such as 's3://bucket/prefix'")
    if scheme != "memory" and not rest.strip("/"):
        raise ConfigError("storage", text, f"names no bucket or folder; write '{scheme}://bucket/prefix'")
    if scheme in ("file", "local"):
        return LocalStorage(rest, scheme=f"{scheme}://")
    return MemoryStorage(text) if scheme == "memory" else ObjectStorage(text)


def resolve_storage(url: str) -> str:
    """``url`` without a slash at its end; a local path becomes absolute.

    Raises:
        ConfigError: it holds a password, token or signature, or names no bucket.
    """
    if holds_credentials(url):
        raise ConfigError("storage", url, "leave credentials out of the URL, and put them into the environment (AWS_*)")
    if _NO_BUCKET.match(url):
        raise ConfigError("storage", url, "the URL names no bucket; write s3://bucket/prefix")
    if "://" in url:
        scheme, _, rest = url.partition("://")
        return f"{scheme}://{rest.rstrip('/')}"
    return str(Path(url).expanduser().resolve())


def check_writable(storage: Storage, *, patience_s: float | None = None) -> None:
    """Write and remove a small object, so that a folder nobody may write to shows itself before the work.

    Args:
        storage: storage to try.
        patience_s: how long storage that cannot answer now is waited for, see ``patiently``.

    Raises:
        StorageError: the storage refuses.
    """
    with _probe(storage, b"may this folder be written to?\n", patience_s):
        pass


def check_exclusive(
    storage: Storage, *, unsafe_single_writer: bool | None = None, patience_s: float | None = None
) -> bool:
    """Make sure that ``create`` refuses an object that exists: some servers accept the condition and ignore it.

    Args:
        storage: storage to try.
        unsafe_single_writer: warn instead of raising; None takes it from ``UNUNENNIUM_UNSAFE_SINGLE_WRITER``.
        patience_s: how long storage that cannot answer now is waited for, see ``patiently``.

    Returns:
        Whether it does.

    Raises:
        StorageError: the second ``create`` of one key went through, or the storage refuses altogether.
    """
    problem = _not_exclusive(storage, patience_s)
    if problem is None:
        return True
    problem = f"{storage.root}: {problem}, so two promotions could overwrite each other"
    if unsafe_single_writer is None:
        unsafe_single_writer = os.environ.get(UNSAFE_SINGLE_WRITER) == "1"
    if not unsafe_single_writer:
        raise StorageError(
            f"{problem}; use a local folder or an object store with conditional writes (or set "
            f"{UNSAFE_SINGLE_WRITER}=1 if never more than one process writes here)"
        )
    logger.warning("UNSAFE: %s. It is used because you vouch that one process alone writes here", problem)
    return False


def _not_exclusive(storage: Storage, patience_s: float | None) -> str | None:
    """Fault of exclusive creation here; None if it works. Writes, and so finds refusals, in any case."""
    with _probe(storage, b"first\n", patience_s) as key:
        if not storage.creates_exclusively:
            return "this kind of storage cannot create an object exclusively"
        try:
            patiently(lambda: storage.create(key, b"second\n"), patience_s=patience_s)
        except FileExistsError:
            return None
    return "this store ignores conditional writes (If-None-Match)"


@contextlib.contextmanager
def _probe(storage: Storage, data: bytes, patience_s: float | None) -> Iterator[str]:
    """The key of a new object with ``data``, which is removed afterwards, also if nobody knows that it was created."""
    key = f"probe-{uuid.uuid4().hex}"

    def create() -> None:
        try:
            storage.create(key, data)
        except FileExistsError:  # nobody else has this key: an answer was lost on its way
            if storage.read_bytes(key) != data:
                raise StorageError(f"{storage.url(key)} was stored with other contents than were sent") from None

    try:
        patiently(create, patience_s=patience_s)
        yield key
    except BaseException:
        with contextlib.suppress(StorageError):
            storage.delete(key)
        raise
    patiently(lambda: storage.delete(key), patience_s=patience_s)

"""Stores of remote files: sizes, times and entity tags, which change with the contents."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import fsspec

from ununennium.data.scenes.locations import local_file, remote_url
from ununennium.data.scenes.references import BESIDE_RASTERS, BESIDE_SHAPES
from ununennium.data.scenes.remote import RETRY_WAITS_S
from ununennium.data.scenes.vector_checks import VECTOR_ENDINGS
from ununennium.data.scenes.virtual_sources import sources_of
from ununennium.errors import DataError

_CHANGED_BY = (
    "size", "mtime", "ETag", "etag", "LastModified", "last_modified", "Last-Modified", "updated", "md5Hash",
    "Content-MD5", "Digest", "created",
)  # fmt: skip
"""Facts of a file, as file systems have them, that change with its contents."""
_NOT_THERE = (404, 410)  # HTTP statuses
_NOT_TOLD = (400, 401, 403, 405, 501)
_REQUESTS = 16
_VIRTUAL_BYTES = 2**20


class Stores:
    """Answers of the stores of remote files; each file is asked for once."""

    def __init__(self) -> None:
        self._states: dict[str, Any] = {}
        self._filesystems: dict[str, Any] = {}

    def ask(self, names: Iterable[str]) -> None:
        """Ask for all remote files among ``names``, and for those beside them, at once.

        Raises:
            DataError: a store does not answer.
        """
        urls = {url for name in names if (url := _asked(name)) is not None}
        urls |= {beside for url in urls for beside in _beside(url)}
        if urls := urls - self._states.keys():
            for protocol in {url.partition("://")[0] for url in urls}:
                self._filesystem(protocol)
            with ThreadPoolExecutor(_REQUESTS) as requests:
                ordered = sorted(urls)
                self._states.update(zip(ordered, requests.map(self._ask, ordered), strict=True))

    def state(self, name: str) -> Any:
        """Facts of a file in its store: [] where it says nothing, None where there is no such file.

        Raises:
            DataError: the store does not answer.
        """
        url = _asked(name)
        if url is None:  # neither local nor of a known store, such as a database: its name is all that is known
            return [] if name.startswith("/vsi") or "://" in name or ":" in name else None
        if url not in self._states:
            self._states[url] = self._ask(url)
        return self._states[url]

    def references(self, name: str) -> tuple[list[str], list[str]]:
        """Sources of a remote virtual raster, and the files beside it that are there."""
        url = _asked(name)
        if url is None:
            return [], []
        others = [beside for beside in _beside(url) if self.state(beside) is not None]
        if not url.lower().endswith(".vrt"):
            return [], others
        folder = url.rpartition("/")[0]
        try:
            filesystem, path = self._located(url)
            text = filesystem.cat_file(path, end=_VIRTUAL_BYTES).decode("utf-8", "replace")
        except Exception:  # GDAL, which reads it, may have access that fsspec has not
            return [], others
        return sources_of(text, folder), others

    def _ask(self, url: str) -> Any:
        for wait in (*RETRY_WAITS_S, None):
            try:
                filesystem, path = self._located(url)
                info = filesystem.info(path)
            except Exception as error:
                if _is_missing(error):
                    return None
                if not _may_pass(error):
                    return []
                if wait is None:
                    raise DataError(
                        f"{url} cannot be read: {type(error).__name__}: {error}; try again later"
                    ) from error
                time.sleep(wait)
            else:
                return [str(info[key]) for key in _CHANGED_BY if info.get(key)]
        raise AssertionError("unreachable")

    def _located(self, url: str) -> tuple[Any, str]:
        protocol = url.partition("://")[0]
        filesystem = self._filesystem(protocol)
        if isinstance(filesystem, Exception):
            raise filesystem
        return filesystem, filesystem._strip_protocol(url)

    def _filesystem(self, protocol: str) -> Any:
        """The file system of a protocol, without a memory of listings; or the reason why there is none."""
        if protocol not in self._filesystems:
            options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
            if protocol == "s3" and os.environ.get("AWS_NO_SIGN_REQUEST", "").upper() in ("YES", "TRUE", "ON", "1"):
                options["anon"] = True
            try:
                self._filesystems[protocol] = fsspec.filesystem(protocol, **options)
            except (ImportError, ValueError) as error:
                self._filesystems[protocol] = error
        return self._filesystems[protocol]


def _asked(name: str) -> str | None:
    """The URL to ask for: of a remote file, or of another file system that fsspec knows."""
    if (url := remote_url(name)) is not None:
        return url
    is_url = "://" in name and not name.startswith(("<", "/")) and local_file(name) is None
    return name if is_url and name.partition("://")[0] in fsspec.available_protocols() else None


def _beside(url: str) -> list[str]:
    """Files beside a remote one that are read along with it."""
    if "?" in url:
        return []
    stem, dot, ending = url.rpartition(".")
    if dot and ending.lower() == "shp":
        return [f"{stem}{end}" for end in BESIDE_SHAPES]
    return [f"{url}{end}" for end in BESIDE_RASTERS] if f".{ending.lower()}" not in VECTOR_ENDINGS else []


def _status(error: BaseException) -> int | None:
    """The HTTP status that fsspec hides behind its own errors."""
    status = getattr(error, "status", None) or getattr(error.__cause__, "status", None)
    return status if isinstance(status, int) else None


def _is_missing(error: Exception) -> bool:
    """Tell whether a store says that there is no such file; fsspec says so, too, where a server does not answer."""
    status = _status(error)
    if status is not None:
        return status in _NOT_THERE
    return isinstance(error, FileNotFoundError) and not _is_unreachable(error.__cause__)


def _may_pass(error: Exception) -> bool:
    """Tell whether another try may tell more; not where GDAL alone has the credentials, or a package is missing."""
    status = _status(error)
    if status is not None:
        return status not in _NOT_TOLD
    if isinstance(error, PermissionError | ImportError):
        return False
    return _is_unreachable(error) or isinstance(error, FileNotFoundError)


def _is_unreachable(error: BaseException | None) -> bool:
    name = type(error).__name__
    return isinstance(error, OSError | TimeoutError) or "Connect" in name or "Timeout" in name

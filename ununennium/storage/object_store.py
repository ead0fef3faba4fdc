"""A folder on an object store, or anything else that fsspec reaches, as storage."""

from __future__ import annotations

import contextlib
import os
import tempfile
import threading
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import IO, Any, ClassVar

from ununennium.errors import ConfigError, StorageError, StorageUnavailable
from ununennium.storage.base import CHUNK_BYTES, Entry, Leftover, check_key, folder_of
from ununennium.storage.errors import translated_errors
from ununennium.storage.s3_client import ATTEMPTS, PUT_OPTIONS, s3_options

_S3 = ("s3", "s3a")
_FEW = 10
_UNSORTED = "--x-s3"
"""Suffix of the names of S3's directory buckets, whose listings are in no order."""
_WRITER = "ununennium-writer"
_TIMES = ("LastModified", "last_modified", "mtime", "updated", "created")


class ObjectStorage:
    """A folder on an fsspec filesystem, such as S3, Google Cloud Storage or Azure.

    The filesystem is this object's own and keeps no listings: fsspec's default shares instances between threads and
    remembers listings for ever, so that what another process wrote stays invisible. A process that was forked makes
    another one, as connections cannot be shared; pickled, only the URL travels.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._opened: tuple[int, Any, str] | None = None
        self._is_s3 = url.partition("://")[0] in _S3
        self._filesystem()

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self._url,))

    @property
    def root(self) -> str:
        return self._url

    @property
    def is_remote(self) -> bool:
        return True

    @property
    def creates_exclusively(self) -> bool:
        """Tell whether the filesystem has an exclusive create; fsspec's stand-in looks first, then writes."""
        from fsspec.asyn import AsyncFileSystem
        from fsspec.spec import AbstractFileSystem

        kind = type(self._fs)
        if issubclass(kind, AsyncFileSystem):
            return kind._pipe_file is not AsyncFileSystem._pipe_file
        return kind.pipe_file is not AbstractFileSystem.pipe_file

    @contextlib.contextmanager
    def draft(self) -> Iterator[tuple[Path, IO[bytes]]]:
        with tempfile.NamedTemporaryFile(prefix="ununennium-save-") as file:
            yield Path(file.name), file

    def put_file(self, local: Path, key: str) -> None:
        with open(local, "rb"):  # a local file that is missing is no matter of the storage's
            pass
        with translated_errors("written", self.url(key)):
            self._fs.put_file(str(local), self._path(key), **(PUT_OPTIONS if self._is_s3 else {}))

    def create(self, key: str, data: bytes) -> None:
        token = uuid.uuid4().hex
        options = {"Metadata": {_WRITER: token}} if self._is_s3 else {}
        try:
            with translated_errors("created", self.url(key)):
                self._fs.pipe_file(self._path(key), data, mode="create", **options)
        except FileExistsError:
            if not options or self._writer_of(key) != token:
                raise  # else the client tried again after an answer was lost, and met what it had created itself

    def _writer_of(self, key: str) -> str | None:
        """On S3, the token of the ``create`` that made an object; None where it has none, or nobody can tell."""
        bucket, path, _ = self._fs.split_path(self._path(key))
        try:
            with translated_errors("read", self.url(key)):
                head = self._fs.call_s3("head_object", Bucket=bucket, Key=path)
        except (FileNotFoundError, StorageError):
            return None
        return dict(head.get("Metadata") or {}).get(_WRITER)

    def read_bytes(self, key: str) -> bytes:
        with translated_errors("read", self.url(key)):
            return bytes(self._fs.cat_file(self._path(key)))

    def chunks(self, key: str) -> Iterator[bytes]:
        size, path = self.size(key), self._path(key)
        for start in range(0, size, CHUNK_BYTES):
            end = min(size, start + CHUNK_BYTES)
            with translated_errors("read", self.url(key)):
                data = bytes(self._fs.cat_file(path, start=start, end=end))
            if len(data) != end - start:
                raise StorageUnavailable(f"{self.url(key)} gave {len(data)} bytes instead of {end - start}")
            yield data

    def list(self, prefix: str = "") -> list[str]:
        return [entry.key for entry in self.entries(prefix)]

    def first(self, prefix: str = "") -> str | None:
        key, is_certain = self._first_of_page(prefix) if self._is_s3 else (None, False)
        return key if is_certain else next(iter(self.list(prefix)), None)

    def _first_of_page(self, prefix: str) -> tuple[str | None, bool]:
        """On S3, ``first`` by one request, where all of a long log would take several; and whether it is certain."""
        bucket, start = self._bucket_and_folder()
        if bucket.endswith(_UNSORTED):
            return None, False
        with translated_errors("listed", self.root):
            try:
                page = self._fs.call_s3("list_objects_v2", Bucket=bucket, Prefix=start + prefix, MaxKeys=_FEW)
            except FileNotFoundError:
                return None, True
        found = [str(entry["Key"])[len(start) :] for entry in page.get("Contents") or []]
        key = next((key for key in found if not _is_folder(key)), None)
        return key, found == sorted(found) and (key is not None or not page.get("IsTruncated"))

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        with translated_errors("listed", self.root):
            try:
                found = self._find(prefix)
            except FileNotFoundError:
                return
        start = len(self._path_of_root) + 1
        for path in sorted(found):
            key = str(path)[start:]
            if key.startswith(prefix) and not _is_folder(key):
                yield Entry(key, int(found[path].get("size") or 0), _modified(found[path]))

    def _find(self, prefix: str) -> dict[str, Any]:
        """All files of the folder of ``prefix``; on S3 only those that begin with it."""
        folder = f"{self._path_of_root}/{folder_of(prefix)}".rstrip("/")
        only = {"prefix": prefix.rpartition("/")[2]} if self._is_s3 else {}
        return dict(self._fs.find(folder, detail=True, **only))

    def leftovers(self) -> Iterator[Leftover]:
        """Uploads in parts that were begun and not ended; only S3 tells of them."""
        if not self._is_s3:
            return
        bucket, folder = self._bucket_and_folder()
        place: dict[str, Any] = {"Bucket": bucket, "Prefix": folder}
        while True:
            with translated_errors("listed", self.root):
                page = self._fs.call_s3("list_multipart_uploads", **place)
            for upload in page.get("Uploads") or []:
                key = str(upload["Key"])[len(place["Prefix"]) :]
                yield Leftover(key, "an upload in parts that never ended", _modified(upload), str(upload["UploadId"]))
            if not page.get("IsTruncated"):
                return
            place |= {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}

    def discard(self, leftover: Leftover) -> None:
        bucket, key, _ = self._fs.split_path(self._path(leftover.key))
        with translated_errors("deleted", self.url(leftover.key)), contextlib.suppress(FileNotFoundError):
            self._fs.call_s3("abort_multipart_upload", Bucket=bucket, Key=key, UploadId=leftover.token)

    def exists(self, key: str) -> bool:
        try:
            self.size(key)
        except FileNotFoundError:
            return False
        return True

    def size(self, key: str) -> int:
        with translated_errors("read", self.url(key)):
            info = self._fs.info(self._path(key))
            if info["type"] != "file":
                raise FileNotFoundError(self.url(key))
            return int(info["size"])

    def delete(self, key: str) -> None:
        with translated_errors("deleted", self.url(key)), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(key))

    def url(self, key: str) -> str:
        return f"{self._url}/{key}"

    @property
    def _fs(self) -> Any:
        return self._filesystem()[0]

    @property
    def _path_of_root(self) -> str:
        return self._filesystem()[1]

    def _filesystem(self) -> tuple[Any, str]:
        """This process's filesystem, and the root's path on it."""
        if self._opened is not None and self._opened[0] == os.getpid():
            return self._opened[1], self._opened[2]
        import fsspec
        from fsspec.core import url_to_fs

        options: dict[str, Any] = {"use_listings_cache": False, "skip_instance_cache": True}
        try:
            filesystem, path = url_to_fs(self._url, **options, **(s3_options() if self._is_s3 else {}))
        except ImportError as error:
            raise ConfigError("storage", self._url, f"needs a package that is not installed: {error}") from error
        except ConfigError:
            raise
        except ValueError as error:
            known = ", ".join(sorted(fsspec.available_protocols()))
            raise ConfigError("storage", self._url, f"{error}; fsspec knows {known}") from error
        except TypeError as error:  # the filesystem needs arguments that no URL holds
            remedy = f"this kind of storage cannot be opened by a URL alone: {error}"
            raise ConfigError("storage", self._url, remedy) from error
        except Exception as error:  # each filesystem raises what it likes about the parts of its URLs
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            remedy = "give a folder, or a URL such as 's3://bucket/prefix'"
            raise ConfigError("storage", self._url, f"cannot be opened ({reason}); {remedy}") from error
        if self._is_s3:
            filesystem.retries = ATTEMPTS
        root = str(path).rstrip("/")
        self._opened = (os.getpid(), filesystem, root)
        return filesystem, root

    def _bucket_and_folder(self) -> tuple[str, str]:
        """On S3: the bucket, which may be an access point's name with a ``/``, and what all keys begin with there."""
        bucket, folder, _ = self._fs.split_path(self._path_of_root)
        return bucket, f"{folder}/" if folder else ""

    def _path(self, key: str) -> str:
        return f"{self._path_of_root}/{check_key(key)}"


class MemoryStorage(ObjectStorage):
    """A folder in this process's memory, for tests and trials; gone with the process.

    fsspec's own memory filesystem shows a file while it is being written, hands every reader the same file object,
    and looks before it creates; three methods mend that.
    """

    _creating: ClassVar[threading.Lock] = threading.Lock()

    @property
    def is_remote(self) -> bool:
        return False

    def put_file(self, local: Path, key: str) -> None:
        with translated_errors("written", self.url(key)):
            self._fs.pipe_file(self._path(key), local.read_bytes())

    def create(self, key: str, data: bytes) -> None:
        with self._creating:
            super().create(key, data)

    def chunks(self, key: str) -> Iterator[bytes]:
        data = self.read_bytes(key)
        for start in range(0, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES]


def _is_folder(key: str) -> bool:
    """Tell whether an object only stands for a folder, as consoles make them."""
    return not key or key.endswith("/")


def _modified(info: Mapping[str, Any]) -> float | None:
    """Time at which an object was written, by whichever name its filesystem has for that."""
    value = next((info[name] for name in (*_TIMES, "Initiated") if info.get(name) is not None), None)
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            value = datetime.fromisoformat(value)
    if isinstance(value, datetime):
        return value.timestamp()
    return float(value) if isinstance(value, int | float) else None

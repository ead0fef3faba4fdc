"""A folder on an object store, or anything else that fsspec reaches, as storage."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from ununennium.checkpoints.storage import CHUNK_BYTES, check_key, folder_of, translated_errors
from ununennium.errors import ConfigError


class ObjectStorage:
    """A folder on an fsspec filesystem, such as S3, Google Cloud Storage or Azure.

    The filesystem is this object's own and keeps no listings: fsspec's default shares instances between threads and
    remembers listings for ever, so that what another process wrote stays invisible.
    """

    _PUT_OPTIONS: ClassVar[dict[str, dict[str, Any]]] = {
        "s3": {"chunksize": CHUNK_BYTES, "max_concurrency": 2},  # s3fs's own defaults take 1 GB for a 500 MB file
    }

    def __init__(self, url: str) -> None:
        import fsspec
        from fsspec.core import url_to_fs

        self._url = url.rstrip("/")
        try:
            self._fs, path = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
        except ImportError as error:
            raise ConfigError("storage", url, f"needs a package that is not installed: {error}") from error
        except ValueError as error:
            known = ", ".join(sorted(fsspec.available_protocols()))
            raise ConfigError("storage", url, f"{error}; fsspec knows {known}") from error
        self._path_of_root = str(path).rstrip("/")
        protocol = self._fs.protocol
        protocols = (protocol,) if isinstance(protocol, str) else tuple(protocol)
        self._put_options = next((self._PUT_OPTIONS[p] for p in protocols if p in self._PUT_OPTIONS), {})

    @property
    def root(self) -> str:
        return self._url

    @property
    def creates_exclusively(self) -> bool:
        """Whether the filesystem has an exclusive create of its own; fsspec's stand-in looks first, then writes."""
        from fsspec.asyn import AsyncFileSystem
        from fsspec.spec import AbstractFileSystem

        kind = type(self._fs)
        if issubclass(kind, AsyncFileSystem):
            return kind._pipe_file is not AsyncFileSystem._pipe_file
        return kind.pipe_file is not AbstractFileSystem.pipe_file

    def put_file(self, local: Path, key: str) -> None:
        with translated_errors("written", self.url(key)):
            self._fs.put_file(str(local), self._path(key), **self._put_options)

    def create(self, key: str, data: bytes) -> None:
        with translated_errors("created", self.url(key)):
            self._fs.pipe_file(self._path(key), data, mode="create")

    def read_bytes(self, key: str) -> bytes:
        with translated_errors("read", self.url(key)):
            return bytes(self._fs.cat_file(self._path(key)))

    def chunks(self, key: str) -> Iterator[bytes]:
        with (
            translated_errors("read", self.url(key)),
            self._fs.open(self._path(key), "rb", block_size=CHUNK_BYTES) as file,
        ):
            while chunk := file.read(CHUNK_BYTES):
                yield chunk

    def list(self, prefix: str = "") -> list[str]:
        with translated_errors("listed", self.root):
            try:
                paths = self._fs.find(f"{self._path_of_root}/{folder_of(prefix)}".rstrip("/"))
            except FileNotFoundError:
                return []
        start = len(self._path_of_root) + 1
        return sorted(key for key in (str(path)[start:] for path in paths) if key and key.startswith(prefix))

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

    def _path(self, key: str) -> str:
        return f"{self._path_of_root}/{check_key(key)}"


class MemoryStorage(ObjectStorage):
    """A folder in this process's memory, for tests and trials; gone with the process.

    fsspec's own memory filesystem shows a file while it is being written, hands every reader the same file object,
    and looks before it creates; three methods mend that.
    """

    _creating: ClassVar[threading.Lock] = threading.Lock()

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

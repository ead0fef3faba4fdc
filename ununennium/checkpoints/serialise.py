"""A state as a file, hashed on its way to the disk; and a state copied, so that training may go on meanwhile."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, cast

import torch
from torch import Tensor

from ununennium.errors import CheckpointError
from ununennium.storage.errors import translated_full_disk

_LARGE_BYTES = 1 << 16
_CHUNK = 1 << 20
_FORCE_BYTES = 32 << 20
_crc32_setting = threading.Lock()
_force_data: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


class Sink:
    """A writable file that counts what passes, and keeps the first error of the file below it.

    Args:
        file: file to write to.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.size_bytes = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        try:
            written = self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise
        self.size_bytes += written
        return written

    def flush(self) -> None:
        self._file.flush()


class HashingSink(Sink):
    """A ``Sink`` that hashes what passes, and forces it to the disk.

    Args:
        file: file to write to.
        threads: two threads, which hash a large piece while it is written, and force to the disk what has been
            written, so that all three go on at once; None does one after the other.
    """

    def __init__(self, file: IO[bytes], threads: Executor | None = None) -> None:
        super().__init__(file)
        self._threads = threads
        self._digest = hashlib.sha256()
        self._forced_bytes = 0
        self._forcing: Future[None] | None = None

    def write(self, data: Any) -> int:
        hashing = None
        if self._threads is not None and len(data) >= _LARGE_BYTES:
            hashing = self._threads.submit(self._digest.update, data)
        try:
            written = super().write(data)
            self._force_ahead()
        except OSError as error:
            self.error = self.error or error
            raise
        finally:
            if hashing is None:
                self._digest.update(data)
            else:
                hashing.result()  # the data is the caller's, who may free it once this returns
        return written

    def force(self) -> None:
        """To the disk itself: a full or failing one speaks up here."""
        if self._forcing is not None:
            self._forcing.result()  # the system tells an error once, perhaps to this one
        self._file.flush()
        os.fsync(self._file.fileno())

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def _force_ahead(self) -> None:
        """Let the disk begin, instead of leaving everything to the end."""
        if self._threads is None or self.size_bytes - self._forced_bytes < _FORCE_BYTES:
            return
        if self._forcing is not None:
            if not self._forcing.done():
                return
            self._forcing.result()
        self._forced_bytes = self.size_bytes
        self._forcing = self._threads.submit(_force_data, self._file.fileno())


def write_state(state: Mapping[str, Any], path: Path, file: IO[bytes]) -> tuple[int, str]:
    """Write ``state`` into ``file``, and force it to the disk; returns its length and SHA-256.

    Args:
        state: state that ``sanitise`` returned.
        path: path of ``file``, for the error message.
        file: open for writing.

    Raises:
        StorageError: the disk is full.
        CheckpointError: the state cannot be serialised.
    """
    with ThreadPoolExecutor(2, "checkpoint-hash") as threads:
        sink = HashingSink(file, threads)
        with _translated(sink, path):
            _save(state, sink)
            sink.force()
    return sink.size_bytes, sink.sha256


def spill_state(state: Mapping[str, Any], path: Path, file: IO[bytes]) -> None:
    """Write ``state`` into ``file`` as fast as the system takes it: neither hashed nor forced to the disk.

    The arguments and what is raised are those of ``write_state``.
    """
    sink = Sink(file)
    with _translated(sink, path):
        _save(state, sink)
        sink.flush()


def hash_of(path: Path) -> tuple[int, str]:
    """Length and SHA-256 of a file."""
    digest, size_bytes = hashlib.sha256(), 0
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size_bytes += len(chunk)
    return size_bytes, digest.hexdigest()


def _save(state: Mapping[str, Any], sink: Sink) -> None:
    with _without_crc32():
        torch.save(state, cast(IO[bytes], sink))


@contextlib.contextmanager
def _translated(sink: Sink, path: Path) -> Iterator[None]:
    """The errors of writing a state; torch reports a failed write as a RuntimeError about positions."""
    try:
        yield
    except Exception as error:
        if sink.error is not None:
            with translated_full_disk(str(path)):
                raise sink.error from error
        if isinstance(error, OSError):
            with translated_full_disk(str(path)):
                raise
        raise CheckpointError(f"the state cannot be serialised: {type(error).__name__}: {error}") from error


@contextlib.contextmanager
def _without_crc32() -> Iterator[None]:
    """Let ``torch.save`` leave out the CRC-32 of each tensor, which takes longer than SHA-256 does.

    ``torch.load`` never looks at it, and our readers compare the SHA-256 of the whole file. The setting is the whole
    process's in some versions of torch, so it is changed by one thread at a time.
    """
    with _crc32_setting:
        before = torch.serialization.get_crc32_options()
        torch.serialization.set_crc32_options(False)
        try:
            yield
        finally:
            torch.serialization.set_crc32_options(before)


def read_state(path: Path, url: str) -> dict[str, Any]:
    """State that ``write_state`` wrote, on the CPU; no code in the file is ever run.

    Raises:
        CheckpointError: the file is no state of a run.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise CheckpointError(f"{url} cannot be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{url} holds a {type(state).__name__}, not the state of a run")
    return state


class Snapshots:
    """Copies of states, in memory that is used again for the next one: of one state at a time.

    The memory is pinned where a state lies on a GPU, so that the copy runs at the speed of the bus.
    """

    def __init__(self) -> None:
        self._buffers: dict[tuple[Any, ...], list[Tensor]] = {}

    def copy(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """A copy of what ``sanitise`` returned, on the CPU; whatever an earlier call returned is overwritten."""
        free = {kind: list(buffers) for kind, buffers in self._buffers.items()}
        done: dict[tuple[Any, ...], Tensor] = {}

        def copied(value: Any) -> Any:
            if isinstance(value, Tensor):
                return tensor(value)
            if isinstance(value, dict):
                return {key: copied(each) for key, each in value.items()}
            if isinstance(value, list | tuple) and not isinstance(value, torch.Size):
                return type(value)(copied(each) for each in value)
            return value

        def tensor(value: Tensor) -> Tensor:
            if value.layout is not torch.strided or value.is_quantized:
                return value.detach().to("cpu", copy=True)
            memory = (value.untyped_storage().data_ptr(), value.storage_offset(), value.shape, value.stride())
            shared = (*memory, value.dtype, value.device)  # weights that are tied stay so
            if value.numel() and shared in done:
                return done[shared]
            pinned = value.is_cuda
            kind = (value.shape, value.dtype, value.stride(), pinned)
            if free.get(kind):
                buffer = free[kind].pop()
            else:
                buffer = torch.empty_like(value, device="cpu", pin_memory=pinned)
                self._buffers.setdefault(kind, []).append(buffer)
            done[shared] = buffer.copy_(value, non_blocking=True)
            return buffer

        with torch.no_grad():
            result = {key: copied(value) for key, value in state.items()}
        for device in {key[-1] for key in done if key[-1].type == "cuda"}:
            torch.cuda.current_stream(device).synchronize()
        return result

"""Opening rasters and reading windows of them, with GDAL's memory bounded."""

from __future__ import annotations

import ctypes
import html
import itertools
import os
import re
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.env import ensure_env_with_credentials, getenv, hasenv
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from ununennium.data.scenes import remote
from ununennium.data.scenes.delivered import DRIVERS_VARIABLE, check_file, drivers_for
from ununennium.errors import DataError

T = TypeVar("T")

GDAL_CACHE_BYTES = 64 * 2**20
"""Bound of GDAL's cache of decoded blocks, per process; GDAL's own is 5 % of the machine's memory in every process."""
GDAL_REGION_CACHE_BYTES = 12 * 2**20
"""The same for reads of whole blocks, which are not read again."""
MAX_OPEN = 12
"""Rasters that a process keeps open, and the dates of a stack if those are more: they are read one after the other.
Each holds a decoded block, often of 2 MB. With 32 scenes of 512 x 512 were read no faster."""


def bounded_cache(num_bytes: int = GDAL_CACHE_BYTES, path: str = "") -> AbstractContextManager[Any]:
    """GDAL reads in here keep at most ``num_bytes`` of decoded blocks, unless the user set a bound.

    Where ``path`` is remote, GDAL's options for servers are set too.

    The environment variable ``GDAL_CACHEMAX`` (in MB) and an enclosing ``rasterio.Env(GDAL_CACHEMAX=...)`` (in bytes)
    are the user's.
    """
    options: dict[str, Any] = remote.gdal_options() if remote.is_remote(path) else {}
    if "GDAL_CACHEMAX" not in os.environ and not (hasenv() and "GDAL_CACHEMAX" in getenv()):
        options["GDAL_CACHEMAX"] = num_bytes
    environment: AbstractContextManager[Any] = rasterio.Env(**options) if options else nullcontext()
    return environment


class UnreadableError(DataError):
    """A part of a raster cannot be read: it is damaged, or its server gave up."""


def open_dataset(path: str, what: str) -> Any:
    """A rasterio dataset; a scene without georeference is nothing to warn of.

    Args:
        path: path or URL.
        what: names it in the message, such as ``image of scene 'a'``.

    Raises:
        DataError: it is missing, cannot be read, or is refused by ``ununennium.data.scenes.delivered``.
    """
    drivers = drivers_for(path)
    check_file(path, what)
    with warnings.catch_warnings(), bounded_cache(path=path):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            return remote.with_retries(path, lambda: _open(remote.gdal_path(path), drivers))
        except (RasterioIOError, OSError) as error:
            remedy = remote.remedy(path, error)
            if "not recognized as" in str(error) and drivers is not None:
                remedy += f"; {DRIVERS_VARIABLE} allows further GDAL drivers (docs/security.md)"
            raise DataError(f"{what}: {redacted_path(path)} cannot be read ({error}); {remedy}") from error


def _reader(path: str, drivers: list[str] | None) -> Any:
    """A dataset, as ``rasterio.open`` gives it, which takes the name of one driver only."""
    return DatasetReader(path, driver=drivers)


_open: Callable[[str, list[str] | None], Any] = ensure_env_with_credentials(_reader)


def redacted_path(path: str) -> str:
    """A path as messages show it: not the whole text of a virtual raster."""
    if not path.startswith("<"):
        return path
    files = list(dict.fromkeys(re.findall(r"<SourceFilename[^>]*>([^<]*)<", path)))
    return f"the virtual raster of {html.unescape(', '.join(files))}"


@contextmanager
def open_raster(path: str, what: str) -> Iterator[Any]:
    """``open_dataset``, closed at the end."""
    with open_dataset(path, what) as dataset:
        yield dataset


class LazyRaster:
    """A raster that is opened when it is first read, and again in each process that reads it.

    GDAL's handles survive neither a fork nor pickling, so this object keeps none across them. When ``MAX_OPEN`` others
    (or ``num_together``) have been read since, it is closed until it is read again.

    Args:
        path: path or URL.
        what: names it in messages, such as ``image of scene 'a'``.
        shape: (height, width) that it had when it was indexed.
        num_together: rasters that are read in turns with it, such as the dates of a stack and the labels.

    Attributes:
        num_readers: reads that go on at this moment, in this process.
    """

    def __init__(self, path: str, what: str, shape: tuple[int, int], num_together: int = 1) -> None:
        self.path = path
        self.what = what
        self.shape = shape
        self.num_together = num_together
        self.num_readers = 0
        self._dataset: Any = None
        self._pid = -1
        self._block_bytes = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_dataset": None, "_pid": -1, "num_readers": 0}

    def close(self) -> None:
        """Let go of the handle; the next read opens it again."""
        if self._dataset is not None and self._pid == os.getpid():
            self._dataset.close()
        self._dataset = None

    @property
    def dataset(self) -> Any:
        """The open rasterio dataset.

        Raises:
            DataError: the file is missing, damaged, or no longer the one that was indexed.
        """
        if self._dataset is None or self._pid != os.getpid():
            dataset = open_dataset(self.path, self.what)
            if dataset.shape != self.shape:
                dataset.close()
                raise DataError(
                    f"{self.what}: {redacted_path(self.path)} is not the file that was indexed; index it again"
                )
            height, width = dataset.block_shapes[0]
            self._block_bytes = height * width * sum(np.dtype(dtype).itemsize for dtype in dataset.dtypes)
            self._dataset, self._pid = dataset, os.getpid()
        return self._dataset

    @property
    def nodata(self) -> float | None:
        """Value for no data, as the file declares it."""
        with _open_rasters.using(self):
            value: float | None = self.dataset.nodata
        return value

    def ask(self, question: Callable[[Any], T]) -> T:
        """Result of a function of the open dataset that reads no pixels.

        Raises:
            DataError: as ``dataset``.
        """
        with _open_rasters.using(self):
            return question(self.dataset)

    def read(
        self,
        bands: Sequence[int],
        window: Window,
        *,
        with_mask: bool = False,
        masks: Sequence[int] = (),
        alpha: Sequence[int] = (),
        cache_bytes: int = GDAL_CACHE_BYTES,
    ) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
        """Pixels (bands, height, width) of a window inside the raster, and the file's mask (0 is invalid) if wanted.

        Args:
            bands: numbers from 1.
            window: inside the raster.
            with_mask: read the mask of the whole file.
            masks, alpha: otherwise the bands whose masks are read, and the alpha bands; see ``read_with_masks``.
            cache_bytes: bound of GDAL's cache; a few blocks with all their bands are kept in any case, as GDAL would
                decode them anew for each band.

        Raises:
            UnreadableError: the file cannot be read there.
        """

        def decode() -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
            dataset = self.dataset
            if with_mask:
                return read_bands(dataset, bands, window), dataset.dataset_mask(window=window)
            return read_with_masks(dataset, bands, window, masks, alpha)

        try:
            with _open_rasters.using(self):
                self.dataset  # noqa: B018 - opened outside of the retries, which it has of its own
                with bounded_cache(max(cache_bytes, 2 * self._block_bytes), self.path):
                    return remote.with_retries(self.path, decode, again=self.close)
        except (RasterioIOError, OSError) as error:
            raise UnreadableError(
                f"{self.what}: {redacted_path(self.path)} cannot be read at row {window.row_off}, column "
                f"{window.col_off} ({error}); is the file damaged?"
            ) from error


def read_bands(dataset: Any, bands: Sequence[int], window: Window) -> npt.NDArray[Any]:
    """Pixels (bands, height, width) in a type that holds those of all bands, which may each have their own.

    Args:
        dataset: an open rasterio dataset.
        bands: numbers from 1.
        window: a part of it.
    """
    dtypes = [dataset.dtypes[number - 1] for number in bands]
    if len(set(dtypes)) == 1:
        pixels: npt.NDArray[Any] = dataset.read(list(bands), window=window)
        return pixels
    dtype = np.result_type(*dtypes)
    return np.stack([dataset.read(number, window=window).astype(dtype) for number in bands])


def read_with_masks(
    dataset: Any, bands: Sequence[int], window: Window, masks: Sequence[int], alpha: Sequence[int]
) -> tuple[npt.NDArray[Any], npt.NDArray[Any] | None]:
    """Pixels (bands, height, width), and a mask (height, width) that is 0 where one of several says invalid.

    Args:
        dataset: an open rasterio dataset.
        bands: numbers from 1.
        window: a part of it.
        masks: bands whose masks hold.
        alpha: alpha bands; what is not above 0 is invalid.
    """
    pixels = read_bands(dataset, bands, window)
    found = [dataset.read_masks(number, window=window) for number in masks]
    found += [dataset.read(number, window=window) > 0 for number in alpha]
    if len(found) < 2:
        return pixels, found[0] if found else None
    return pixels, np.logical_and.reduce(found)


class _OpenRasters:
    """Those that this process has open: with thousands of scenes, all of them would take gigabytes, and all files."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._last_use: weakref.WeakKeyDictionary[LazyRaster, int] = weakref.WeakKeyDictionary()
        self._clock = itertools.count()
        self._num_closed = 0

    @contextmanager
    def using(self, raster: LazyRaster) -> Iterator[None]:
        """Keep ``raster`` open in here; close those that were used the longest ago and that nobody reads."""
        with self._lock:
            raster.num_readers += 1
            self._last_use[raster] = next(self._clock)
            most = max(MAX_OPEN, raster.num_together)
            if len(self._last_use) > most:
                idle = [other for other in self._last_use if not other.num_readers]
                for other in sorted(idle, key=self._last_use.__getitem__)[: len(self._last_use) - most]:
                    del self._last_use[other]
                    other.close()
                    self._num_closed += 1
                    if self._num_closed % MAX_OPEN == 0:
                        _give_back_memory()
        try:
            yield
        finally:
            with self._lock:
                raster.num_readers -= 1


def _give_back_memory() -> None:
    """To the system: what small objects that stay have split, blocks of the next raster do not fit into."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's alone
    if trim is not None:
        trim(0)


_open_rasters = _OpenRasters()


def _forget_open_rasters() -> None:
    """In a forked child, which opens its own; the parent's lock may have been held."""
    global _open_rasters
    _open_rasters = _OpenRasters()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_open_rasters)

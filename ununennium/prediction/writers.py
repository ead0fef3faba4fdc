"""Predicted classes or values as a cloud-optimised GeoTIFF: its name appears only when it is whole."""

from __future__ import annotations

import contextlib
import os
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypedDict, Unpack

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.errors import NotGeoreferencedWarning
from rasterio.shutil import copy as raster_copy
from rasterio.windows import Window

from ununennium.data.scenes.raster import bounded_cache
from ununennium.data.scenes.scene import Scene
from ununennium.errors import ConfigError, StorageError

NODATA = 255
PROBABILITY_STEP = 0.004
"""Of probabilities that are kept in a byte: 0 is 0, and 250 is 1."""
_BLOCK = 256

# Okabe and Ito's palette, which people with any colour vision tell apart; class 0 is a quiet grey.
COLOURS = (
    (235, 235, 235), (213, 94, 0), (0, 114, 178), (0, 158, 115), (240, 228, 66), (86, 180, 233), (204, 121, 167),
    (230, 159, 0), (0, 0, 0),
)  # fmt: skip


def colour(number: int) -> tuple[int, int, int]:
    """The colour of a class: the palette's, and beyond it one drawn from the class's number."""
    if number < len(COLOURS):
        return COLOURS[number]
    red, green, blue = np.random.default_rng(number).integers(30, 226, 3).tolist()
    return red, green, blue


class _PixelWindow(TypedDict):
    """First row and column in the scene, and size, of the part that a file holds."""

    row: int
    col: int
    height: int
    width: int


class _CogWriter:
    """Writes a window of a scene, rows at a time; use it as a context manager.

    The file is a COG with the scene's CRS. It is written beside its place under other names, read back, and moved when
    it is whole: an exception, or a disk that fills up, leaves what was there before.
    """

    _overviews = "mode"
    _predictor = "no"

    def __init__(
        self,
        path: str | Path,
        scene: Scene,
        *,
        dtype: str,
        nodata: float,
        count: int = 1,
        **window: Unpack[_PixelWindow],
    ) -> None:
        self.path = Path(path)
        self._rows = self.path.with_name(f".{self.path.name}-{os.getpid()}-rows.tmp")
        self._whole = self.path.with_name(f".{self.path.name}-{os.getpid()}-whole.tmp")
        self._profile: dict[str, Any] = {
            "driver": "GTiff",
            "count": count,
            "dtype": dtype,
            "height": window["height"],
            "width": window["width"],
            "crs": None if scene.crs is None else rasterio.CRS.from_wkt(scene.crs),
            "transform": scene.affine * rasterio.Affine.translation(window["col"], window["row"]),
            "nodata": nodata,
            "tiled": True,
            "blockxsize": _BLOCK,
            "blockysize": _BLOCK,
            "compress": "deflate",
            "bigtiff": "if_safer",
        }
        if count > 1:  # else GDAL makes red, green, blue and alpha of three or four bands of bytes
            self._profile["photometric"] = "minisblack"
        self._dataset: Any = None
        self._checksums = [0] * count

    def __enter__(self) -> Self:
        with self._translated_errors(), _quiet():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._dataset = rasterio.open(self._rows, "w", **self._profile)
            self._describe()
        return self

    def _describe(self) -> None:
        """Write what the values mean into the open dataset."""
        raise NotImplementedError

    def _write(self, row: int, values: npt.NDArray[Any]) -> None:
        bands = np.ascontiguousarray(values, self._profile["dtype"]).reshape(-1, *values.shape[-2:])
        self._checksums = [zlib.crc32(band.data, known) for band, known in zip(bands, self._checksums, strict=True)]
        _, height, width = bands.shape
        with self._translated_errors():
            self._dataset.write(bands, window=Window(0, row, width, height))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:
                with contextlib.suppress(Exception):  # what went wrong first is the error to see
                    self._dataset.close()
                return
            with self._translated_errors(), _quiet():
                self._dataset.close()
                options = {
                    "compress": "deflate",
                    "predictor": self._predictor,
                    "overview_resampling": self._overviews,
                    "blocksize": _BLOCK,
                }
                raster_copy(str(self._rows), str(self._whole), driver="COG", bigtiff="if_safer", **options)
                self._check_whole()
                os.replace(self._whole, self.path)
        finally:
            self._remove_temporary()

    def _check_whole(self) -> None:
        """Read back what was written: on a full disk GDAL may close a truncated file without a word."""
        checksums = [0] * len(self._checksums)
        with rasterio.open(self._whole) as whole:
            for top in range(0, whole.height, _BLOCK):
                bands = whole.read(window=Window(0, top, whole.width, min(_BLOCK, whole.height - top)))
                checksums = [zlib.crc32(band, known) for band, known in zip(bands, checksums, strict=True)]
        if checksums != self._checksums:
            raise OSError("what was written reads back as something else")
        with self._whole.open("rb") as file:
            os.fsync(file.fileno())

    def _remove_temporary(self) -> None:
        for file in (self._rows, self._whole):
            with contextlib.suppress(OSError):
                file.unlink()

    @contextlib.contextmanager
    def _translated_errors(self) -> Iterator[None]:
        """Say which file could not be written; GDAL's own messages name neither the file nor the disk."""
        try:
            with bounded_cache():
                yield
        except Exception as error:
            self._remove_temporary()
            reason = (error.strerror if isinstance(error, OSError) else None) or error
            raise StorageError(
                f"{self.path} cannot be written ({reason}); is there space left, and may you write there?"
            ) from error


class ClassMapWriter(_CogWriter):
    """Writes a class map of a window of a scene, rows at a time; use it as a context manager.

    The file is a COG with the scene's CRS, a colour table, class names as tags, overviews by mode, and nodata 255. It
    is written beside its place under other names, read back, and moved when it is whole: an exception, or a disk that
    fills up, leaves what was there before.

    Args:
        path: path of the file.
        scene: scene of the predicted pixels.
        row: first row of the window.
        col: first column.
        height: rows.
        width: columns.
        classes: class names; class numbers are the pixel values.

    Raises:
        ConfigError: more classes than a byte tells apart.
        StorageError: the file cannot be written; raised by every method.
    """

    def __init__(
        self, path: str | Path, scene: Scene, *, row: int, col: int, height: int, width: int, classes: Sequence[str]
    ) -> None:
        if len(classes) > NODATA:
            raise ConfigError("data.classes", f"{len(classes)} classes", f"a class map holds at most {NODATA}")
        super().__init__(path, scene, row=row, col=col, height=height, width=width, dtype="uint8", nodata=NODATA)
        self._classes = list(classes)

    def _describe(self) -> None:
        self._dataset.write_colormap(1, {n: (*colour(n), 255) for n in range(len(self._classes))})
        self._dataset.update_tags(**{f"CLASS_{number}": name for number, name in enumerate(self._classes)})
        self._dataset.set_band_description(1, "class")

    def write(self, row: int, predicted: npt.NDArray[np.integer[Any]], valid: npt.NDArray[np.bool_]) -> None:
        """Write the next rows; they come in order, and all of them.

        Args:
            row: first row, counted from the window's top.
            predicted: class numbers, any integer type, (rows, width).
            valid: bool (rows, width); nodata where False.
        """
        self._write(row, np.where(valid, predicted, NODATA))


class PresenceMapWriter(_CogWriter):
    """Writes which classes each pixel's patch shows, rows at a time; use it as a context manager.

    The file is a COG with a band for each class, which is named in its description: 1 where the class is present, 0
    where it is not, 255 without data.

    Args:
        path: path of the file.
        scene: scene of the predicted pixels.
        row: first row of the window.
        col: first column.
        height: rows.
        width: columns.
        classes: class names.

    Raises:
        StorageError: the file cannot be written; raised by every method.
    """

    def __init__(
        self, path: str | Path, scene: Scene, *, row: int, col: int, height: int, width: int, classes: Sequence[str]
    ) -> None:
        window = _PixelWindow(row=row, col=col, height=height, width=width)
        super().__init__(path, scene, **window, dtype="uint8", nodata=NODATA, count=len(classes))
        self._classes = list(classes)

    def _describe(self) -> None:
        for number, name in enumerate(self._classes, 1):
            self._dataset.set_band_description(number, name)

    def write(self, row: int, predicted: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
        """Write the next rows; they come in order, and all of them.

        Args:
            row: first row, counted from the window's top.
            predicted: 0 and 1, (K, rows, width).
            valid: bool (rows, width); nodata where False.
        """
        self._write(row, np.where(valid, predicted, NODATA))


class ProbabilityWriter(_CogWriter):
    """Writes probabilities, a band for each of some names, rows at a time; use it as a context manager.

    The file is a uint8 COG with the scene's CRS, nodata 255, and the scale that makes probabilities of its values both
    as GDAL's scale of each band and in words among the tags; the bands' descriptions are the names, overviews by the
    mean.

    Args:
        path: path of the file.
        scene: scene of the predicted pixels.
        names: of the bands, such as the classes.

    Raises:
        StorageError: the file cannot be written; raised by every method.
    """

    _overviews = "average"

    def __init__(self, path: str | Path, scene: Scene, names: Sequence[str]) -> None:
        window = _PixelWindow(row=0, col=0, height=scene.height, width=scene.width)
        super().__init__(path, scene, **window, dtype="uint8", nodata=NODATA, count=len(names))
        self._names = list(names)

    def _describe(self) -> None:
        self._dataset.scales = [PROBABILITY_STEP] * len(self._names)
        self._dataset.update_tags(SCALE=f"probability = {PROBABILITY_STEP:g} x value; {NODATA} is without data")
        for number, name in enumerate(self._names, 1):
            self._dataset.set_band_description(number, name)

    def write(self, row: int, steps: npt.NDArray[np.uint8]) -> None:
        """Write the next rows; they come in order, and all of them.

        Args:
            row: first row.
            steps: uint8 (names, rows, width), or (rows, width) of one name: probabilities in steps of 0.004, 255
                without data.
        """
        self._write(row, steps)


class ValueMapWriter(_CogWriter):
    """Writes a map of values of a window of a scene, rows at a time; use it as a context manager.

    The file is a float32 COG with the scene's CRS, the quantity's name as the band's description, overviews by the
    mean, and nodata NaN; it appears when it is whole, as a class map does.

    Args:
        path: path of the file.
        scene: scene of the predicted pixels.
        row: first row of the window.
        col: first column.
        height: rows.
        width: columns.
        name: of the quantity.
        mean: mean of the targets; written values are ``mean + std * predicted``.
        std: the same.

    Raises:
        StorageError: the file cannot be written; raised by every method.
    """

    _overviews = "average"
    _predictor = "yes"

    def __init__(
        self,
        path: str | Path,
        scene: Scene,
        *,
        row: int,
        col: int,
        height: int,
        width: int,
        name: str,
        mean: float = 0.0,
        std: float = 1.0,
    ) -> None:
        window = _PixelWindow(row=row, col=col, height=height, width=width)
        super().__init__(path, scene, **window, dtype="float32", nodata=float("nan"))
        self._name = name
        self._mean = mean
        self._std = std

    def _describe(self) -> None:
        self._dataset.set_band_description(1, self._name)

    def write(self, row: int, predicted: npt.NDArray[Any], valid: npt.NDArray[np.bool_]) -> None:
        """Write the next rows; they come in order, and all of them.

        Args:
            row: first row, counted from the window's top.
            predicted: standardised values, (rows, width).
            valid: bool (rows, width); NaN where False.
        """
        self._write(row, np.where(valid, self._mean + self._std * predicted.astype(np.float64), np.nan))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """A scene without georeference is nothing to warn of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield

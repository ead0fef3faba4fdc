"""Small real scenes, and the command line run in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from rasterio.transform import from_origin

from tests.rasters import write_raster as write
from ununennium.cli import run


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Answer]:
    """``cli("runs", "--json")`` runs a command in ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("UNUNENNIUM_WORK", raising=False)
    monkeypatch.delenv("UNUNENNIUM_STORAGE", raising=False)
    monkeypatch.setenv("NO_COLOR", "1")

    def call(*arguments: object) -> Answer:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return call


def _write_raster(
    path: Path, pixels: np.ndarray, *, crs: str | None = "EPSG:32616", nodata: float | None = None
) -> None:
    """Write (bands, rows, columns) ``pixels`` as a GeoTIFF of 1 m pixels."""
    write(path, pixels, crs=crs, transform=from_origin(500_000, 4_000_000, 1, 1), nodata=nodata)


@pytest.fixture
def write_raster() -> Callable[..., None]:
    """Writes an array as a GeoTIFF."""
    return _write_raster


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Two images with label rasters named alike, one image without, and a file that is no raster."""
    folder = tmp_path / "scenes"
    generator = np.random.default_rng(0)
    for name in ("north", "south", "lonely"):
        image = generator.integers(1, 5_000, (3, 96, 96 if name == "north" else 80), dtype=np.uint16)
        _write_raster(folder / "images" / f"{name}.tif", image)
    for name, width in (("north", 96), ("south", 80)):
        label = np.zeros((1, 96, width), np.uint8)
        label[0, 20:40, 20:40], label[0, 60:70, 60:70], label[0, :5] = 1, 2, 255
        _write_raster(folder / "labels" / f"{name}_mask.tif", label)
    (folder / "images" / "lonely.tif").unlink()
    _write_raster(folder / "images" / "lonely.tif", generator.integers(1, 5_000, (3, 50, 50), dtype=np.uint16))
    (folder / "images" / "broken.tif").write_text("this is no raster")
    return folder

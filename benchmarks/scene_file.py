"""The scene that loaders are measured on: a GeoTIFF of real Landsat pixels, and labels that tell places apart."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rasterio
from rasterio.windows import Window

SIDE = 4096
BLOCK = 512
BANDS = 4
_LANDSAT = "LC08_L1TP_224078_20200518_20200518_01_RT.TIF"
_VALID = (0, 308, 1024, 1024)  # column, row, width, height: there every pixel has data

DEFLATE: dict[str, Any] = {"compress": "deflate", "zlevel": 6, "predictor": 2}
TILED: dict[str, Any] = {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK}
VARIANTS: dict[str, dict[str, Any]] = {
    "deflate": {**DEFLATE, **TILED},
    "zstd": {"compress": "zstd", "zstd_level": 9, "predictor": 2, **TILED},
    "striped": DEFLATE,
}


def make_scene(folder: Path, variant: str, side: int = SIDE) -> tuple[Path, Path]:
    """Image and label raster of ``variant``, written unless they are there.

    The image is uint16 (4, side, side). The label of a pixel is the number of its 512-px block, row by row, so that a
    chip's target tells where the chip was cut.
    """
    folder.mkdir(parents=True, exist_ok=True)
    image, label = folder / f"{variant}-{side}.tif", folder / f"places-{side}.tif"
    profile = {"driver": "GTiff", "height": side, "width": side, "crs": "EPSG:32621"}
    profile["transform"] = rasterio.Affine(30, 0, 600000, 0, -30, 7200000)
    if not image.exists():
        _write(image, _pixels(side), {**profile, **VARIANTS[variant]})
    if not label.exists():
        rows, cols = np.indices((side, side)) // BLOCK
        places = (rows * num_columns(side) + cols).astype(np.uint8)
        _write(label, places[None], {**profile, **VARIANTS["deflate"]})
    return image, label


def num_columns(side: int = SIDE) -> int:
    """Blocks per row of the scene."""
    return -(-side // BLOCK)


def _write(path: Path, pixels: npt.NDArray[Any], profile: dict[str, Any]) -> None:
    fresh = path.with_suffix(".new.tif")
    with rasterio.open(fresh, "w", count=len(pixels), dtype=pixels.dtype, **profile) as file:
        file.write(pixels)
    fresh.replace(path)


def _pixels(side: int) -> npt.NDArray[np.uint16]:
    """A valid part of the Landsat scene, mirrored until it is large enough, with another noise in each copy.

    The file must compress as real ones do: blocks never hold two copies, and in strips a noise of one count hides them.
    """
    source = _source()
    rng = np.random.default_rng(0)
    height, width = source.shape[1:]
    times = -(-side // height), -(-side // width)
    large = np.pad(source, ((0, 0), (0, (times[0] - 1) * height), (0, (times[1] - 1) * width)), "symmetric")
    pixels = large[:, :side, :side].astype(np.int32)
    pixels += rng.integers(-1, 2, pixels.shape, dtype=np.int32)
    return np.clip(pixels, 1, 65535).astype(np.uint16)


def _source() -> npt.NDArray[np.uint16]:
    """Four bands of 1024 x 1024 pixels; the scene has three, so the last one is there again, upside down."""
    file = Path(__file__).parents[2] / "shared" / "data" / "landsat8_parana" / _LANDSAT
    if not file.exists():  # as rough as a land surface, and about as compressible
        rng = np.random.default_rng(1)
        steps = rng.normal(0, 60, (BANDS, 1024, 1024))
        return np.clip(9000 + steps + 20 * steps.cumsum(1).cumsum(2) / 1024, 1, 65535).astype(np.uint16)
    with rasterio.open(file) as scene:
        pixels = scene.read(window=Window(*_VALID))
    assert (pixels > 0).all(), f"{file}: pixels without data in {_VALID}"
    return np.concatenate([pixels, pixels[-1:, ::-1]])

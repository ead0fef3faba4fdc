"""Validity, values and order of the bands of random stacks, compared with the arrays that they were written from.

``UNUNENNIUM_EXAMPLES=500`` tries more of them than the suite does.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from ununennium.config import DataConfig
from ununennium.data import SceneReader, open_catalog

EXAMPLES = int(os.environ.get("UNUNENNIUM_EXAMPLES", "60"))
SIZE = 20
NAMES = ("red", "green", "nir", "swir")
DTYPES = ("uint8", "int16", "uint16", "float32")
GDAL_TYPES = {"uint8": "Byte", "int16": "Int16", "uint16": "UInt16", "float32": "Float32"}
TRANSFORM = rasterio.Affine(10, 0, 500000, 0, -10, 5000000)
TAGS = ((1.0, 0.0), (0.0001, 0.0), (0.0001, -0.1), (0.5, 3.0))


@dataclass
class Band:
    """One band as it was written."""

    name: str | None
    pixels: np.ndarray
    nodata: float | None = None
    tags: tuple[float, float] = (1.0, 0.0)
    mask: np.ndarray = field(default_factory=lambda: np.ones((SIZE, SIZE), bool))

    def valid(self, override: float | None) -> np.ndarray:
        nodata = self.nodata if override is None else override
        pixels = self.pixels.astype(np.float64)
        return self.mask & np.isfinite(pixels) & (True if nodata is None else pixels != nodata)


@dataclass
class Image:
    """What a scene names as its image, its bands in the file's order without alpha, and the numbers of those."""

    location: Any
    bands: list[Band]
    numbers: list[int]


class Writer:
    """Writes images of random make into a folder."""

    def __init__(self, folder: Path, draw: Any, seed: int) -> None:
        self.folder, self.draw, self.rng = folder, draw, np.random.default_rng(seed)
        self.count = 0

    def image(self, names: list[str] | None, num_bands: int) -> Image:
        kinds = ["tiff", "vrt"] + (["mapping"] if names is not None else [])
        order = self.draw(st.permutations(range(num_bands))) if names is not None else range(num_bands)
        listed = [None if names is None else names[place] for place in order]
        return getattr(self, self.draw(st.sampled_from(kinds)))(listed)

    def band(self, name: str | None, dtype: str, nodata: float | None, tags: tuple[float, float]) -> Band:
        pixels = self.rng.integers(0, 12, (SIZE, SIZE)).astype(dtype)
        if dtype == "float32" and self.draw(st.booleans()):
            pixels[self.rng.random((SIZE, SIZE)) < 0.1] = self.draw(st.sampled_from([np.nan, np.inf]))
        band = Band(name, pixels, nodata, tags)
        if nodata is not None and not np.isnan(nodata):
            pixels[self.rng.random((SIZE, SIZE)) < 0.1] = nodata
        return band

    def nodata(self, dtype: str) -> float | None:
        fitting = {"uint8": [0, 7, 255], "uint16": [0, 7, 65535], "int16": [0, 7, -9999]}
        return self.draw(st.sampled_from([None, *fitting.get(dtype, [0, 7, -9999.0, float("nan"), 2.5])]))

    def mask(self) -> np.ndarray:
        return self.rng.random((SIZE, SIZE)) > 0.2

    def tiff(self, names: list[str | None]) -> Image:
        """A GeoTIFF: one nodata value, a mask inside or beside it, an alpha band at any place."""
        dtype = self.draw(st.sampled_from(DTYPES))
        nodata = self.nodata(dtype)
        bands = [self.band(name, dtype, nodata, self.draw(st.sampled_from(TAGS))) for name in names]
        alpha_at = self.draw(st.sampled_from([None, *range(len(bands) + 1)])) if dtype != "float32" else None
        written, numbers = [band.pixels for band in bands], list(range(1, len(bands) + 1))
        if alpha_at is not None:
            alpha = self.mask()
            for band in bands:
                band.mask = band.mask & alpha
            written.insert(alpha_at, np.where(alpha, 200, 0).astype(dtype))
            numbers = [number + (number > alpha_at) for number in numbers]
        path = self.write(np.stack(written), nodata)
        with rasterio.open(path, "r+") as file:
            colours = [ColorInterp.gray] + [ColorInterp.undefined] * (len(written) - 1)
            if alpha_at is not None:
                colours[alpha_at] = ColorInterp.alpha
            file.colorinterp = colours
            for number, band in zip(numbers, bands, strict=True):
                if band.name is not None:
                    file.set_band_description(number, band.name)
            scales, offsets = [1.0] * len(written), [0.0] * len(written)
            for number, band in zip(numbers, bands, strict=True):
                scales[number - 1], offsets[number - 1] = band.tags
            file.scales, file.offsets = scales, offsets
        self.write_mask(path, bands)
        return Image(path, bands, numbers)

    def write_mask(self, path: str, bands: list[Band]) -> None:
        where = self.draw(st.sampled_from(["none", "internal", "beside"]))
        if where == "none":
            return
        mask = self.mask()
        with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=where == "internal"), rasterio.open(path, "r+") as file:
            file.write_mask(mask)
        assert Path(f"{path}.msk").exists() == (where == "beside")
        for band in bands:
            band.mask = band.mask & mask

    def vrt(self, names: list[str | None]) -> Image:
        """A VRT of files of one band: type, nodata, unit and mask of each band's own."""
        bands, text = [], []
        for number, name in enumerate(names, 1):
            dtype = self.draw(st.sampled_from(DTYPES))
            band = self.band(name, dtype, self.nodata(dtype), self.draw(st.sampled_from(TAGS)))
            source = _source(self.write(band.pixels[None], None), "1")
            inside = "" if name is None else f"<Description>{name}</Description>"
            inside += "" if band.nodata is None else f"<NoDataValue>{band.nodata}</NoDataValue>"
            inside += f"<Offset>{band.tags[1]}</Offset><Scale>{band.tags[0]}</Scale>{source}"
            if self.draw(st.booleans()):
                band.mask = self.mask()
                mask = _source(self.write((band.mask * np.uint8(255))[None], None), "1")
                inside += f'<MaskBand><VRTRasterBand dataType="Byte">{mask}</VRTRasterBand></MaskBand>'
            text.append(f'<VRTRasterBand dataType="{GDAL_TYPES[dtype]}" band="{number}">{inside}</VRTRasterBand>')
            bands.append(band)
        path = self.folder / f"{self.count}.vrt"
        path.write_text(
            f'<VRTDataset rasterXSize="{SIZE}" rasterYSize="{SIZE}"><SRS>EPSG:32633</SRS>'
            f"<GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform>{''.join(text)}</VRTDataset>"
        )
        return Image(str(path), bands, list(range(1, len(bands) + 1)))

    def mapping(self, names: list[str | None]) -> Image:
        """A mapping of names to files, or to one band of files."""
        location: dict[str, Any] = {}
        bands = []
        for name in names:
            one = self.tiff([None])
            (band,) = one.bands
            band.name = name
            bands.append(band)
            has_more = rasterio.open(one.location).count > 1
            location[str(name)] = [one.location, one.numbers[0]] if has_more else one.location
            if self.draw(st.booleans()):
                band.tags = self.draw(st.sampled_from(TAGS))
                location[str(name)] = [one.location, one.numbers[0], *band.tags]
        return Image(location, bands, list(range(1, len(bands) + 1)))

    def write(self, pixels: np.ndarray, nodata: float | None) -> str:
        self.count += 1
        path = self.folder / f"{self.count}.tif"
        profile = {"driver": "GTiff", "count": len(pixels), "height": SIZE, "width": SIZE, "dtype": pixels.dtype,
                   "crs": "EPSG:32633", "transform": TRANSFORM, "photometric": "MINISBLACK"}  # fmt: skip
        with rasterio.open(path, "w", nodata=nodata, **profile) as file:
            file.write(pixels)
        return str(path)


def _source(path: str, band: str) -> str:
    return (
        f'<SimpleSource><SourceFilename relativeToVRT="1">{Path(path).name}</SourceFilename>'
        f"<SourceBand>{band}</SourceBand></SimpleSource>"
    )


@pytest.mark.slow
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_each_band_of_each_date_is_read_by_its_own_name_unit_nodata_and_mask(data, seed):
    """correctness 77: rasterio reads what NumPy wrote; no other part of the reading is its own reference."""
    draw = data.draw
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(Path(folder), draw, seed)
        num_bands, num_dates = draw(st.integers(1, 4)), draw(st.integers(1, 3))
        names = list(NAMES[:num_bands]) if draw(st.booleans()) else None
        scenes = [[writer.image(names, num_bands) for _ in range(num_dates)] for _ in range(draw(st.integers(1, 2)))]
        first = scenes[0][0]
        chosen = (
            draw(st.lists(st.sampled_from(range(num_bands)), min_size=1, unique=True)) if draw(st.booleans()) else None
        )
        wanted = None
        if chosen is not None:
            by_name = names is not None and draw(st.booleans())
            wanted = [first.bands[place].name if by_name else first.numbers[place] for place in chosen]
        override = draw(st.sampled_from([None, None, 7.0]))
        config = DataConfig.model_validate({
            "scenes": [{"image": [image.location for image in scene], "name": str(place)}
                       for place, scene in enumerate(scenes)],
            "classes": ["a", "b"], "chip_size": 16, "bands": wanted, "nodata": override,
        })  # fmt: skip
        opened = open_catalog(config)
        band_set = opened[0].band_set(wanted)
        window = (
            draw(st.integers(-5, 15)),
            draw(st.integers(-5, 15)),
            draw(st.integers(1, 25)),
            draw(st.integers(1, 25)),
        )
        for scene, images in zip(opened, scenes, strict=True):
            pixels, valid = SceneReader(scene, band_set, override).read(*window)
            values, expected = _expected(images, first, chosen, override)
            here, inside = _cut(values, expected, window)
            np.testing.assert_array_equal(valid, inside)
            np.testing.assert_allclose(pixels, np.where(inside, here, 0.0), rtol=2e-6, atol=1e-3)


def _expected(
    images: list[Image], first: Image, chosen: list[int] | None, override: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """Values (dates x bands, size, size) in the first image's numbers, and what is valid in all of them."""
    places = range(len(first.bands)) if chosen is None else chosen
    values, valid = [], np.ones((SIZE, SIZE), bool)
    for image in images:
        for place in places:
            reference = first.bands[place]
            named = reference.name is not None
            band = next(b for b in image.bands if b.name == reference.name) if named else image.bands[place]
            meant = band.pixels.astype(np.float64) * band.tags[0] + band.tags[1]
            numbers = (meant - reference.tags[1]) / reference.tags[0]
            values.append(band.pixels.astype(np.float64) if band.tags == reference.tags else numbers)
            valid &= band.valid(override)
    return np.stack(values), valid


def _cut(values: np.ndarray, valid: np.ndarray, window: tuple[int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A window of both, padded with 0 and False."""
    row, col, height, width = window
    padded = np.pad(values, ((0, 0), (40, 40), (40, 40)))
    inside = np.pad(valid, 40)
    part = slice(row + 40, row + 40 + height), slice(col + 40, col + 40 + width)
    return padded[(slice(None), *part)], inside[part]

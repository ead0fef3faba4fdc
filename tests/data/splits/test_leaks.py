"""Pixels that validate or are held out, replaced by noise, change no batch and no statistic (correctness 77)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import torch
from rasterio.enums import ColorInterp
from rasterio.warp import transform

from ununennium.config import AugmentConfig
from ununennium.data import TRAIN, TrainingChips, build_index, compute_statistics
from ununennium.data.scenes.units import check_magnitudes

NODATA = -9


@dataclass
class Data:
    """Scenes of one kind, and the files with the pixels of each."""

    make: Any
    scenes: list[dict[str, Any]] = field(default_factory=list)
    files: list[list[str]] = field(default_factory=list)

    def add(self, image: Any, files: list[str], **profile: Any) -> None:
        name = f"s{len(self.scenes)}"
        self.scenes.append({**self.make.scene(name, **profile), "image": image, "name": name})
        self.files.append(files)

    def raster(self, name: str, seed: int, bands: int = 2, **profile: Any) -> str:
        pixels = np.random.default_rng(seed).integers(1, 1000, (bands, 256, 256)).astype(np.int16)
        pixels[:, seed * 10 : seed * 10 + 20, :50] = profile.get("nodata", 1)
        return self.make.raster(name, pixels, **profile)


def single(data: Data) -> None:
    path = data.raster("a.tif", 1, nodata=NODATA)
    data.add(path, [path])


def stack(data: Data) -> None:
    """Of three dates with a nodata value, a mask, and alpha with the bands in another order."""
    dates = [data.raster("a.tif", 1, nodata=NODATA), data.raster("b.tif", 2), data.raster("c.tif", 3, 3)]
    with rasterio.open(dates[1], "r+") as file:
        file.write_mask(np.random.default_rng(0).random((256, 256)) > 0.1)
    with rasterio.open(dates[2], "r+") as file:
        file.colorinterp = [ColorInterp.gray, ColorInterp.alpha, ColorInterp.undefined]
        file.descriptions = ("nir", "", "red")
    for date in dates[:2]:
        with rasterio.open(date, "r+") as file:
            file.descriptions = ("red", "nir")
    data.add(dates, dates)


def virtual(data: Data) -> None:
    """Bands of a VRT with nodata values of their own."""
    files = [data.raster(f"{name}.tif", seed, 1, nodata=-seed) for name, seed in (("a", 1), ("b", 2))]
    bands = "".join(
        f'<VRTRasterBand dataType="Int16" band="{number}"><NoDataValue>{-number}</NoDataValue><SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{Path(file).name}</SourceFilename><SourceBand>1</SourceBand>'
        "</SimpleSource></VRTRasterBand>"
        for number, file in enumerate(files, 1)
    )
    path = data.make.folder / "stack.vrt"
    path.write_text(
        '<VRTDataset rasterXSize="256" rasterYSize="256"><SRS>EPSG:32633</SRS>'
        f"<GeoTransform>500000, 10, 0, 5000000, 0, -10</GeoTransform>{bands}</VRTDataset>"
    )
    data.add(str(path), files)


def other_unit(data: Data) -> None:
    """A second scene elsewhere that is a mapping of files, in another unit."""
    single(data)
    elsewhere = {"transform": rasterio.Affine(10, 0, 600000, 0, -10, 5000000)}
    files = [data.raster(f"m{seed}.tif", seed, 1, nodata=NODATA, **elsewhere) for seed in (2, 3)]
    data.add({"red": [files[0], 1, 0.01, 0.0], "nir": [files[1], 1, 1.0, -20.0]}, files, **elsewhere)


def other_crs(data: Data) -> None:
    """The same ground, shifted, in the neighbouring UTM zone."""
    single(data)
    x, y = transform("EPSG:32633", "EPSG:32632", [500400], [4999700])
    zone = {"crs": "EPSG:32632", "transform": rasterio.Affine(10, 0, x[0], 0, -10, y[0])}
    path = data.raster("zone.tif", 2, **zone)
    data.add(path, [path], **zone)


@pytest.mark.parametrize("kind", [single, stack, virtual, other_unit, other_crs])
def test_noise_where_training_does_not_look_changes_nothing(make, kind):
    data = Data(make)
    kind(data)
    config = make.config(*data.scenes, split={"buffer": 6})
    index = build_index(config)
    statistics, batches = compute_statistics(index), list(_batches(index))
    rng = np.random.default_rng(7)
    for scene, files in zip(index.scenes, data.files, strict=True):
        judged = index.split.folds(scene, 0, 0, 256, 256) > TRAIN
        judged &= index.reader(scene).read_valid(0, 0, 256, 256)  # what is no data says how blocks are dealt
        for file in files:
            with rasterio.open(file, "r+") as dataset:
                colours = dataset.colorinterp
                for band in range(1, dataset.count + 1):
                    pixels = dataset.read(band)
                    if colours[band - 1] != ColorInterp.alpha:
                        pixels[judged] = rng.integers(1, 30000, int(judged.sum()))
                    dataset.write(pixels, band)
        assert judged.any()
    changed = build_index(config)
    assert changed.data_sha256 != index.data_sha256
    assert compute_statistics(changed) == statistics
    for before, after in zip(batches, _batches(changed), strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    check_magnitudes(changed.scenes, changed.band_set, None)


def _batches(index):
    """Training batches of two epochs, raw and augmented."""
    statistics = compute_statistics(index)
    augmentation = AugmentConfig(brightness=0.1, noise=0.1, scale=0.3)
    for raw in (True, False):
        chips = TrainingChips(index, statistics, chip_size=32, num_chips=40, seed=3, augmentation=augmentation, raw=raw)
        for epoch in range(2):
            batch = chips.__getitems__([(epoch, number) for number in range(40)]).batch
            named = dict(zip(("image", "target"), batch, strict=True)) if isinstance(batch, tuple) else dict(batch)
            if raw:  # pixels that are not shown are whatever the file holds: the device sets them to 0
                shown = named.get("valid", torch.ones(named["target"].shape, dtype=torch.bool))
                named["image"] = named["image"].double() * shown[:, None]
            yield {name: values.clone() for name, values in named.items()}

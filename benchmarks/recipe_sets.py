"""Six data sets that the recipe of ``init`` is measured on, made from the scenes of the shared data folder.

Three of them, ``SELECTION``, chose the rules of ``ununennium.discover.recipe``; the others, ``CONFIRMATION``, were
looked at once, after the rules stood. They differ in bands, resolution, split, share of labels and size.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.warp import reproject

from benchmarks.harness import ROOT

DATA = ROOT.parent / "shared" / "data"
PINES_CLASSES = ["unlabelled", *(f"class_{number}" for number in range(1, 17))]


@dataclass(frozen=True)
class DataSet:
    """Imagery and labels as they would lie in a folder of a user's.

    Attributes:
        make: writes the files into a folder.
        metric: of the gate; what is compared.
        source: folder below the shared data.
        settings: changes of the configuration that ``init`` writes: the split that is measured.
    """

    make: Callable[[Path], None]
    metric: str
    source: str
    settings: tuple[str, ...] = ()

    @property
    def is_there(self) -> bool:
        """Tell whether its source is on this machine."""
        return (DATA / self.source).is_dir()


def _atlanta(folder: Path) -> None:
    for name in ("atlanta_pan_05m.tif", "atlanta_buildings.tif"):
        shutil.copyfile(DATA / "spacenet_atlanta" / name, folder / name)


def _atlanta_one_metre(folder: Path) -> None:
    """Half the resolution: pixels are the mean of four, labels the building where half of the four are."""
    source = DATA / "spacenet_atlanta"
    with (
        rasterio.open(source / "atlanta_pan_05m.tif") as image,
        rasterio.open(source / "atlanta_buildings.tif") as label,
    ):
        shape = image.height // 2, image.width // 2
        settings: dict[str, Any] = {"driver": "GTiff", "count": 1, "height": shape[0], "width": shape[1],
                                    "crs": image.crs, "transform": image.transform * Affine.scale(2.0)}  # fmt: skip
        pixels = image.read(1, out_shape=shape, resampling=Resampling.average)
        buildings = label.read(1).reshape(shape[0], 2, shape[1], 2).mean((1, 3)) >= 0.5
    _write(folder / "atlanta_pan_1m.tif", pixels, {**settings, "dtype": "uint16", "nodata": 0})
    _write(folder / "atlanta_buildings.tif", buildings.astype(np.uint8), {**settings, "dtype": "uint8"})


def _pines(folder: Path) -> None:
    for name in ("indian_pines_200b.tif", "indian_pines_gt.tif"):
        shutil.copyfile(DATA / "indian_pines" / name, folder / name)


def _pines_few(folder: Path) -> None:
    """Every 17th band; the labels of half of the squares of 8 pixels, drawn once."""
    source = DATA / "indian_pines"
    with rasterio.open(source / "indian_pines_200b.tif") as image:
        bands = list(range(1, image.count + 1, 17))
        profile = {**image.profile, "count": len(bands)}
        _write(folder / "indian_pines_12b.tif", image.read(bands), profile)
    with rasterio.open(source / "indian_pines_gt.tif") as label:
        labels, profile = label.read(1), label.profile
    squares = np.random.default_rng(0).random((-(-labels.shape[0] // 8), -(-labels.shape[1] // 8))) < 0.5
    kept = np.kron(squares, np.ones((8, 8), bool))[: labels.shape[0], : labels.shape[1]]
    _write(folder / "indian_pines_gt.tif", np.where(kept, labels, 0), profile)


def _olinda(folder: Path) -> None:
    """Six bands of Landsat; sea, low land and hills by the heights of the terrain model."""
    source = DATA / "landsat7_olinda"
    with rasterio.open(source / "L7_ETMs.tif") as image, rasterio.open(source / "olinda_dem_utm25s.tif") as terrain:
        heights = np.full(image.shape, np.nan, np.float32)
        reproject(
            terrain.read(1), heights, src_transform=terrain.transform, src_crs=image.crs, dst_transform=image.transform,
            dst_crs=image.crs, dst_nodata=np.nan, resampling=Resampling.bilinear,
        )  # fmt: skip
        profile = {**image.profile, "count": 1, "dtype": "uint8", "nodata": None}
    shutil.copyfile(source / "L7_ETMs.tif", folder / "landsat7.tif")
    classes = np.digitize(heights, (0.5, 20.0)).astype(np.uint8)
    _write(folder / "landsat7_labels.tif", np.where(np.isnan(heights), 255, classes), profile)


def _parana(folder: Path) -> None:
    """Three bands of Landsat, of which seven polygons of as many classes are labelled."""
    source = DATA / "landsat8_parana"
    shutil.copyfile(source / "LC08_L1TP_224078_20200518_20200518_01_RT.TIF", folder / "landsat8.tif")
    shapes = json.loads((source / "stac_training.geojson").read_text(encoding="utf-8"))
    for feature in shapes["features"]:
        feature["properties"] = {"class": f"cover_{feature['properties']['lc']}"}
    (folder / "landsat8_labels.geojson").write_text(json.dumps(shapes), encoding="utf-8")


def _write(path: Path, pixels: np.ndarray[Any, Any], profile: dict[str, Any]) -> None:
    with rasterio.open(path, "w", **profile) as dataset:
        dataset.write(pixels if pixels.ndim == 3 else pixels[None])


_COLUMNS = (
    'data.split.holdout_regions=[{"columns": [592, null]}]',
    'data.split.validation_regions=[{"rows": [816, null], "columns": [0, 592]}]',
)
SELECTION = {
    "Atlanta, columns": DataSet(_atlanta, "IoU.buildings", "spacenet_atlanta", _COLUMNS),
    "Indian Pines": DataSet(_pines, "accuracy", "indian_pines"),
    "Olinda": DataSet(_olinda, "IoU", "landsat7_olinda"),
}
CONFIRMATION = {
    "Atlanta at 1 m, blocks": DataSet(_atlanta_one_metre, "IoU.buildings", "spacenet_atlanta"),
    "Indian Pines, 12 bands, half of the labels": DataSet(_pines_few, "accuracy", "indian_pines"),
    "Parana, seven polygons": DataSet(_parana, "IoU", "landsat8_parana"),
}
SETS = {**SELECTION, **CONFIRMATION}

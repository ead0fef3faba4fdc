"""Small real GeoTIFFs, written with rasterio, and configurations over them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.rasters import write_raster
from ununennium.config import DataConfig


class Maker:
    """Writes rasters into one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def raster(self, name: str, array: np.ndarray, **profile: Any) -> str:
        """A GeoTIFF of ``array`` (bands, rows, columns) at 10 m in UTM, unless ``profile`` says otherwise."""
        return write_raster(self.folder / name, array, **profile)

    def scene(self, name: str = "scene", size: int = 256, bands: int = 2, **profile: Any) -> dict[str, str]:
        """An image of positive noise, and labels in two classes: stripes that every block has both of."""
        rng = np.random.default_rng(len(name))
        image = rng.integers(1, 1000, (bands, size, size)).astype(np.uint16)
        label = np.broadcast_to((np.arange(size) // 8 % 2).astype(np.uint8), (1, size, size))
        return {
            "image": self.raster(f"{name}.tif", image, **profile),
            "label": self.raster(f"{name}_label.tif", np.ascontiguousarray(label), **profile),
        }

    @staticmethod
    def config(*scenes: dict[str, Any], **settings: Any) -> DataConfig:
        """A configuration with small chips and blocks."""
        split = {"block_size": 32, "buffer": 4, "validation": 0.2, "holdout": 0.2, **settings.pop("split", {})}
        values = {"scenes": list(scenes), "classes": ["even", "odd"], "chip_size": 32, "split": split, **settings}
        return DataConfig.model_validate(values)


@pytest.fixture
def make(tmp_path: Path) -> Maker:
    return Maker(tmp_path)

"""Two small scenes with labels, written with rasterio."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from ununennium.config import DataConfig
from ununennium.data import build_index, compute_statistics

SIZE = 256
NODATA = 7


@pytest.fixture
def two_scenes(tmp_path):
    """Configuration, index and statistics of two scenes far apart, each with holes in image and labels."""
    scenes = []
    for place, name in enumerate(("north", "south")):
        rng = np.random.default_rng(place)
        image = rng.integers(100, 1000, (1, SIZE, SIZE)).astype(np.uint16)
        label = rng.integers(0, 2, (1, SIZE, SIZE)).astype(np.uint8)
        image[:, rng.random((SIZE, SIZE)) < 0.1] = NODATA
        label[:, rng.random((SIZE, SIZE)) < 0.2] = 255
        paths = {}
        for kind, array in (("image", image), ("label", label)):
            path = tmp_path / f"{name}_{kind}.tif"
            transform = rasterio.Affine(10, 0, 500000, 0, -10, 5000000 - 100000 * place)
            settings = {"count": 1, "height": SIZE, "width": SIZE, "crs": "EPSG:32633", "transform": transform}
            with rasterio.open(path, "w", driver="GTiff", dtype=array.dtype, **settings) as dataset:
                dataset.write(array)
            paths[kind] = str(path)
        scenes.append({"name": name, **paths})
    config = DataConfig.model_validate(
        {
            "scenes": scenes,
            "classes": ["dark", "bright"],
            "nodata": NODATA,
            "chip_size": 32,
            "split": {"block_size": 32, "buffer": 4, "validation": 0.2, "holdout": 0.3},
        }
    )
    index = build_index(config)
    return config, index, compute_statistics(index)

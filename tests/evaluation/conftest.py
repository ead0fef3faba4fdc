"""Two small scenes with labels, written with rasterio; a prediction of them; a run."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from tests.judged_run import evaluated, new_run
from tests.rasters import write_raster
from ununennium.config import DataConfig
from ununennium.data import build_index, compute_statistics
from ununennium.data.splits.splits import HOLDOUT

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
            transform = rasterio.Affine(10, 0, 500000, 0, -10, 5000000 - 100000 * place)
            paths[kind] = write_raster(tmp_path / f"{name}_{kind}.tif", array, transform=transform)
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


@pytest.fixture
def predicted(two_scenes, tmp_path):
    """The index, and a folder in which everything is predicted rightly but one chip, of which half is."""
    _, index, _ = two_scenes
    folder = tmp_path / "prediction"
    folder.mkdir()
    wrong = None
    for scene in index.scenes:
        label = index.labels(scene).read(0, 0, scene.height, scene.width).astype(np.uint8)
        held_out = index.split.folds(scene, 0, 0, scene.height, scene.width) == HOLDOUT
        drawn = np.where(held_out, np.where(label == 255, 0, label), 255).astype(np.uint8)
        if wrong is None and held_out.any():
            row, col = (int(place) // 32 * 32 for place in np.argwhere(held_out)[len(np.argwhere(held_out)) // 2])
            wrong = scene.name, row, col
            chip = drawn[row : row + 16, col : col + 32]
            chip[chip != 255] = 1 - chip[chip != 255]
        write_raster(folder / f"{scene.name}.tif", drawn, crs=scene.crs, transform=scene.affine, nodata=255)
    return index, folder, wrong


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of which nothing has been done."""
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    return new_run(tmp_path / "storage")


@pytest.fixture
def judged(run):
    """A run that was judged."""
    evaluated(run)
    return run

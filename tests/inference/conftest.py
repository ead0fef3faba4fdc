"""Small scenes to map."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio

from tests.rasters import write_raster
from ununennium.config import SceneConfig
from ununennium.data.scenes.open import open_scene


@pytest.fixture
def make_scene(tmp_path):
    """Write an image (bands, rows, columns) as a GeoTIFF and open it as a scene."""

    def make(image, *, name="scene", crs="EPSG:32616", transform=(0.5, 0.0, 733601.0, 0.0, -0.5, 3725139.0), **profile):
        place = {"crs": crs, "transform": rasterio.Affine(*transform)}
        path = write_raster(tmp_path / f"{name}.tif", image, **place, **profile)
        return open_scene(SceneConfig(image=path))

    return make


@pytest.fixture
def scene(make_scene):
    """One band, 300 rows of 200 columns, georeferenced."""
    return make_scene(np.random.default_rng(0).normal(size=(1, 300, 200)).astype(np.float32))

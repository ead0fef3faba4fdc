"""A whole scene is mapped as its model's contract says, or refused."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
import torch
from torch import nn

from ununennium.errors import DataError
from ununennium.inference.scene import map_scene


class SecondAboveFirst(nn.Module):
    """Class 1 where the second band that it is shown is the larger one."""

    def forward(self, image):
        difference = image[:, 1:2] - image[:, :1]
        return torch.cat((-difference, difference), 1)


def contract(**changes):
    return {
        "classes": ["lower", "higher"],
        "bands": [3, 1],
        "statistics": {"mean": [10.0, 20.0], "std": [2.0, 4.0]},
        "nodata": None,
        "resolution": [0.5, 0.5],
        "crs": "EPSG:32616",
        "chip_size": 64,
        **changes,
    }


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(1, 40, (3, 300, 270)).astype(np.uint16)


def expected(pixels):
    return ((pixels[0] - 20.0) / 4 > (pixels[2] - 10.0) / 2).astype(int)


@pytest.mark.parametrize("tta", [False, True])
def test_the_map_is_the_models_answer_to_its_own_bands_and_statistics(make_scene, pixels, tmp_path, tta):
    scene = make_scene(pixels)
    told = []
    mapped = map_scene(
        SecondAboveFirst(),
        contract(),
        scene.images[0],
        tmp_path / "map.tif",
        tta=tta,
        on_rows=lambda *rows: told.append(rows),
    )
    with rasterio.open(tmp_path / "map.tif") as dataset:
        classes = dataset.read(1)
        assert dataset.tags()["CLASS_1"] == "higher"
        assert dataset.transform == scene.affine
    np.testing.assert_array_equal(classes, expected(pixels))
    assert mapped.pixels == {"lower": int((classes == 0).sum()), "higher": int((classes == 1).sum())}
    assert mapped.unmapped == 0
    assert told[-1] == (300, 300)
    assert told == sorted(told)


def test_a_model_is_applied_as_it_was_judged(make_scene, pixels, tmp_path):
    """The mean over flips and turns, if that is what its contract says and nobody says otherwise."""
    torch.manual_seed(0)
    model = torch.nn.Conv2d(2, 2, 5, padding=2)
    scene = make_scene(pixels)

    def classes(agreed, **options):
        map_scene(model, agreed, scene.images[0], tmp_path / "map.tif", **options)
        with rasterio.open(tmp_path / "map.tif") as dataset:
            return dataset.read(1)

    averaged, plain = classes(contract(), tta=True), classes(contract(), tta=False)
    assert (averaged != plain).any()
    np.testing.assert_array_equal(classes(contract()), plain)
    np.testing.assert_array_equal(classes(contract(tta=True)), averaged)
    np.testing.assert_array_equal(classes(contract(tta=True), tta=False), plain)


@pytest.mark.parametrize("tagged", [True, False])
def test_pixels_without_data_are_not_mapped_by_the_files_tag_or_the_contract(make_scene, pixels, tmp_path, tagged):
    pixels[0, :50, :60] = 99
    scene = make_scene(pixels, **({"nodata": 99} if tagged else {}))
    agreed = contract(nodata=None if tagged else 99.0)
    mapped = map_scene(SecondAboveFirst(), agreed, scene.images[0], tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as dataset:
        assert (dataset.read(1)[:50, :60] == 255).all()
    assert mapped.unmapped == 50 * 60
    assert sum(mapped.pixels.values()) == 300 * 270 - 50 * 60


def test_a_scene_without_enough_bands_is_refused(make_scene, pixels, tmp_path):
    scene = make_scene(pixels[:2])
    with pytest.raises(DataError, match=r"the model reads bands \[3, 1\].*no band 3"):
        map_scene(SecondAboveFirst(), contract(), scene.images[0], tmp_path / "map.tif")


def test_a_scene_of_another_resolution_is_refused(make_scene, pixels, tmp_path):
    scene = make_scene(pixels)
    with pytest.raises(DataError, match=r"pixels of 0\.5 .* trained on 2 \(2 m on the ground, not 0\.5\); resample"):
        map_scene(SecondAboveFirst(), contract(resolution=[2.0, 2.0]), scene.images[0], tmp_path / "map.tif")
    assert not (tmp_path / "map.tif").exists()


def test_a_scene_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.tif cannot be read"):
        map_scene(SecondAboveFirst(), contract(), str(tmp_path / "nowhere.tif"), tmp_path / "map.tif")

"""Places are said as people say them. correctness 83."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
import rasterio

from ununennium.config import SceneConfig
from ununennium.data.describe import scene_facts
from ununennium.data.scenes.open import open_scene
from ununennium.data.scenes.places import crs_text, pixel_text, resolution_text, size_text, window_text
from ununennium.evaluation.block_sums import BlockScene, BlockSums
from ununennium.evaluation.slices import slices_of

GEOD = pyproj.Geod(ellps="WGS84")
ALBERS = "+proj=aea +lat_1=-10 +lat_2=-25.5 +lat_0=-17 +lon_0=178 +x_0=400000 +datum=WGS84 +units=m"


@pytest.mark.parametrize(("crs", "text"), [
    ("EPSG:32616", "WGS 84 / UTM zone 16N (EPSG:32616)"), ("ESRI:54009", "World_Mollweide (ESRI:54009)"),
    ("EPSG:4326", "WGS 84 (EPSG:4326)"), (None, "none"),
    ("+proj=utm +zone=33 +datum=WGS84", "WGS 84 / UTM zone 33N (EPSG:32633)"),
    ("+proj=longlat +datum=WGS84", "WGS 84 (EPSG:4326)"),
    ("+proj=sinu +R=6371007.181 +units=m", "custom (Sinusoidal: Longitude of natural origin 0°, in m"),
    (ALBERS, "custom (Albers Equal Area: Latitude of false origin -17°, Longitude of false origin 178°, Latitude of "
     "1st standard parallel -10°, Latitude of 2nd standard parallel -25.5°, Easting at false origin 400000 m, in m, on "
     "WGS 84)"),
    ("+proj=longlat +ellps=bessel", "custom (longitude and latitude, on Bessel 1841)"),
    ("+proj=tmerc +lat_0=10 +lon_0=20 +k=0.9999 +ellps=GRS80 +units=us-ft",
     "custom (Transverse Mercator: Latitude of natural origin 10°, Longitude of natural origin 20°, Scale factor at "
     "natural origin 0.9999, in US ft, on GRS"),
])  # fmt: skip
def test_a_crs_has_its_code_or_its_method_and_parameters(crs, text):
    given = crs if crs is None else pyproj.CRS.from_user_input(crs).to_wkt()
    assert text in crs_text(given)
    assert not any(mark in crs_text(given) for mark in ("[", '"', "PROJCS", "GEOGCS"))
    if crs is not None:  # as GDAL writes it into files
        assert text.split("°")[0] in crs_text(rasterio.CRS.from_wkt(given).to_wkt())


@pytest.mark.parametrize(("longitude", "latitude"), [(15, 50), (-70, -33.4), (10, 0), (20, 78)])
def test_pixels_in_degrees_are_given_in_metres_too(make, longitude, latitude):
    grid = rasterio.Affine(0.001, 0, longitude, 0, -0.002, latitude)
    path = make.raster("a.tif", np.ones((1, 10, 20), np.uint8), crs="EPSG:4326", transform=grid)
    text = pixel_text(open_scene(SceneConfig(image=path)))
    middle = latitude - 0.01
    across = GEOD.inv(longitude, middle, longitude + 0.001, middle)[2]
    down = GEOD.inv(longitude, middle - 0.001, longitude, middle + 0.001)[2]
    north = "S" if middle < 0 else "N"
    assert text == (
        f"0.001 ° wide, 0.002 ° high ({across:.3g} m wide, {down:.3g} m high at {abs(middle):.1f}° {north})"
    )


def test_pixels_of_other_units():
    assert resolution_text("EPSG:32633", [10, 10]) == "10 m"
    assert resolution_text("EPSG:2263", [1, 2]) == "1 US ft wide, 2 US ft high"
    assert resolution_text(None, [1, 1]) == "1 pixel"
    assert resolution_text("EPSG:4326", None) == "unknown"
    assert resolution_text("EPSG:4326", [0.001, 0.001]) == "0.001 ° (111 m at the equator)"


def test_sizes_say_which_number_is_the_width(make):
    scene = open_scene(SceneConfig(image=make.raster("a.tif", np.ones((1, 30, 2000), np.uint8), crs=ALBERS)))
    facts = scene_facts(scene)
    assert facts["size"] == size_text(30, 2000) == "2,000 wide x 30 high"
    assert facts["blocks"].startswith("2,000 wide x ")
    assert facts["CRS"].startswith("custom (Albers Equal Area")
    assert window_text(660, 0, 128, 10) == "rows 660 to 787, columns 0 to 9"


def test_the_worst_blocks_lie_in_their_scene():
    """Blocks of 128 on a grid that starts 40 rows above and 100 columns left of a scene of 300 x 200."""
    scene = BlockScene("roofs", "grid", (40, 100), shape=(300, 200))
    sums = np.tile([[5.0, 5, 5, 5] + [0.0] * 8], (4, 1))
    units = BlockSums(
        "pixels", 128, (scene,), np.zeros(4, np.int64), np.array([0, 1, 2, 2]), np.array([0, 1, 2, 1]), sums
    )
    named = {part.value for part in slices_of(units, ["a", "b"]) if part.by == "block"}
    assert named == {
        "roofs rows 0 to 87, columns 0 to 27", "roofs rows 88 to 215, columns 28 to 155",
        "roofs rows 216 to 299, columns 156 to 199", "roofs rows 216 to 299, columns 28 to 155",
    }  # fmt: skip
    again = BlockSums.from_json(units.to_json())
    assert again.scenes == units.scenes
    earlier = units.to_json()
    del earlier["scenes"][0]["shape"]  # of an earlier version
    assert BlockSums.from_json(earlier).window(3) == (216, 28, 128, 128)

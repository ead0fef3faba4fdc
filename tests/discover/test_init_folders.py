"""``init`` on folders of different make: what it writes is described and planned unchanged, or the remedy passes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from rasterio.rio.main import main_group
from rasterio.transform import from_origin

from tests.rasters import write_raster
from ununennium.config import RunConfig

Cli = Callable[..., Any]
Settings = dict[str, Any]

UTM = {"crs": "EPSG:32616", "transform": from_origin(500_000, 4_000_000, 10, 10)}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path / "cache"))


def write(path: Path, pixels: np.ndarray, **profile: Any) -> Path:
    """A GeoTIFF of (bands, rows, columns) ``pixels``, in UTM with 10 m pixels unless told otherwise."""
    write_raster(path, pixels, **{**UTM, **profile})
    return path


def image(path: Path, side: int = 160, bands: int = 4, *, seed: int = 0, dtype: str = "uint16", **profile: Any) -> Path:
    rng = np.random.default_rng(seed)
    return write(path, rng.integers(1, 4000, (bands, side, side)).astype(dtype), **profile)


def squares(side: int = 160, values: tuple[int, ...] = (0, 1)) -> np.ndarray:
    """Labels (1, side, side) in squares of 12 pixels that take the values in turn."""
    number = np.arange(side) // 12
    return np.array(values, np.int16)[(number[:, None] + number) % len(values)][None]


def labels(path: Path, side: int = 160, values: tuple[int, ...] = (0, 1), dtype: str = "uint8", **profile: Any) -> Path:
    return write(path, squares(side, values).astype(dtype), **profile)


def shapes(path: Path, features: list[tuple[Settings, Settings]], crs: int = 32616) -> Path:
    """A GeoJSON of (geometry, properties) in an EPSG code."""
    path.parent.mkdir(parents=True, exist_ok=True)
    name = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:EPSG::{crs}"}}
    content = [{"type": "Feature", "geometry": geometry, "properties": about} for geometry, about in features]
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": name, "features": content}))
    return path


def at(column: float, row: float) -> list[float]:
    x, y = UTM["transform"] * (column, row)  # type: ignore[operator]
    return [x, y]


def polygon(column: float, row: float, side: float) -> Settings:
    corners = ((0, 0), (side, 0), (side, side), (0, side), (0, 0))
    return {"type": "Polygon", "coordinates": [[at(column + x, row + y) for x, y in corners]]}


def every(step: int, side: int = 160) -> list[tuple[int, int]]:
    return [(column, row) for row in range(4, side - 12, step) for column in range(4, side - 12, step)]


def one_scene(folder: Path) -> None:
    image(folder / "field.tif")
    labels(folder / "field_label.tif")


def many_scenes_of_one_name(folder: Path) -> None:
    for number in range(3):
        place = {"transform": from_origin(500_000 + 5_000 * number, 4_000_000, 10, 10)}
        image(folder / f"tile_{number}" / "image.tif", seed=number, **place)
        labels(folder / f"tile_{number}" / "mask.tif", values=(0, 1, 2), **place)


def labels_in_a_folder_below(folder: Path) -> None:
    for number in range(2):
        place = {"transform": from_origin(500_000 + 5_000 * number, 4_000_000, 10, 10)}
        image(folder / "images" / f"S2_{number}.tif", seed=number, **place)
        labels(folder / "labels" / f"S2_{number}.tif", **place)


def labels_by_suffix_without_georeference(folder: Path) -> None:
    nowhere = {"crs": None, "transform": rasterio.Affine.identity()}
    for name in ("a1", "a2", "a10"):
        image(folder / f"{name}.tif", 96, 3, dtype="uint8", seed=len(name), **nowhere)
        labels(folder / f"{name}_gt.tif", 96, (0, 1, 2), **nowhere)


def terrain_masks_and_indices_beside(folder: Path) -> None:
    image(folder / "scene.tif")
    labels(folder / "landcover.tif", values=(0, 1, 2))
    heights = np.random.default_rng(1).normal(300, 30, (1, 160, 160))
    write(folder / "dem.tif", heights.astype(np.float32))
    write(folder / "heights_m.tif", heights.astype(np.int16))
    write(folder / "ndvi.tif", np.random.default_rng(2).uniform(-0.2, 0.9, (1, 160, 160)).astype(np.float32))
    write(folder / "scene_cloudmask.tif", (squares() * 1).astype(np.uint8))


def small_scenes(folder: Path) -> None:
    for number, side in enumerate((60, 75, 130, 300)):
        place = {"transform": from_origin(500_000 + 50_000 * number, 4_000_000, 10, 10)}
        image(folder / f"s{number}.tif", side, seed=number, **place)
        labels(folder / f"s{number}_mask.tif", side, **place)


def labels_with_nodata_0(folder: Path) -> None:
    image(folder / "scene.tif")
    labels(folder / "scene_labels.tif", values=(0, 1, 2, 3), nodata=0)


def class_gaps(folder: Path) -> None:
    image(folder / "scene.tif")
    labels(folder / "worldcover.tif", values=(10, 30, 50, 80))


def masks_of_0_and_255(folder: Path) -> None:
    image(folder / "roofs.tif", bands=3, dtype="uint8")
    labels(folder / "roofs_mask.tif", values=(0, 255))


def polygons_with_classes(folder: Path) -> None:
    image(folder / "scene.tif")
    names = ("crop", "water", "forest")
    found = [(polygon(c, r, 8), {"class": names[i % 3], "id": i}) for i, (c, r) in enumerate(every(13))]
    shapes(folder / "training.geojson", [*found, (polygon(70, 70, 4), {"class": None, "id": -1})])


def lines(folder: Path) -> None:
    image(folder / "scene.tif")
    found = [
        ({"type": "LineString", "coordinates": [at(4, r), at(150, r + 3)]}, {"lanes": r}) for r in range(8, 150, 9)
    ]
    shapes(folder / "roads.geojson", found)


def points(folder: Path) -> None:
    image(folder / "scene.tif")
    found = [({"type": "Point", "coordinates": at(c, r)}, {"species": "oak"}) for c, r in every(11)]
    shapes(folder / "trees.geojson", found)


def two_coordinate_systems(folder: Path) -> None:
    for number, (zone, x) in enumerate(((32616, 700_000), (32617, 300_000))):
        place = {"crs": f"EPSG:{zone}", "transform": from_origin(x, 4_000_000, 10, 10)}
        image(folder / f"z{zone}.tif", seed=number, **place)
        labels(folder / f"z{zone}_labels.tif", **place)


def a_file_for_each_band(folder: Path) -> None:
    for number, band in enumerate(("B02", "B03", "B04", "B08")):
        image(folder / f"T16_{band}.tif", bands=1, seed=number)
    labels(folder / "T16_labels.tif")


FOLDERS: dict[Callable[[Path], None], tuple[int, list[str]]] = {
    one_scene: (1, ["background", "object"]),
    many_scenes_of_one_name: (3, ["background", "class_1", "class_2"]),
    labels_in_a_folder_below: (2, ["background", "object"]),
    labels_by_suffix_without_georeference: (3, ["background", "class_1", "class_2"]),
    terrain_masks_and_indices_beside: (1, ["background", "class_1", "class_2"]),
    small_scenes: (4, ["background", "object"]),
    labels_with_nodata_0: (1, ["class_1", "class_2", "class_3"]),
    class_gaps: (1, ["class_10", "class_30", "class_50", "class_80"]),
    masks_of_0_and_255: (1, ["background", "object"]),
    polygons_with_classes: (1, ["crop", "forest", "water"]),
    lines: (1, ["background", "roads"]),
    points: (1, ["background", "trees"]),
    two_coordinate_systems: (2, ["background", "object"]),
    a_file_for_each_band: (1, ["background", "object"]),
}


@pytest.mark.parametrize("make", FOLDERS, ids=lambda make: make.__name__)
def test_what_init_writes_is_described_and_planned_unchanged(
    make: Callable[[Path], None], cli: Cli, tmp_path: Path
) -> None:
    """correctness 82"""
    make(tmp_path / "F")
    for command in (["init", "F"], ["data", "describe", "run.yaml"], ["train", "run.yaml", "--dry-run"]):
        answer = cli(*command)
        assert answer.code == 0, (command, answer.err)
    config = RunConfig.load(tmp_path / "run.yaml")
    assert (len(config.data.scenes), config.data.classes) == FOLDERS[make]


def test_rasters_of_other_kinds_are_listed_with_the_reason(cli: Cli, tmp_path: Path) -> None:
    terrain_masks_and_indices_beside(tmp_path / "F")
    answer = cli("init", "F", "--no-check")
    reasons = {
        "dem.tif": "it looks like terrain",
        "heights_m.tif": "it looks like terrain",
        "ndvi.tif": "it looks like an index of bands",
        "scene_cloudmask.tif": "it looks like a mask or a quality layer",
    }
    for name, reason in reasons.items():
        assert f"F/{name} was left out: {reason}" in answer.err
    assert "left out" in (tmp_path / "run.yaml").read_text()


def test_guesses_are_marked_beside_their_settings(cli: Cli, tmp_path: Path) -> None:
    small_scenes(tmp_path / "F")
    assert cli("init", "F", "--no-check").code == 0
    lines = (tmp_path / "run.yaml").read_text().splitlines()
    classes = next(number for number, line in enumerate(lines) if line.startswith("  classes:"))
    assert "# Guessed: named after the label file" in lines[classes - 1]
    chips = next(number for number, line in enumerate(lines) if line.startswith("  chip_size: 48"))
    assert "the smallest scene (s0.tif) has 60 x 60 pixels" in lines[chips - 1]


def test_vector_files_that_fit_nothing_say_why(cli: Cli, tmp_path: Path) -> None:
    image(tmp_path / "F" / "scene.tif")
    far = {"type": "Polygon", "coordinates": [[[0, 0], [9, 0], [9, 9], [0, 9], [0, 0]]]}
    shapes(tmp_path / "F" / "far.geojson", [(far, {})])
    shapes(tmp_path / "F" / "none.geojson", [])
    answer = cli("init", "F")
    assert answer.code == 1
    assert (
        "far.geojson was left out: its shapes lie at x 0 to 9, y 0 to 9, scene.tif at x 500000 to 501600" in answer.err
    )
    assert "none.geojson was left out: it has no shapes" in answer.err


def test_labels_of_one_class_name_the_remedy_and_it_passes(cli: Cli, tmp_path: Path) -> None:
    image(tmp_path / "F" / "scene.tif")
    path = labels(tmp_path / "F" / "scene_roofs.tif", nodata=0)
    answer = cli("init", "F")
    assert answer.code == 1
    assert f"rio edit-info --unset-nodata {path.relative_to(tmp_path)}" in answer.err
    with rasterio.open(path, "r+") as file:
        file.nodata = None
    assert cli("init", "F").code == 0
    assert RunConfig.load(tmp_path / "run.yaml").data.classes == ["background", "roofs"]


def test_one_value_below_0_is_unlabelled(cli: Cli, tmp_path: Path) -> None:
    image(tmp_path / "F" / "scene.tif")
    labels(tmp_path / "F" / "scene_labels.tif", values=(-1, 0, 1, 2), dtype="int16")
    assert cli("init", "F").code == 0
    config = RunConfig.load(tmp_path / "run.yaml").data
    assert (config.ignore_index, len(config.classes)) == (-1, 3)


def test_a_255_beside_other_classes_is_unlabelled_and_said(cli: Cli, tmp_path: Path) -> None:
    image(tmp_path / "F" / "scene.tif")
    labels(tmp_path / "F" / "scene_labels.tif", values=(0, 1, 2, 255))
    answer = cli("init", "F")
    assert "255 was taken to be unlabelled" in answer.err
    assert RunConfig.load(tmp_path / "run.yaml").data.classes == ["background", "class_1", "class_2"]


def test_an_attribute_of_numbers_becomes_a_mapping(cli: Cli, tmp_path: Path) -> None:
    image(tmp_path / "F" / "scene.tif")
    found = [(polygon(c, r, 8), {"code": (11, 22, 33)[i % 3]}) for i, (c, r) in enumerate(every(13))]
    shapes(tmp_path / "F" / "corine.geojson", found)
    assert cli("init", "F").code == 0
    assert RunConfig.load(tmp_path / "run.yaml").data.class_values == {11: "class_11", 22: "class_22", 33: "class_33"}


def test_scenes_with_other_numbers_of_bands_are_left_out(cli: Cli, tmp_path: Path) -> None:
    for number, bands in enumerate((4, 4, 3)):
        place = {"transform": from_origin(500_000 + 5_000 * number, 4_000_000, 10, 10)}
        image(tmp_path / "F" / f"s{number}.tif", bands=bands, seed=number, **place)
        labels(tmp_path / "F" / f"s{number}_labels.tif", **place)
    answer = cli("init", "F")
    assert answer.code == 0
    assert "s2.tif was left out: it has 3 band(s), the other scenes have 4" in answer.err


def test_files_of_bands_become_one_image_with_names(cli: Cli, tmp_path: Path) -> None:
    a_file_for_each_band(tmp_path / "F")
    assert cli("init", "F", "--no-check").code == 0
    (scene,) = RunConfig.load(tmp_path / "run.yaml").data.scenes
    assert isinstance(scene.image, dict)
    assert list(scene.image) == ["B02", "B03", "B04", "B08"]
    assert scene.name == "T16"


def test_polygons_across_the_antimeridian_are_found_for_an_image_beyond_180(cli: Cli, tmp_path: Path) -> None:
    degrees = {"crs": "EPSG:4326", "transform": from_origin(179.9, -17, 0.001, 0.001)}
    image(tmp_path / "F" / "fiji.tif", **degrees)

    def square(column: float, row: float) -> Settings:
        x, y = 179.9 + 0.001 * column - 360, -17 - 0.001 * row
        ring = [[x, y], [x + 0.008, y], [x + 0.008, y - 0.008], [x, y - 0.008], [x, y]]
        return {"type": "Polygon", "coordinates": [ring]}

    shapes(tmp_path / "F" / "fields.geojson", [(square(c, r), {}) for c, r in every(15) if c > 104], crs=4326)
    assert cli("init", "F", "--no-check").code == 0
    assert RunConfig.load(tmp_path / "run.yaml").data.scenes[0].label is not None


def test_labels_on_another_grid_name_the_command_that_moves_them_and_it_passes(cli: Cli, tmp_path: Path) -> None:
    picture = image(tmp_path / "F" / "scene.tif")
    finer = from_origin(500_000, 4_000_000, 5, 5)
    path = labels(tmp_path / "F" / "scene_labels.tif", 320, (0, 1, 2), transform=finer)
    answer = cli("init", "F")
    assert answer.code == 1
    command = f"rio warp {path.relative_to(tmp_path)} F/scene_labels_on_grid.tif --like {picture.relative_to(tmp_path)}"
    assert command in answer.err
    arguments = [*command.split()[1:], "--resampling", "nearest"]
    assert CliRunner().invoke(main_group, arguments).exit_code == 0
    assert cli("init", "F").code == 0
    assert RunConfig.load(tmp_path / "run.yaml").data.scenes[0].label == str(
        tmp_path / "F" / "scene_labels_on_grid.tif"
    )


@pytest.mark.parametrize("dtype", ["float32", "int64", "uint16"])
def test_labels_of_any_type_with_whole_numbers_are_labels(cli: Cli, tmp_path: Path, dtype: str) -> None:
    image(tmp_path / "F" / "scene.tif")
    nodata = -9999 if dtype != "uint16" else 65535
    pixels = squares(values=(0, 1, 2, 1)).astype(dtype)
    pixels[:, :20] = nodata
    write(tmp_path / "F" / "scene_classes.tif", pixels, nodata=nodata)
    assert cli("init", "F").code == 0
    assert RunConfig.load(tmp_path / "run.yaml").data.classes == ["background", "class_1", "class_2"]


def test_labels_whose_crs_is_written_in_other_words_are_on_the_grid(cli: Cli, tmp_path: Path) -> None:
    image(tmp_path / "F" / "scene.tif")
    labels(tmp_path / "F" / "scene_labels.tif", crs="+proj=utm +zone=16 +datum=WGS84 +units=m +no_defs")
    assert cli("init", "F").code == 0

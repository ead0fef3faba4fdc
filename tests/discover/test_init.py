"""``ununennium init``: pairing, what is read from the files, and a configuration that documents itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ununennium.config import RunConfig
from ununennium.discover import commented_yaml, discover
from ununennium.errors import DataError

WriteRaster = Callable[..., None]


def polygons(path: Path, names: list[str | None], *, origin: float = 500_000.0) -> None:
    def square(i: int) -> list[list[list[float]]]:
        x, y = origin + 10 + 10 * i, 3_999_950.0
        return [[[x, y], [x + 5, y], [x + 5, y + 5], [x, y + 5], [x, y]]]

    features = [
        {
            "type": "Feature",
            "properties": {} if name is None else {"class": name},
            "geometry": {"type": "Polygon", "coordinates": square(i)},
        }
        for i, name in enumerate(names)
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32616"}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))


def test_images_are_paired_with_label_rasters_on_their_grid(scenes: Path, tmp_path: Path) -> None:
    found = discover(scenes, relative_to=tmp_path)
    assert found.scenes == [
        {"image": "scenes/images/north.tif", "label": "scenes/labels/north_mask.tif"},
        {"image": "scenes/images/south.tif", "label": "scenes/labels/south_mask.tif"},
    ]
    assert found.classes == ["background", "class_1", "class_2"]
    assert any("lonely.tif was left out" in note for note in found.notes)
    assert any("broken.tif was left out" in note and "cannot be read" in note for note in found.notes)


def test_polygons_over_the_image_are_labels(write_raster: WriteRaster, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(1, 9_999, (1, 90, 90), dtype=np.uint16)
    write_raster(tmp_path / "city.tif", image)
    polygons(tmp_path / "elsewhere.geojson", [None], origin=900_000.0)
    polygons(tmp_path / "roofs.geojson", [None, None])
    found = discover(tmp_path, relative_to=tmp_path)
    assert found.scenes == [{"image": "city.tif", "label": "roofs.geojson"}]
    assert found.classes == ["background", "roofs"]


def test_polygons_with_class_names_are_sparse_labels(write_raster: WriteRaster, tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", np.random.default_rng(0).integers(1, 9_999, (4, 90, 90), dtype=np.uint16))
    polygons(tmp_path / "a.geojson", ["water", "crop", "water"])
    found = discover(tmp_path, relative_to=tmp_path)
    assert found.scenes == [{"image": "a.tif", "label": "a.geojson", "label_field": "class", "outside": "unlabelled"}]
    assert found.classes == ["crop", "water"]


def test_a_border_of_zeros_without_a_tag_becomes_nodata(write_raster: WriteRaster, tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(1, 9_999, (2, 90, 90), dtype=np.uint16)
    image[:, :, :20] = 0
    label = np.zeros((1, 90, 90), np.uint8)
    label[0, 40:60, 40:60] = 1
    write_raster(tmp_path / "a_label.tif", label)
    write_raster(tmp_path / "a.tif", image)
    assert discover(tmp_path, relative_to=tmp_path).settings["nodata"] == 0.0
    write_raster(tmp_path / "a.tif", image, nodata=0)
    assert "nodata" not in discover(tmp_path, relative_to=tmp_path).settings


def test_a_folder_without_labels_is_a_clear_error(write_raster: WriteRaster, tmp_path: Path) -> None:
    write_raster(tmp_path / "a.tif", np.random.default_rng(0).integers(1, 9_999, (1, 90, 90), dtype=np.uint16))
    with pytest.raises(DataError, match=r"holds no image with labels \(1 images, 0 label rasters, 0 vector files\)"):
        discover(tmp_path, relative_to=tmp_path)


def test_the_sample_scene_is_found(atlanta: Path) -> None:
    found = discover(atlanta, relative_to=atlanta)
    assert found.scenes == [{"image": "atlanta_pan_05m.tif", "label": "atlanta_buildings.tif"}]
    assert found.classes == ["background", "buildings"]


def test_sparse_polygons_of_a_real_scene_are_found(shared_data: Path) -> None:
    found = discover(shared_data / "landsat8_parana", relative_to=shared_data)
    assert {Path(str(scene["label"])).suffix for scene in found.scenes} == {".gpkg"}
    assert all("polygons" in str(scene["label"]) for scene in found.scenes)
    assert found.classes == ["crop", "developed", "tree", "water"]
    assert found.settings["nodata"] == 0.0


def test_init_writes_a_configuration_that_loads(cli: Callable[..., Any], scenes: Path, tmp_path: Path) -> None:
    answer = cli("init", scenes, "-o", tmp_path / "run.yaml", "--name", "fields")
    assert answer.code == 0, answer.err
    config = RunConfig.load(tmp_path / "run.yaml")
    assert config.name == "fields"
    assert [Path(scene.image).resolve() for scene in config.data.scenes] == [
        scenes / "images" / "north.tif",
        scenes / "images" / "south.tif",
    ]
    assert "lonely.tif was left out" in answer.err
    assert "--dry-run" in answer.err


def test_every_setting_is_documented_in_the_file(cli: Callable[..., Any], scenes: Path, tmp_path: Path) -> None:
    assert cli("init", scenes).code == 0
    text = (tmp_path / "run.yaml").read_text(encoding="utf-8")

    def sections(model: Any) -> list[Any]:
        inner = [f.annotation for f in model.model_fields.values() if hasattr(f.annotation, "model_fields")]
        return [model, *(deeper for one in inner if one.__name__ != "Component" for deeper in sections(one))]

    for section in sections(RunConfig):
        for name, about in section.model_fields.items():
            assert about.description is not None
            assert f"# {about.description.splitlines()[0]}" in text, name
            assert f"{name}:" in text


def test_commented_yaml_reads_back_equal(tmp_path: Path) -> None:
    config = RunConfig.load(Path(__file__).parents[2] / "examples" / "atlanta" / "run.yaml")
    (tmp_path / "copy.yaml").write_text(commented_yaml(config, header="two\nlines"), encoding="utf-8")
    assert RunConfig.load(tmp_path / "copy.yaml") == config


def test_init_does_not_write_over_a_file(cli: Callable[..., Any], scenes: Path, tmp_path: Path) -> None:
    (tmp_path / "run.yaml").write_text("mine")
    answer = cli("init", scenes)
    assert answer.code == 2
    assert "--force" in answer.err
    assert (tmp_path / "run.yaml").read_text() == "mine"
    assert cli("init", scenes, "--force").code == 0


def test_a_folder_that_is_not_there_is_one_line(cli: Callable[..., Any], tmp_path: Path) -> None:
    answer = cli("init", tmp_path / "nowhere")
    assert answer.code == 1
    assert answer.err.count("\n") == 1
    assert "is not a folder" in answer.err

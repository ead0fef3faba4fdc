"""``data describe``: facts of scenes, classes per fold, warnings, a map, on small scenes and on the real ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml

Cli = Callable[..., Any]


@pytest.fixture(autouse=True)
def _wide(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("UNUNENNIUM_CACHE", str(tmp_path / "cache"))


def configuration(path: Path, scenes: list[dict[str, Any]], classes: list[str], **data: Any) -> Path:
    """A file with paths, classes and bands, and nothing else."""
    path.write_text(yaml.safe_dump({"name": "some", "data": {"scenes": scenes, "classes": classes, **data}}))
    return path


@pytest.fixture
def two(scenes: Path, tmp_path: Path) -> Path:
    """Two scenes on one grid, of 96 x 96 and 96 x 80 pixels, which therefore share ground."""
    pairs = [
        {"image": f"scenes/images/{name}.tif", "label": f"scenes/labels/{name}_mask.tif"} for name in ("north", "south")
    ]
    return configuration(tmp_path / "run.yaml", pairs, ["ground", "roof", "road"], chip_size=32)


def test_scenes_classes_and_folds(cli: Cli, two: Path) -> None:
    answer = cli("data", "describe", two)
    assert answer.code == 0, answer.err
    lines = [" ".join(line.split()) for line in answer.out.splitlines()]
    assert "CRS WGS 84 / UTM zone 16N (EPSG:32616)" in lines  # what both have in common is said once
    assert "pixel 1 m" in lines
    assert any(line.startswith("north 96 wide x 96 high") for line in lines)
    assert any(line.startswith("south 80 wide x 96 high") for line in lines)
    assert any(line.startswith("overlap north and south share 100.0 %") for line in lines)
    for number, name in enumerate(["ground", "roof", "road"]):
        row = next(line for line in lines if line.startswith(name)).split()
        counts = [int(text.replace(",", "")) for text in row[1::3]]
        pixels = 0
        for scene in ("north", "south"):
            with rasterio.open(f"scenes/labels/{scene}_mask.tif") as dataset:
                pixels += int((dataset.read(1) == number).sum())
        assert len(counts) == 3
        assert 0 < sum(counts) <= pixels  # the buffer belongs to no fold


def test_the_map_and_the_polygons_are_where_it_says(cli: Cli, two: Path, tmp_path: Path) -> None:
    answer = cli("data", "describe", two, "-o", "looked/at")
    files = {line.split()[0]: Path(line.split()[1]) for line in answer.out.splitlines()[-2:]}
    assert files == {"map": Path("looked/at/split.png"), "polygons": Path("looked/at/split.geojson")}
    assert (tmp_path / files["map"]).read_bytes().startswith(b"\x89PNG")
    features = json.loads((tmp_path / files["polygons"]).read_text())["features"]
    assert {feature["properties"]["fold"] for feature in features} == {"validation", "holdout"}


def test_inputs_are_not_written_over(cli: Cli, two: Path, tmp_path: Path) -> None:
    """correctness 80: labels and the file of the split, under the names that are written."""
    settings = yaml.safe_load(two.read_text())
    (tmp_path / "one").mkdir()
    shutil.copy("scenes/labels/north_mask.tif", "one/split.png")  # GDAL reads by content
    settings["data"]["scenes"][0]["label"] = "one/split.png"
    two.write_text(yaml.safe_dump(settings))
    before = Path("one/split.png").read_bytes()
    answer = cli("data", "describe", two, "-o", "one")
    assert answer.code == 2
    assert "the map of the folds is the input" in answer.err
    assert Path("one/split.png").read_bytes() == before
    assert sorted(Path("one").iterdir()) == [Path("one/split.png")]


@pytest.mark.slow
def test_the_map_has_the_colours_of_all_folds_and_of_the_buffer(cli: Cli, two: Path) -> None:
    from matplotlib.image import imread

    from ununennium.evaluation.split_picture import FOLD_COLOURS

    cli("data", "describe", two, "-o", "here")
    picture = (imread("here/split.png")[..., :3] * 255).round().astype(int)
    left = picture[: int(picture.shape[0] * 0.9), : picture.shape[1] // 2]  # without the legend
    hue = left - left.mean(-1, keepdims=True)  # the image behind it darkens a colour, and leaves its hue
    for fold, colour in FOLD_COLOURS.items():
        wanted = np.array(colour) - np.mean(colour)
        near = np.abs(hue - 0.62 * wanted).max(-1) < 6
        if fold == 0:
            near &= (left.mean(-1) > 100) & (left.mean(-1) < 240)  # grey, but neither white paper nor black ink
        assert near.sum() > 200, (fold, near.sum())


def test_settings_can_be_tried_on_the_command_line(cli: Cli, two: Path) -> None:
    answer = cli("data", "describe", two, "data.split.block_size=32", "data.split.buffer=3")
    assert "blocks of 32 px (32 m), buffer of 3 px (3 m)" in answer.out
    wrong = cli("data", "describe", two, "data.split.blocks=32")
    assert wrong.code == 2
    assert "data.split.blocks = 32: there is no such setting" in wrong.err


def test_a_second_look_reuses_the_index(cli: Cli, two: Path) -> None:
    first = cli("data", "describe", two)
    again = cli("data", "describe", two)
    assert "index reused" not in first.err
    assert "index reused: 2 scene(s)" in again.err
    assert again.out == first.out


def test_json_for_scripts(cli: Cli, two: Path) -> None:
    answer = json.loads(cli("data", "describe", two, "--json").out)
    assert [scene["valid_pixels"] for scene in answer["scenes"]] == [96 * 96, 96 * 80]
    assert answer["overlaps"] == [["north", "south", pytest.approx(1.0)]]
    assert answer["folds"].keys() == {"train", "validation", "holdout"}
    assert Path(answer["files"]["picture"]).exists()


def test_a_class_that_a_fold_lacks_is_a_warning(cli: Cli, scenes: Path, tmp_path: Path) -> None:
    scene = {"image": "scenes/images/north.tif", "label": "scenes/labels/north_mask.tif"}
    config = configuration(tmp_path / "run.yaml", [scene], ["ground", "roof", "road", "pond"], chip_size=32)
    answer = cli("data", "describe", config, "data.split.holdout_regions=[{rows: [48, 96]}]")
    lines = [" ".join(line.split()) for line in answer.out.splitlines()]
    assert any(line.startswith("warning the holdout fold has no pixel of: roof") for line in lines)
    assert "warning no fold has a pixel of: pond" in lines
    refusal = next(line for line in lines if line.startswith("warning a run refuses this"))
    assert "'road' (holdout has 100), 'pond' (no fold has any)" in refusal
    assert "data.allow_absent: [road, pond]" in refusal
    assert answer.err.count("Warning") == 0


def test_without_labels_the_scenes_are_shown_all_the_same(cli: Cli, scenes: Path, tmp_path: Path) -> None:
    config = configuration(tmp_path / "run.yaml", [{"image": "scenes/images/lonely.tif"}], ["a", "b"], chip_size=32)
    answer = cli("data", "describe", config)
    assert answer.code == 0
    assert "50 wide x 50 high" in answer.out
    assert "no scene has labels" in answer.out
    assert json.loads(cli("data", "describe", config, "--json").out)["folds"] is None


def test_scenes_are_shown_before_labels_are_refused(cli: Cli, scenes: Path, tmp_path: Path) -> None:
    """To find out what is wrong with the labels one looks at the scene."""
    scene = {"image": "scenes/images/north.tif", "label": "scenes/labels/north_mask.tif"}
    config = configuration(tmp_path / "run.yaml", [scene], ["ground", "roof"], chip_size=32)
    answer = cli("data", "describe", config)
    assert answer.code == 1
    assert "values outside the classes 0..1: 2 (100 pixels)" in answer.err
    assert "96 wide x 96 high" in answer.out


# The four folders of real scenes -------------------------------------------------------------------------------------

CORN = [
    "unlabelled",
    "alfalfa",
    "corn-notill",
    "corn-mintill",
    "corn",
    "grass-pasture",
    "grass-trees",
    "grass-mowed",
    "hay",
    "oats",
    "soy-notill",
    "soy-mintill",
    "soy-clean",
    "wheat",
    "woods",
    "buildings",
    "stone-steel",
]


def real(folder: Path, name: str, tmp_path: Path) -> Path:
    """A configuration of nothing but paths and classes."""
    atlanta, pines = folder / "spacenet_atlanta", folder / "indian_pines"
    parana, olinda = folder / "landsat8_parana", folder / "landsat7_olinda"
    polygons = str(parana / "LC08_L1TP_224078_20200518_20200518_01_RT_polygons.gpkg")
    image = str(atlanta / "atlanta_pan_05m.tif")
    scenes, classes = {
        "atlanta raster": ([{"image": image, "label": str(atlanta / "atlanta_buildings.tif")}], ["ground", "building"]),
        "atlanta vector": (
            [{"image": image, "label": str(atlanta / "atlanta_buildings.geojson")}],
            ["ground", "building"],
        ),
        "pines": (
            [{"image": str(pines / "indian_pines_200b.tif"), "label": str(pines / "indian_pines_gt.tif")}],
            CORN,
        ),
        "parana": (
            [
                {"image": str(parana / "LC08_L1TP_224077_20200518_B2B3B4.tif"), "label": polygons},
                {"image": str(parana / "LC08_L1TP_224078_20200518_20200518_01_RT.TIF"), "label": polygons},
            ],
            ["water", "crop", "tree", "developed"],
        ),
        "olinda": ([{"image": str(olinda / "L7_ETMs.tif"), "label": "hills.tif"}], ["low", "high"]),
    }[name]
    if name == "olinda":
        _hills(olinda, tmp_path / "hills.tif")
    return configuration(tmp_path / f"{name.replace(' ', '-')}.yaml", scenes, classes)


def _hills(olinda: Path, path: Path) -> None:
    """Land above 20 m, from the elevation model: the folder's land cover (lc.tif) is of another island."""
    from rasterio.warp import Resampling, reproject

    with rasterio.open(olinda / "L7_ETMs.tif") as image, rasterio.open(olinda / "olinda_dem_utm25s.tif") as dem:
        height = np.zeros(image.shape, np.float32)
        reproject(
            rasterio.band(dem, 1), height, src_crs=image.crs, dst_crs=image.crs, dst_transform=image.transform,
            resampling=Resampling.bilinear,
        )  # fmt: skip
        with rasterio.open(path, "w", **{**image.profile, "count": 1}) as label:
            label.write((height > 20).astype(np.uint8), 1)


REAL = ["atlanta raster", "atlanta vector", "pines", "parana", "olinda"]


@pytest.mark.parametrize("name", REAL)
def test_each_real_folder_needs_paths_and_classes_alone(cli: Cli, shared_data: Path, tmp_path: Path, name: str) -> None:
    answer = cli("data", "describe", real(shared_data, name, tmp_path), "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    folds = {fold: list(counts["classes"].values()) for fold, counts in found["folds"].items()}
    present = [number for number in range(len(folds["train"])) if sum(counts[number] for counts in folds.values())]
    in_all = [number for number in present if all(counts[number] for counts in folds.values())]
    assert len(in_all) >= (12 if name == "pines" else len(present))  # some fields of Indian Pines are of 20 pixels
    assert all(sum(counts) > 0.1 * sum(map(sum, folds.values())) for counts in folds.values())
    if name == "parana":
        assert [scene["outside"] for scene in found["scenes"]] == ["unlabelled"] * 2
        assert [scene["label_field"] for scene in found["scenes"]] == ["name"] * 2
        assert found["overlaps"][0][2] == pytest.approx(0.47, abs=0.01)
        for scene in found["scenes"]:
            with rasterio.open(scene["images"][0]) as dataset:
                assert scene["valid_pixels"] == int((dataset.read() != 0).all(0).sum())
    if name == "pines":
        assert "no fold has a pixel of: unlabelled" in found["notes"]
        assert any("a run refuses this" in note and "data.allow_absent: [unlabelled" in note for note in found["notes"])


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_each_real_folder_trains(
    cli: Cli, shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    answer = cli(
        "train", real(shared_data, name, tmp_path), "--json", "--set", "trainer.epochs=1",
        "--set", "trainer.device=cpu", "--set", "data.chips_per_epoch=8",
        "--set", "model={target: 'ununennium.models:UNet', kwargs: {base_channels: 8, depth: 3}}",
        "--set", f"data.allow_absent={['unlabelled'] if name == 'pines' else []}",
    )  # fmt: skip
    assert answer.code == 0, answer.err
    summary = json.loads(answer.out)
    assert summary["stop_reason"] == "completed"
    run = Path(summary["places"]["files"])
    losses = json.loads((run / "result.json").read_text())["history"]
    assert all(np.isfinite(losses[name]).all() for name in ("train_loss", "val_loss"))
    # The split lies beside the checkpoints, where a person looks for it.
    features = json.loads((run / "split.geojson").read_text())["features"]
    assert {feature["properties"]["fold"] for feature in features} == {"validation", "holdout"}

"""Settings of labels: what is refused before any file is opened, and that they survive being written and read."""

from __future__ import annotations

from pathlib import Path

import pytest

from ununennium.config import RunConfig
from ununennium.errors import ConfigError

DATA = {"scenes": [{"image": "a.tif", "label": "b.gpkg"}], "classes": ["ground", "roof"]}


def _parse(**data):
    return RunConfig.parse({"name": "roofs", "data": {**DATA, **data}})


def test_a_mapping_of_values_is_a_list_of_names_and_their_values():
    config = _parse(classes={10: "bare", 8: "built", 9: "bare"})
    assert config.data.classes == ["built", "bare"]
    assert config.data.class_values == {8: "built", 9: "bare", 10: "bare"}
    again = RunConfig.parse(config.model_dump(mode="json"))
    assert again == config
    assert _parse(classes={"8": "built", "10": "bare"}).data.class_values == {8: "built", 10: "bare"}


@pytest.mark.parametrize(
    ("data", "match"),
    [
        ({"classes": {"a": "ground", "b": "roof"}}, r"data\.classes = .*mapping of label values \(whole numbers\)"),
        ({"classes": {1: "a", 2: "b"}, "class_values": {1: "a"}}, r"data\.classes = .*without class_values"),
        ({"class_values": {3: "lake"}}, r"data\.class_values = .*'lake' is no class; data\.classes are ground, roof"),
        ({"allow_absent": ["lake"]}, r"data\.allow_absent = .*'lake' is no class"),
        ({"task": "regression", "classes": {1: "height"}}, r"data\.class_values = .*regression has no class values"),
        ({"scenes": [{"image": "a", "labelled_area": []}]}, r"labelled_area = \[\]: give at least one rectangle"),
        ({"scenes": [{"image": "a", "labelled_area": [{"scene": "a"}]}]}, r"labelled_area.*leave out their 'scene'"),
        ({"scenes": [{"image": "a", "label_buffer_m": 0}]}, r"data\.scenes\.0\.label_buffer_m = 0"),
        ({"scenes": [{"image": "a", "label_unknown": "skip"}]}, r"data\.scenes\.0\.label_unknown = 'skip'"),
    ],
)
def test_label_settings_that_cannot_work(data, match):
    with pytest.raises(ConfigError, match=match):
        _parse(**data)


def test_labelled_areas_are_taken_from_the_folder_of_the_configuration(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "name: roofs\n"
        "data:\n"
        "  classes: {0: ground, 255: roof}\n"
        "  scenes: [{image: a.tif, label: b.tif, labelled_area: area.gpkg}]\n"
        "  catalog: {folder: more, labelled_area: ../all.gpkg}\n"
    )
    data = RunConfig.load(tmp_path / "run.yaml").data
    assert data.scenes[0].labelled_area == str(tmp_path / "area.gpkg")
    assert Path(data.catalog.labelled_area).resolve() == (tmp_path.parent / "all.gpkg").resolve()
    assert data.class_values == {0: "ground", 255: "roof"}


def test_configurations_of_earlier_versions_are_read():
    """They have a value for all shapes where nobody had given one."""
    stored = _parse().model_dump(mode="json")
    for name in ("label_layer", "label_buffer_m", "label_unknown", "labelled_area"):
        del stored["data"]["scenes"][0][name]
    del stored["data"]["class_values"], stored["data"]["allow_absent"]
    stored["data"]["scenes"][0]["label_value"] = 1
    assert RunConfig.parse(stored).data.scenes[0].label_value == 1

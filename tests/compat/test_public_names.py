"""Modules, names, commands, options and settings of commit 2928e86 are still there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from tests.rasters import write_raster
from ununennium.config.data import SceneConfig
from ununennium.data.chips.memory import Decoded
from ununennium.data.chips.regions import Window
from ununennium.data.scenes.open import open_scene
from ununennium.evaluation.chips import Chip

NAMES = Path(__file__).with_name("public-names-2928e86.txt")

INTERFACE = Path(__file__).with_name("interface-2928e86.json")

REMOVED = {
    "ununennium.data.contents": {"with_companions"},
    "ununennium.data.layout": {"Layout"},
    "ununennium.data.raster": {"file_signature"},
    "ununennium.discover": {"LABEL_FIELDS", "LABEL_WORDS", "MAX_CLASSES", "Raster", "Shapes"},
    "ununennium.evaluation.bootstrap": {"drawn_sums"},
    "ununennium.evaluation.calibration": {"temperature_of"},
    "ununennium.evaluation.gate": {"Interval"},
    "ununennium.evaluation.mapped": {"pixel_m2"},
    "ununennium.inference.areas": {"pixel_areas_m2"},
    "ununennium.tasks": {"Change", "Classification", "MultiLabel", "PerPixel", "Regression", "Segmentation"},
    "ununennium.training.trainer": {"logger"},
    "ununennium.training.watch": {"in_words"},
}
"""Names of no documentation, parts of how something was computed that is computed otherwise now."""

LOOK = """
import importlib, json, sys, warnings
warnings.simplefilter("ignore", DeprecationWarning)
missing = {}
for module, names in json.load(sys.stdin).items():
    found = importlib.import_module(module)
    missing[module] = [name for name in names if not hasattr(found, name)]
json.dump(missing, sys.stdout)
"""


def read_names() -> dict[str, list[str]]:
    """Modules, and the public names of each (``list_public_names.py``)."""
    lines = (line.split() for line in NAMES.read_text(encoding="utf-8").splitlines())
    return {module.removesuffix(":"): names for module, *names in lines if module != "ununennium.__main__:"}


def test_modules_and_their_names_are_imported_as_before() -> None:
    names = read_names()
    assert len(names) > 190
    done = subprocess.run(
        [sys.executable, "-c", LOOK], input=json.dumps(names), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    missing = {module: set(names) for module, names in json.loads(done.stdout).items() if names}
    assert missing == REMOVED


def test_a_former_name_is_the_present_one_and_says_so() -> None:
    former = import_module("ununennium.data.index")
    present = r"ununennium\.data\.chips\.index\.ChipIndex"
    with pytest.warns(DeprecationWarning, match=rf"ununennium\.data\.index\.ChipIndex is {present} now"):
        found = former.ChipIndex
    assert found is import_module("ununennium.data.chips.index").ChipIndex
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = former.nothing
    with pytest.raises(ModuleNotFoundError, match=r"ununennium\.data\.never"):
        import_module("ununennium.data.never")


def test_former_arguments_and_attributes_work_with_a_warning(tmp_path: Path) -> None:
    image = tmp_path / "image.tif"
    write_raster(image, np.ones((1, 8, 8), np.uint8))
    settings = SceneConfig(image=str(image))
    with pytest.warns(DeprecationWarning, match="open_scene: the argument place is scene_index now"):
        assert open_scene(settings, place=3) == open_scene(settings, 3)
    for object_, former, present in (
        (Window(2, 0, 0, 4, 4), "place", "scene_index"),
        (Chip(2, 0, 0, 4, 4, score=0.5), "place", "scene_index"),
        (Decoded(np.zeros(1), np.ones(1), np.zeros(1)), "shown", "is_valid"),
    ):
        with pytest.warns(DeprecationWarning, match=rf"\.{former} is {present} now"):
            assert getattr(object_, former) is getattr(object_, present)


def test_commands_settings_and_flows_take_what_they_took() -> None:
    before: dict[str, list[str]] = json.loads(INTERFACE.read_text(encoding="utf-8"))
    command = [sys.executable, str(Path(__file__).with_name("interface.py"))]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    now = json.loads(subprocess.run(command, capture_output=True, check=True, env=environment).stdout)
    assert len(before) > 30
    missing = {name: set(parts) - set(now[name]) if name in now else "all" for name, parts in before.items()}
    assert {name: parts for name, parts in missing.items() if parts} == {}


def test_the_launcher_is_started_by_its_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ununennium.training.launch", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "run.json" in done.stdout

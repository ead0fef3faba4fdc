"""Every module of commit 2928e86 can still be imported by its path, with its public names."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

NAMES = Path(__file__).with_name("public-names-2928e86.txt")

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
    "ununennium.training.trainer": {"logger"},
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


def test_the_launcher_is_started_by_its_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ununennium.training.launch", "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "run.json" in done.stdout

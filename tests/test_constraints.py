"""``constraints.txt``: the versions tested together are allowed by pyproject.toml, and are those installed here."""

from __future__ import annotations

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
FREE = {"torch", "pip", "setuptools"}
"""A build of torch is the machine's choice; the others come with Python or with torch."""


def pins() -> dict[str, str]:
    """Name and version of each line."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(name): version for name, version in pairs}


def direct() -> list[Requirement]:
    """Requirements of pyproject.toml, without the project's own extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(each for extra in project["optional-dependencies"].values() for each in extra)]
    return [wanted for wanted in map(Requirement, texts) if wanted.name != project["name"]]


def test_each_direct_dependency_is_pinned_within_its_range() -> None:
    pinned = pins()
    wrong = {
        str(wanted): pinned.get(canonicalize_name(wanted.name))
        for wanted in direct()
        if wanted.name not in FREE and not wanted.specifier.contains(pinned.get(canonicalize_name(wanted.name), "0"))
    }
    assert wrong == {}
    assert not FREE & pinned.keys()


def test_what_is_tested_here_is_what_the_constraints_say() -> None:
    installed = {canonicalize_name(each.name): each.version for each in importlib.metadata.distributions()}
    assert {name: installed[name] for name in pins() if name in installed} == {
        name: version for name, version in pins().items() if name in installed
    }, "run 'make setup'"

"""The library names nobody above it, not even in a string that a process is started with."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from ununennium.processes.entry_points import Worker

ROOT = Path(__file__).parents[1]
MODULE = re.compile(r"ununennium(\.\w+)+")
ENTRY_POINTS = "processes/entry_points.py"
"""The one file that names modules above it: those that run as processes."""


def strings() -> Iterator[tuple[str, str]]:
    """Each file of the library, relative to its folder, with each string in it."""
    library = ROOT / "ununennium"
    for path in sorted(library.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.relative_to(library).as_posix(), node.value


def layer_of() -> dict[str, int]:
    """Package or module of the library to its layer in the contract of the imports, the uppermost being 0."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    layers = settings["contracts"][0]["layers"]
    return {name: number for number, layer in enumerate(layers) for name in re.findall(r"\w+", layer)}


def test_the_library_names_no_module_of_flows_infra_benchmarks_or_tests() -> None:
    above = re.compile(r"(flows|infra|benchmarks|tests)(\.\w+)*(:\w+)?")
    assert [found for found in strings() if above.fullmatch(found[1])] == []


def test_no_module_name_in_a_string_points_upwards() -> None:
    """But those in the table of programs that run as processes, each of which is there."""
    assert all(find_spec(worker) for worker in Worker)
    layers, upwards = layer_of(), []
    for file, text in strings():
        if file == ENTRY_POINTS or not MODULE.fullmatch(text) or find_spec(text) is None:
            continue
        package, named = file.split("/")[0].removesuffix(".py"), text.split(".")[1]
        if layers.get(named, 0) < layers[package]:
            upwards.append((file, text))
    assert upwards == []

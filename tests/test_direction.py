"""Imports go one way: no large circle of files, and the library names nobody above it, not even in a string."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Container, Iterator, Mapping, Set
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


def files_of(*packages: str) -> dict[str, Path]:
    """Each module of ``packages`` by its full name."""
    found = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            found[".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")] = path
    return found


def imports_of(path: Path, names: Container[str]) -> set[str]:
    """Modules out of ``names`` that a file imports anywhere: at its top, in functions, for annotations."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            given = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in names else str(node.module) for name in given}
    return {name for name in found if name in names}


def circles(graph: Mapping[str, Set[str]]) -> list[set[str]]:
    """Files that can all be reached from each other, by transitive closure."""
    reached = {name: set(targets) for name, targets in graph.items()}
    for through in graph:
        for targets in reached.values():
            if through in targets:
                targets |= reached[through]
    found: list[set[str]] = []
    for name, targets in reached.items():
        if not any(name in circle for circle in found):
            circle = {other for other in targets if name in reached[other]}
            if len(circle) > 1:
                found.append(circle)
    return found


def test_circles_are_found() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": {"d"}, "f": {"a"}, "g": {"g"}}
    assert sorted(map(sorted, circles(graph))) == [["a", "b", "c"], ["d", "e"]]


def test_no_circle_of_files_is_larger_than_five() -> None:
    files = files_of("ununennium", "flows", "infra")
    graph = {name: imports_of(path, files) - {name} for name, path in files.items()}
    assert len(graph) > 250
    assert "ununennium.config" in graph["ununennium.workers.build"]
    assert [sorted(circle) for circle in circles(graph) if len(circle) > 5] == []


def test_tasks_are_data_alone() -> None:
    files = files_of("ununennium")
    allowed = {"ununennium.errors", "ununennium.hints", "ununennium.moved"}
    assert imports_of(files["ununennium.tasks"], files) <= allowed

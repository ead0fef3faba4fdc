"""The library names nobody above it, not even in a string that a process is started with."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def strings(folder: Path) -> Iterator[tuple[str, str]]:
    """Each file of ``folder`` with each string in it."""
    for path in sorted(folder.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield path.relative_to(ROOT).as_posix(), node.value


def test_the_library_names_no_module_of_flows_infra_benchmarks_or_tests() -> None:
    above = re.compile(r"(flows|infra|benchmarks|tests)(\.\w+)*(:\w+)?")
    assert [found for found in strings(ROOT / "ununennium") if above.fullmatch(found[1])] == []

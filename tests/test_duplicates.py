"""No run of six equal lines stands twice: what two places need has one home."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
LENGTH = 6
SHORTEST = 4
"""Characters of a line that counts; shorter ones are brackets."""


def lines_of_code(file: Path) -> list[tuple[int, str]]:
    """Number and text of each line, without imports, docstrings, comments, brackets and indentation."""
    text = file.read_text(encoding="utf-8")
    left_out: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        is_constant = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
        if isinstance(node, ast.Import | ast.ImportFrom) or is_constant:
            left_out.update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    numbered = ((number, line.strip()) for number, line in enumerate(text.splitlines(), 1))
    return [
        (number, line)
        for number, line in numbered
        if len(line) >= SHORTEST and number not in left_out and not line.startswith("#")
    ]


def repeated(files: list[Path]) -> list[list[str]]:
    """Places, ``file:line``, of each run of lines that stands more than once."""
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for file in files:
        lines = lines_of_code(file)
        for start in range(len(lines) - LENGTH + 1):
            run = lines[start : start + LENGTH]
            found[tuple(line for _, line in run)].append(f"{file.name}:{run[0][0]}")
    return [places for places in found.values() if len(places) > 1]


def test_no_six_equal_lines_stand_twice() -> None:
    files = [file for package in ("ununennium", "flows", "infra") for file in sorted((ROOT / package).rglob("*.py"))]
    assert len(files) > 200
    assert repeated(files) == []


def test_equal_lines_are_found_wherever_they_are_indented(tmp_path: Path) -> None:
    body = [f"value_{number} = number * {number}" for number in range(LENGTH)]
    one, other = tmp_path / "one.py", tmp_path / "other.py"
    one.write_text("\n".join(["first = 1", *body]), encoding="utf-8")
    other.write_text("def f():\n    " + "\n\n    ".join(['"""Text."""', *body]), encoding="utf-8")
    assert repeated([one, other]) == [["one.py:2", "other.py:4"]]
    other.write_text("\n".join(body[1:]), encoding="utf-8")
    assert repeated([one, other]) == []

"""Print each module of ``ununennium`` in a source tree, with the public names that it defines, one module a line.

Usage: list_public_names.py TREE > tests/compat/public-names-2928e86.txt

Names are those without a leading underscore that the module binds at its top level, imports apart, and those of its
``__all__``.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path


def modules(tree: Path) -> Iterator[tuple[str, Path]]:
    """Dotted names of the modules, and their files."""
    for file in sorted((tree / "ununennium").rglob("*.py")):
        parts = file.relative_to(tree).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), file


def public_names(file: Path) -> list[str]:
    """Public names that the module in ``file`` defines."""
    found: set[str] = set()
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = {each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)}
            found |= names
            if "__all__" in names and node.value is not None:
                found |= set(ast.literal_eval(node.value))
    return sorted(name for name in found if not name.startswith("_"))


def main(tree: str) -> None:
    """Print the list."""
    for module, file in modules(Path(tree)):
        print(" ".join([f"{module}:", *public_names(file)]))


if __name__ == "__main__":
    main(sys.argv[1])

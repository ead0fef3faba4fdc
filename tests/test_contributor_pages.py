"""The pages for contributors are current: the diagram shows today's imports, and every file and name in them exists."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "docs"))

import draw_architecture  # noqa: E402

PAGES = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
_ROOTS = "ununennium|flows|infra|tests|docs|benchmarks|deployments|examples"
_FILE = re.compile(rf"`((?:{_ROOTS})/[\w./-]*)`")
_IN_FILE = re.compile(r"((?:`[\w.]+`(?:, | and |, and )?)+) in `([\w./-]+\.py)`")
_DOTTED = re.compile(r"`((?:ununennium|flows|infra|tests|benchmarks)(?:\.\w+)+)`")
_NOT_OF_THE_CHECKOUT = {"flows/NAME.py", "infra/compose/secrets"}


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    return draw_architecture.packages()


def test_the_diagram_shows_the_imports_of_the_code(imports) -> None:
    page = draw_architecture.PAGE.read_text(encoding="utf-8")
    renew = "run: python docs/draw_architecture.py"
    assert draw_architecture.renewed(page, imports) == page, renew
    assert draw_architecture.PICTURE.read_text(encoding="utf-8") == draw_architecture.picture(imports), renew


def test_the_page_says_what_each_package_is_for(imports) -> None:
    page = draw_architecture.PAGE.read_text(encoding="utf-8")
    section = page.partition("## Packages")[2].partition("\n## ")[0]
    described = {name.removesuffix(".py") for name in re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)}
    assert imports.keys() - described == set(), "describe these under Packages in docs/architecture.md"
    assert described - imports.keys() == set(), "these are described in docs/architecture.md and do not exist"


def test_arrows_leave_out_what_follows_from_others() -> None:
    imports = {"a": {"b", "c", "d"}, "b": {"c"}, "c": set(), "d": {"c"}}
    assert draw_architecture.arrows(imports) == [("a", "b"), ("a", "d"), ("b", "c"), ("d", "c")]
    assert draw_architecture.rows(imports) == [["a"], ["b", "d"], ["c"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_every_file_and_name_in_the_page_exists(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    missing = [file for file in _FILE.findall(text) if not (ROOT / file).exists() and file not in _NOT_OF_THE_CHECKOUT]
    for names, file in _IN_FILE.findall(text):
        missing += [f"{name} in {file}" for name in re.findall(r"`([\w.]+)`", names) if not _defines(ROOT / file, name)]
    known = (_importable, _is_event, _is_entry_point_group)
    missing += [name for name in _DOTTED.findall(text) if not any(knows(name) for knows in known)]
    assert not missing


def test_the_index_of_questions_names_files_and_what_to_read_in_them() -> None:
    page = draw_architecture.PAGE.read_text(encoding="utf-8")
    section = page.partition("## Index of questions")[2].partition("\n## ")[0]
    answers = re.findall(r"^\| [^*|]+ \| (.+) \|$", section, re.MULTILINE)[2:]
    assert len(answers) > 30
    assert all(re.search(r"\.(py|md)`|/`", answer) for answer in answers)


def _defines(file: Path, name: str) -> bool:
    """Tell whether ``file`` has the class, function, method or variable ``name``."""
    if not file.is_file():
        return False
    body: list[ast.stmt] = ast.parse(file.read_text(encoding="utf-8")).body
    for part in name.split("."):
        found = [each for each in body if part in _names(each)]
        if not found:
            return False
        body = getattr(found[0], "body", [])
    return True


def _names(statement: ast.stmt) -> list[str]:
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return [statement.name]
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _importable(name: str) -> bool:
    """Tell whether ``name`` is a module of the project, or a name that one of its modules defines."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = ROOT.joinpath(*parts[:length])
        for file in (path.with_suffix(".py"), path / "__init__.py"):
            if file.is_file():
                return length == len(parts) or _defines(file, ".".join(parts[length:]))
    return False


def _is_event(name: str) -> bool:
    return (ROOT / "flows" / "schemas" / f"{name}.json").exists()


def _is_entry_point_group(name: str) -> bool:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return name in project.get("entry-points", {})

"""The documentation's site is built as `make docs` builds it: no page left out, no link or name that leads nowhere."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROSE = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(path for path in (ROOT / "docs").rglob("*.md") if path.name != "correctness.md"),
]
_NOT_PROSE = re.compile(r"```.*?```|<!-- measured: begin -->.*?<!-- measured: end -->", re.DOTALL)
_SENTENCES = re.compile(r"(?:^[#>*|\-\d. ]*|[.!?:] +|\| +)(\**\w+)", re.MULTILINE)
_OPENINGS = {"what", "whatever", "which", "whichever", "whether", "where", "who", "whoever", "whose", "how"}
_ENTRIES = re.compile(r"^ +\w+(?: \([^)]*\))?: (\w+)", re.MULTILINE)  # of Args, Attributes and Raises


def build(site: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_the_site_holds_every_page_and_the_reference(tmp_path: Path) -> None:
    done = build(tmp_path / "site")
    assert done.returncode == 0, done.stderr
    for page in (ROOT / "docs").rglob("*.md"):
        name = page.relative_to(ROOT / "docs").with_suffix("")
        built = tmp_path / "site" / ("" if name.name == "index" else name) / "index.html"
        assert built.exists(), page.name
        assert "<p>|" not in built.read_text(encoding="utf-8"), f"a table of {page.name} is torn by an empty line"
    site = tmp_path / "site"
    home = (site / "index.html").read_text(encoding="utf-8")
    assert "Operations" in home or not (ROOT / "docs" / "operations.md").exists()
    training = (site / "reference" / "training" / "index.html").read_text(encoding="utf-8")
    assert 'id="ununennium.training.trainer.Trainer"' in training
    sources = re.findall(r"""(?:src|href)=["']?(https?://[^"'> ]+\.(?:js|css|woff2?))""", home)
    assert not sources, "a reader without internet sees the same"


def test_pictures_are_small() -> None:
    for picture in (ROOT / "docs" / "images").glob("ui-*.png"):
        assert picture.stat().st_size < 200_000, picture.name


@pytest.mark.parametrize("page", PROSE, ids=lambda path: path.name)
def test_no_heading_and_no_sentence_opens_with_a_relative_clause(page: Path) -> None:
    text = _NOT_PROSE.sub("", page.read_text(encoding="utf-8"))
    capitals = [word for word in _SENTENCES.findall(text) if word.strip("*")[:1].isupper()]
    assert capitals
    assert not [word for word in capitals if word.strip("*").lower() in _OPENINGS]


def public_docstrings(package: Path) -> Iterator[tuple[str, str]]:
    """Place and docstring of each module, class and function without an underscore in front."""
    for file in sorted(package.rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        left: list[tuple[str, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]] = [(file.name, tree)]
        while left:
            name, node = left.pop()
            if text := ast.get_docstring(node):
                yield f"{file.relative_to(ROOT)}: {name}", text
            left += [
                (f"{name}.{each.name}", each)
                for each in ast.iter_child_nodes(node)
                if isinstance(each, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
                and not each.name.startswith("_")
            ]


@pytest.mark.parametrize("package", ["ununennium", "flows"])
def test_no_public_docstring_opens_with_a_relative_clause(package: str) -> None:
    found = dict(public_docstrings(ROOT / package))
    assert len(found) > 40
    assert [
        place
        for place, text in found.items()
        if re.split(r"\W", text.lower(), maxsplit=1)[0] in _OPENINGS | {"that", "when", "why"}
    ] == []


@pytest.mark.parametrize("package", ["ununennium", "flows"])
def test_no_argument_is_described_by_a_relative_clause(package: str) -> None:
    """``whether`` stays allowed here: it is how the field's libraries describe a boolean."""
    entries = {place: _ENTRIES.findall(text) for place, text in public_docstrings(ROOT / package)}
    assert sum(map(len, entries.values())) > 30
    relative = {"what", "which", "where", "who", "whose", "whom", "that"}
    assert [place for place, words in entries.items() if relative & {word.lower() for word in words}] == []


def settings_and_helps(package: Path) -> Iterator[tuple[str, str]]:
    """Place and text of each docstring below a public field or constant, and of each ``help=`` of the command line."""
    for file in sorted(package.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                for field, after in itertools.pairwise(node.body):
                    if isinstance(field, ast.AnnAssign) and isinstance(after, ast.Expr):
                        yield f"{file.name}: {ast.unparse(field.target)}", ast.literal_eval(after.value)
            elif isinstance(node, ast.keyword) and node.arg == "help" and isinstance(node.value, ast.Constant):
                yield f"{file.name}: help", node.value.value


def test_no_setting_and_no_option_is_described_by_a_relative_clause() -> None:
    found = list(settings_and_helps(ROOT / "ununennium"))
    assert len(found) > 150
    openings = _OPENINGS | {"that", "when", "why"}
    assert [place for place, text in found if re.split(r"\W", text.lower(), maxsplit=1)[0] in openings] == []

"""What the README shows works as written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_ten_lines_of_python_train(tmp_path, monkeypatch):
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    code = code.replace("epochs=20", "epochs=1").replace('"examples/', f'"{ROOT}/examples/')
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(compile(code, "README.md", "exec"), names)
    assert len(names["history"]["val_loss"]) == 1
    assert any((tmp_path / "checkpoints").iterdir())
    statements = [line for line in code.splitlines() if line and not line.startswith(("import", "from"))]
    assert len(statements) <= 10


def test_every_link_leads_to_a_file():
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_command_line_has_every_command_that_is_shown():
    from typer.testing import CliRunner

    from ununennium.cli import app

    shown = set(re.findall(r"^ununennium (\w+)", README, re.MULTILINE))
    assert {"init", "train", "runs", "predict", "registry"} <= shown
    for command in shown:
        assert CliRunner().invoke(app, [command, "--help"]).exit_code == 0


def test_the_statements_of_correctness_are_numbered_as_agreed():
    text = (ROOT / "docs" / "correctness.md").read_text(encoding="utf-8")
    numbers = [int(number) for number in re.findall(r"^(\d+)\. ", text, re.MULTILINE)]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 1
    assert numbers[-1] >= 75
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    named = {int(n) for run in re.findall(r"correctness (\d+(?:, \d+)*)", tests) for n in re.findall(r"\d+", run)}
    assert set(numbers) <= named

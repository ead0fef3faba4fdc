"""The program that changes code to see whether tests notice: its changes, its forks, its list of equivalent mutants."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
import time
from collections import deque
from pathlib import Path
from types import ModuleType

import pytest

from benchmarks import forks, mutants, mutation

ROOT = Path(__file__).parents[1]
SOURCE = textwrap.dedent('''\
    LIMIT = 3


    class Counter:
        def __init__(self, start: int = 0) -> None:
            self.count = start

        def add(self, number: int) -> int:
            """Add ``number``, up to 10."""
            if number < 0 or self.count + number > 10:
                raise ValueError(f"{number + 1} does not fit")
            self.count += number
            return self.count
''')


def load(folder: Path) -> ModuleType:
    file = folder / "counter.py"
    file.write_text(SOURCE, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("counter", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_changes_are_those_of_functions_and_leave_messages_and_defaults_alone() -> None:
    found = {(mutant.kind, mutant.change) for mutant in mutation.candidates(SOURCE, "counter")}
    assert found == {
        ("boolean", "number < 0 or self.count + number > 10 -> number < 0 and self.count + number > 10"),
        ("comparison", "number < 0 -> number <= 0"),
        ("comparison", "self.count + number > 10 -> self.count + number >= 10"),
        ("constant", "0 -> 1"),
        ("constant", "10 -> 11"),
        ("arithmetic", "self.count + number -> self.count - number"),
        ("statement", "raise ValueError(f'{number + 1} does not fit') -> nothing"),
        ("statement", "self.count += number -> nothing"),
        ("arithmetic", "self.count += number -> self.count -= number"),
        ("return", "return self.count -> return None"),
    }


def test_the_same_changes_are_drawn_after_an_edit_elsewhere_in_the_file() -> None:
    drawn = mutation.sample(mutation.candidates(SOURCE, "counter"), 5, seed=1)
    later = mutation.sample(mutation.candidates(f"# a comment\n\n{SOURCE}", "counter"), 5, seed=1)
    assert len(drawn) == 5
    assert len({mutant.kind for mutant in drawn}) == 5
    assert [mutant.id for mutant in drawn] == [mutant.id for mutant in later]
    other = mutation.sample(mutation.candidates(SOURCE, "counter"), 5, seed=2)
    assert [mutant.id for mutant in drawn] != [mutant.id for mutant in other]


def test_a_loaded_method_takes_over_its_changed_code(tmp_path: Path) -> None:
    module = load(tmp_path)
    (change,) = [
        each for each in mutation.candidates(SOURCE, "counter") if each.change.endswith("self.count -= number")
    ]
    code = mutation.mutated(SOURCE, module.__file__, change.number)
    counter = module.Counter(5)
    assert mutation.Loaded([module.__file__]).put_into(code, only=(change.function, change.first_line)) == 1
    assert counter.add(2) == 3


def test_statements_tell_that_they_ran(tmp_path: Path) -> None:
    module = load(tmp_path)
    mutation.Loaded([module.__file__]).put_into(mutation.instrumented(SOURCE, module.__file__, 1000))
    recorder = mutation.Recorder(tmp_path / "hits")
    counter = module.Counter()
    assert recorder.take() == {1006}
    assert counter.add(4) == 4
    assert {1010, 1012, 1013} == recorder.take() - {1009}  # 1009 is the docstring
    with pytest.raises(ValueError, match="does not fit"):
        counter.add(-1)
    assert {1010, 1011} == recorder.take() - {1009}


def test_forks_that_hang_or_die_end_and_the_others_are_done() -> None:
    def hang(tell: forks.Tell) -> None:
        tell({"patience_s": 0.3})
        time.sleep(60)

    work = {"done": lambda tell: tell({"answer": 42}), "hung": hang, "died": lambda tell: os._exit(3)}
    started = time.monotonic()
    jobs = list(forks.run(deque(forks.Job(each, about=end) for end, each in work.items()), at_once=2))
    assert {job.about: job.end for job in jobs} == {end: end for end in work}
    assert next(job for job in jobs if job.about == "done").messages[0] == {"answer": 42}
    assert time.monotonic() - started < 30


TOY = """
def clamp(value, low, high):
    if value < low:
        return low
    return min(value, high)


def count_down(number):
    while number > 0:
        number -= 1
    return number


def told(number):
    return number + 1


def forgotten(number):
    return not number
"""
TOY_TESTS = """
import subprocess
import sys

from ununennium.toy import clamp, count_down


def test_values_stay_within():
    assert clamp(-1, 0, 3) == 0
    assert clamp(2, 0, 3) == 2


def test_counting_ends():
    assert count_down(3) == 0


def test_another_process_is_told():
    program = "from ununennium.toy import told; print(told(1))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "2\\n"
"""


@pytest.mark.slow
def test_mutants_die_by_failing_by_hanging_and_in_other_processes(tmp_path: Path) -> None:
    (same,) = (each for each in mutation.candidates(TOY, "toy") if each.change == "value < low -> value <= low")
    for name, text in {
        "pyproject.toml": "",
        "ununennium/__init__.py": "",
        "ununennium/toy.py": TOY,
        "tests/toy/test_toy.py": TOY_TESTS,
        "equivalent.toml": f'[[equivalent]]\nid = "{same.id}"\ntarget = "toy"\nwhy = "either gives low"\n',
        "program.py": textwrap.dedent(f"""
            import sys
            from pathlib import Path
            sys.path.append({str(ROOT)!r})
            from benchmarks import mutant_suite, mutants
            mutants.ROOT = Path(__file__).parent
            mutants.EQUIVALENT = mutants.ROOT / "equivalent.toml"
            mutants.TARGETS = {{"toy": mutants.Target("toy.py", ("toy/test_*.py",))}}
            mutant_suite._PATIENCE_S = 2.0
            sys.exit(mutants.main(["--limit", "99", "--jobs", "2", "--out", "results.jsonl"]))
        """),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    done = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    records = [json.loads(line) for line in (tmp_path / "results.jsonl").read_text(encoding="utf-8").splitlines()]
    ends = {record["change"]: (record["status"], record["how"], record["by"]) for record in records}
    assert len(records) == len(mutation.candidates(TOY, "toy"))
    assert ends["number -= 1 -> nothing"] == ("killed", "hung", "tests/toy/test_toy.py::test_counting_ends")
    assert ends["number + 1 -> number - 1"] == (
        "killed",
        "failed",
        "tests/toy/test_toy.py::test_another_process_is_told",
    )
    assert ends["value < low -> value <= low"][0] == "survived"
    assert ends["number > 0 -> number >= 0"][0] == "killed"
    assert ends["0 -> 1"][0] == "killed"
    assert ends["not number -> number"][0] == "not reached"
    assert "| toy | 14 | 11 | 1 | 2 |" in done.stdout


def test_what_is_said_to_be_equivalent_can_still_be_changed_so() -> None:
    found = {
        mutant.id: {"target": source.name, "line": mutant.text, "change": mutant.change}
        for source in mutants.sources(mutants.TARGETS, limit=0, seed=0)
        for mutant in mutation.candidates(source.text, source.name)
    }
    for number, entry in mutants.explained().items():
        assert number in found, f"the code of {entry['target']} has changed: remove {entry['line']!r} from the list"
        assert {**found[number], "id": number, "why": entry["why"]} == entry

"""The program behind `make bench`: its rows are there, a contender's failure costs only itself, the report is whole."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import textwrap
from collections import Counter
from itertools import pairwise, permutations
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as program
from benchmarks import harness, report
from benchmarks.harness import Measured, Result, Run
from benchmarks.rows import ROWS, Row

ROOT = Path(__file__).parents[1]


def measured(name: str, result: Result | None, reason: str = "") -> Measured:
    return {
        "name": name,
        "status": "failed" if result is None else "measured",
        "reason": reason,
        "effort": "full",
        "commit": "abc",
        "started": "2026-01-01T00:00:00Z",
        "seconds": 1.0,
        "load": [0.0, 0.0],
        "result": result,
    }


def run_of(*rows: Measured) -> Run:
    return {
        "started": "2026-01-01T00:00:00Z",
        "effort": "full",
        "commit": "abc",
        "hardware": {"cpu": "some", "cores": 2},
        "versions": {"python": "3"},
        "rows": list(rows),
    }


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_every_row_is_a_module_that_measures(row: Row) -> None:
    assert callable(importlib.import_module(row.module).measure)
    assert 0 < row.about_s("quick") < row.about_s("usual") < row.about_s("full")


def test_the_list_names_every_row_with_its_aim(capsys: pytest.CaptureFixture[str]) -> None:
    assert program.main(["--list"]) == 0
    listed = capsys.readouterr().out
    for row in ROWS.values():
        assert row.name in listed
        assert row.aim in listed


@pytest.mark.slow
def test_a_contender_that_fails_costs_only_itself() -> None:
    calls: list[str] = []

    def good() -> float:
        calls.append("good")
        return 2.0

    def bad() -> float:
        calls.append("bad")
        raise OSError("no disk")

    taken, failed = harness.take_turns({"good": good, "bad": bad}, rounds=3)
    assert taken == {"good": [2.0, 2.0, 2.0]}
    assert failed == {"bad": "OSError: no disk"}
    assert calls.count("bad") == 1
    shown = harness.table("work", {"good": {"s": harness.spread(taken["good"])}}, failed)
    text = report.markdown(run_of(measured("step", {"tables": [shown], "aims": []})))
    assert "| good | 2 (2 to 2) |" in text
    assert "| bad | left out: OSError: no disk |" in text


def test_contenders_take_turns_and_all_run_after_each_other_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.harness.gc.collect", lambda: 0)  # a tenth of a second, 900 times
    order: list[str] = []

    def contender(name: str) -> float:
        order.append(name)
        return 1.0

    harness.take_turns({name: lambda name=name: contender(name) for name in "abc"}, rounds=299, warm_up=1)
    assert all(sorted(order[start : start + 3]) == ["a", "b", "c"] for start in range(0, 900, 3))
    after = Counter(pairwise(order))
    assert all(110 < after[first, second] < 155 for first, second in permutations("abc", 2))
    assert all(20 < after[name, name] < 46 for name in "abc")


def test_the_report_says_what_was_missed_and_what_was_not_measured() -> None:
    aims = [
        harness.aim("speed", ">= 0.9", 0.95, lambda found: found >= 0.9),
        harness.aim("memory", "<= 200 MB", 300.0, lambda found: found <= 200),
        harness.aim("peers", "<= 1", None, lambda found: found <= 1),
    ]
    text = report.markdown(
        run_of(measured("step", {"tables": [], "aims": aims, "limit": "the disk"}), measured("ddp", None, "it died"))
    )
    assert "| step | speed | >= 0.9 | 0.95 | yes |" in text
    assert "| step | memory | <= 200 MB | 300 | **no** |" in text
    assert "| step | peers | <= 1 |  | not measured |" in text
    assert "Physical limit: the disk." in text
    assert "| ddp | not measured: it died |" in text


def test_the_report_replaces_its_part_of_the_document_and_nothing_else(tmp_path: Path) -> None:
    document = tmp_path / "performance.md"
    document.write_text("before\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nafter\n", encoding="utf-8")
    report.put("new", "measured", document)
    assert document.read_text(encoding="utf-8").splitlines() == [
        "before", "<!-- measured: begin -->", "new", "<!-- measured: end -->", "after",
    ]  # fmt: skip
    with pytest.raises(ValueError, match="lacks the line"):
        report.put("new", "other", document)


def test_the_committed_figures_are_those_of_the_document() -> None:
    newest = report.newest()
    if newest is None:
        pytest.skip("no complete comparison is committed")
    text = report.markdown(report.read(newest)).strip()
    assert text in report.DOCUMENT.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("raise RuntimeError('no luck')", "status 1"),
        ("return {'tables': [], 'aims': 'none'}", "aims"),
        ("import os; os._exit(7)", "status 7"),
    ],
    ids=["raises", "another form", "dies"],
)
def test_a_row_that_fails_is_reported_and_the_others_are_measured(body: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "bad_row.py").write_text(f"def measure(effort):\n    {body}\n", encoding="utf-8")
    (tmp_path / "good_row.py").write_text(
        "def measure(effort):\n    return {'tables': [], 'aims': [], 'limit': f'effort: {effort}'}\n", encoding="utf-8"
    )
    (tmp_path / "sitecustomize.py").write_text(
        textwrap.dedent("""
            import benchmarks.rows as rows
            rows.ROWS.clear()
            for name in ("bad_row", "good_row"):
                rows.ROWS[name] = rows.Row(name, "work", "us", "fast", name, (1, 2, 3))
        """),
        encoding="utf-8",
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT)))}
    out = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--quick", "--out", str(out)],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    bad, good = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert (bad["status"], good["status"]) == ("failed", "measured")
    assert reason in bad["reason"]
    assert good["result"]["limit"] == "effort: quick"
    assert "not measured: bad_row" in done.stdout


def test_time_to_the_same_is_that_of_the_first_look_that_is_as_good() -> None:
    from benchmarks.accuracy import times_to_the_same
    from benchmarks.accuracy_ways import Outcome

    by_hand = Outcome(0.5, 40.0, [(10.0, 0.2), (20.0, 0.4), (40.0, 0.5)])
    sooner = Outcome(0.6, 40.0, [(10.0, 0.3), (20.0, 0.55), (40.0, 0.6)])
    never = Outcome(0.4, 40.0, [(10.0, 0.3), (20.0, 0.45), (40.0, 0.4)])
    runs = {"by hand": [by_hand, by_hand], "ununennium": [sooner, never]}
    assert times_to_the_same(runs, "ununennium") == [0.5, None]


def test_a_step_is_what_lies_between_one_batch_and_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.loops import Loader

    clock = iter([0.0, 1.0, 3.0, 4.0, 40.0])
    monkeypatch.setattr("benchmarks.loops.time.perf_counter", lambda: next(clock))
    loader = Loader([(torch.zeros(1), torch.zeros(1))] * 5)
    assert len(list(loader)) == len(loader) == 5
    assert loader.step_s() == 1.5
    assert loader.step_s(batches=2) == 20.0


def gpu(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_without_a_card_the_gpu_measurement_says_so() -> None:
    assert gpu("--update") == "not run: no CUDA device\n"


@pytest.mark.slow
def test_the_gpu_measurement_does_on_the_cpu_what_it_would_on_a_card(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    shown = gpu("--device", "cpu", "--out", str(file))
    found = json.loads(file.read_text(encoding="utf-8"))
    rates, ways = found["result"]["tables"]
    assert list(rates["contenders"]) == ["fp32", "tf32", "fp16", "bf16"]
    assert not [name for name, figures in ways["contenders"].items() if "failed" in figures]
    assert {"fp16, accumulation 4", "fp32", "bf16, channels_last"} <= set(ways["contenders"])
    assert len(found["curves"]["fp16"]) == len(found["curves"]["fp32"])
    assert "| fp16 over fp32, least gain | >= 2 |" in shown

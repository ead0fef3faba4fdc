"""``report`` and ``compare``: a run of a storage on a page, two runs side by side."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.judged_run import evaluated, new_run
from ununennium.files import write_json


@pytest.fixture
def runs(cli, tmp_path):
    """Two judged runs in ``tmp_path/storage``, the second with another learning rate and better; nothing here."""
    made = []
    for share in (0.0, 0.1):
        run = new_run(tmp_path / "storage")
        evaluated(run)
        record = run.record()
        record.config["optimizer"]["kwargs"] = {"lr": 0.001 + share}
        write_json(run.run_file, record)
        evaluation = json.loads(run.evaluation_file.read_text())
        evaluation["challenger"]["metrics"]["IoU"]["mean"] += share
        write_json(run.evaluation_file, evaluation)
        run.publish([run.run_file, run.evaluation_file, run.gate_file, run.summary_file, run.metrics_file])
        shutil.rmtree(run.work)
        made.append(run)
    return made


def test_report_writes_the_page_publishes_it_and_says_where_it_is(cli, runs, tmp_path):
    run = runs[0]
    answer = cli("report", run.run_id, "--storage", "storage", "-o", "mine.html")
    assert answer.code == 0, answer.err
    assert answer.out.strip() == str(tmp_path / "mine.html")
    published = tmp_path / "storage" / "runs" / run.run_id / "report.html"
    assert published.read_text() == (tmp_path / "mine.html").read_text()
    assert run.run_id in published.read_text()


def test_files_of_a_run_are_not_written_over(cli, runs, tmp_path):
    """correctness 80"""
    first, second = (run.run_id for run in runs)
    kept = tmp_path / "storage" / "runs" / first / "run.json"
    before = kept.read_bytes()
    for arguments in (("report", first, "-o"), ("compare", first, second, "--html")):
        answer = cli(*arguments, kept, "--storage", "storage")
        assert answer.code == 2
        assert "is the input" in answer.err
        assert kept.read_bytes() == before


def test_compare_names_what_differs_and_nothing_else(cli, runs, tmp_path):
    first, second = (run.run_id for run in runs)
    answer = cli("compare", first, second, "--storage", "storage", "--json", "--html", "both.html")
    assert answer.code == 0, answer.err
    found = {row["what"]: row for row in json.loads(answer.out)}
    assert found["IoU.mean"]["change"] == "+0.1000"
    settings = [row["what"] for row in found.values() if row["part"] == "configuration"]
    assert settings == ["optimizer.kwargs.lr"]
    page = (tmp_path / "both.html").read_text()
    assert "<script" not in page
    assert "optimizer.kwargs.lr" in page
    said = cli("compare", first, second, "--storage", "storage")
    assert "optimizer.kwargs.lr" in said.out
    assert "different holdouts" not in said.err


def test_runs_of_other_holdouts_are_not_subtracted(cli, runs):
    other = runs[1]
    file = other.storage + f"/runs/{other.run_id}/evaluation.json"
    with open(file) as stream:
        evaluation = json.load(stream)
    evaluation["challenger"]["split_sha256"] = "another"
    with open(file, "w") as stream:
        json.dump(evaluation, stream)
    answer = cli("compare", runs[0].run_id, other.run_id, "--storage", "storage", "--json")
    assert {row["change"] for row in json.loads(answer.out)} == {None}
    assert "different holdouts" in cli("compare", runs[0].run_id, other.run_id, "--storage", "storage").err


def test_a_run_that_is_not_there_is_named(cli, runs):
    answer = cli("report", "20200101T000000Z-roads-0000", "--storage", "storage")
    assert answer.code == 2
    assert "20200101T000000Z-roads-0000" in answer.err

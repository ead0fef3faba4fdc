"""RunDirectory: where a run's files are, publishing, fetching, listing."""

from __future__ import annotations

import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ununennium.config import RunConfig
from ununennium.errors import ConfigError, StorageError
from ununennium.files import finite, write_json
from ununennium.runs.directory import RunDirectory, as_link, read_json
from ununennium.runs.listing import list_runs
from ununennium.runs.provenance import git_commit
from ununennium.storage.open import resolve_storage


@pytest.fixture(autouse=True)
def _work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))


def config(**changes: Any) -> RunConfig:
    data = {"scenes": [{"image": "/a.tif", "label": "/b.tif"}], "classes": ["background", "building"]}
    return RunConfig.parse({"name": "demo", "data": data, **changes})


def test_a_new_run_records_what_it_is(tmp_path: Path) -> None:
    run = RunDirectory.create(config(seed=7), started_by={"flow_run_id": "abc"})
    record = run.record()
    assert record.run_id == run.run_id
    assert record.config["seed"] == 7
    assert record.started_by == {"flow_run_id": "abc"}
    assert record.storage == str(tmp_path / "storage")
    assert {"python", "torch", "numpy"} <= record.versions.keys()
    assert run.config().seed == 7
    assert run.work == tmp_path / "work" / run.run_id
    assert not (tmp_path / "storage").exists()


def test_two_runs_in_one_second_have_different_names() -> None:
    assert len({RunDirectory.create(config()).run_id for _ in range(5)}) == 5


def test_storage_does_not_move_with_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create(config(storage="here"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert RunDirectory.open(run.run_file).url == f"{tmp_path}/here/runs/{run.run_id}"
    assert RunDirectory.open(run.work).storage == run.config().storage == str(tmp_path / "here")


@pytest.mark.parametrize(
    ("url", "resolved"),
    [
        ("s3://bucket/prefix/", "s3://bucket/prefix"),
        ("s3://bucket", "s3://bucket"),
        ("memory://runs", "memory://runs"),
        ("/data/x/", "/data/x"),
    ],
)
def test_urls_keep_both_slashes(url: str, resolved: str) -> None:
    assert resolve_storage(url) == resolved


def test_links_can_be_followed() -> None:
    assert as_link("/data/a b") == "file:///data/a%20b"
    assert as_link("s3://bucket/x") == "s3://bucket/x"


def test_published_files_come_back_on_another_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory.create(config())
    write_json(run.gate_file, {"verdict": "promoted"})
    (run.artifact_folder / "deep").mkdir(parents=True)
    (run.artifact_folder / "deep" / "weights").write_bytes(b"\0\1")
    (run.work / "checkpoints").mkdir()
    (run.work / "checkpoints" / "large.pt").write_bytes(b"x")
    run.publish([run.run_file, run.gate_file, run.artifact_folder, run.work / "checkpoints", run.work / "missing.json"])

    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "other machine"))
    there = RunDirectory.fetch("storage", run.run_id)
    assert there.work == tmp_path / "other machine" / run.run_id
    assert read_json(there.gate_file) == {"verdict": "promoted"}
    assert (there.artifact_folder / "deep" / "weights").read_bytes() == b"\0\1"
    assert not (there.work / "checkpoints").exists()  # they stay in the storage
    assert there.config() == run.config()


def test_a_run_of_an_earlier_version_can_be_read_whatever_is_refused_today() -> None:
    """correctness 93"""
    run = RunDirectory.create(config())
    record = run.record()
    record.config["data"]["scenes"][0] |= {"image": "https://h/a.tif?X-Amz-Signature=0f", "date": "spring"}
    write_json(run.run_file, record)
    assert run.config().data.scenes[0].date == "spring"
    with pytest.raises(ConfigError, match="signatures out of the URL"):
        RunConfig.parse(record.config)


@pytest.mark.parametrize("name", ["nonsense", "../../etc/passwd", "20260101T000000Z-demo-abcd"])
def test_a_run_that_is_not_there_is_a_clear_error(name: str) -> None:
    with pytest.raises(ConfigError, match="ununennium runs"):
        RunDirectory.fetch("storage", name)


def test_latest_without_runs_is_a_clear_error() -> None:
    with pytest.raises(ConfigError, match="holds no runs"):
        RunDirectory.fetch("storage", "latest")


def test_runs_are_listed_newest_first_and_by_model(tmp_path: Path) -> None:
    assert list_runs("storage") == []
    for i, name in enumerate(["old", "new", "old"]):
        folder = tmp_path / "storage" / "runs" / f"2026010{i}T000000Z-{name}-000{i}"
        folder.mkdir(parents=True)
        summary = {"run_id": folder.name, "name": name, "started": f"2026-01-0{i + 1}T00:00:00.000+00:00"}
        (folder / "summary.json").write_text(json.dumps(summary))
        (folder / "artifact").mkdir()
        (folder / "artifact" / "summary.json").write_text("not a run's")
    assert [summary.run_id[7] for summary in list_runs("storage")] == ["2", "1", "0"]
    assert [summary.run_id[7] for summary in list_runs("storage", name="old")] == ["2", "0"]


def test_a_file_that_is_not_a_runs_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"is not the run\.json of a run"):
        RunDirectory.open(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot be read"):
        RunDirectory.open(tmp_path)
    with pytest.raises(ConfigError, match="has this stage of the run been done"):
        RunDirectory.open(tmp_path / "nowhere.json")


def test_a_work_folder_that_cannot_be_made_names_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="set UNUNENNIUM_WORK"):
        RunDirectory.create(config())


def test_json_is_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "a.json"
    write_json(file, {"value": 1})
    with pytest.raises(TypeError):
        write_json(file, {"value": object()})
    assert read_json(file) == {"value": 1}


@pytest.mark.slow
@given(
    st.recursive(
        st.floats() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_everything_finite_is_strict_json(content: Any) -> None:
    json.dumps(finite(content), allow_nan=False)


def test_not_a_number_becomes_null(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"IoU": {"absent": math.nan, "there": 0.5}, "list": (math.inf, 1)})
    assert read_json(tmp_path / "a.json") == {"IoU": {"absent": None, "there": 0.5}, "list": [None, 1]}


def test_the_commit_tells_of_changed_files(tmp_path: Path) -> None:
    assert git_commit() is None

    def git(*arguments: str) -> None:
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments], check=True, capture_output=True
        )

    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-q", "-m", "one")
    clean = git_commit()
    assert clean is not None
    assert len(clean) == 40
    (tmp_path / "a").write_text("2")
    assert git_commit() == f"{clean}+"

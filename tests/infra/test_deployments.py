"""``python -m infra.deployments``: the deployments as they fit a place."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.deployments import FILE, is_shared, main, render
from ununennium.config import RunConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def described() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return found


def states_of(deployments: list[dict[str, Any]]) -> dict[str, bool]:
    """Whether the schedule of each deployment is active; the sweep over crashed runs uses no storage."""
    return {each["name"]: each["schedules"][0]["active"] for each in deployments if "schedules" in each}


@pytest.mark.parametrize(
    ("storage", "shared"),
    [
        ("s3://bucket/eo", True),
        ("gs://bucket", True),
        ("/mnt/shared/eo", True),
        ("storage", False),
        ("./storage", False),
        ("file:storage", False),
        ("", False),
    ],
)
def test_storage_is_shared_by_url_or_absolute_path(described: dict[str, Any], storage: str, shared: bool) -> None:
    assert is_shared(storage) == shared
    states = states_of(render(described, storage=storage)["deployments"])
    assert states == {"nightly": shared, "weekly-champion": shared, "new-data": shared, "every-minute": True}


def test_nothing_else_changes_and_the_description_stays_as_it_is(described: dict[str, Any]) -> None:
    before = copy.deepcopy(described)
    rendered = render(described, storage="s3://b", pool="p", train_pool="t", on_train_pool=["predict"])
    assert described == before
    pools = {each["entrypoint"].rpartition(":")[2]: each["work_pool"]["name"] for each in rendered["deployments"]}
    assert {pools.pop("retrain"), pools.pop("predict")} == {"t"}
    assert set(pools.values()) == {"p"}
    for old, new in zip(before["deployments"], rendered["deployments"], strict=True):
        for key in ("entrypoint", "name", "triggers", "concurrency_limit", "tags", "schedules"):
            assert old.get(key) == new.get(key), key


def test_an_inactive_schedule_stays_inactive(described: dict[str, Any]) -> None:
    next(each for each in described["deployments"] if each["name"] == "nightly")["schedules"][0]["active"] = False
    rendered = render(described, storage="s3://b")["deployments"]
    states = states_of(rendered)
    assert states == {"nightly": False, "weekly-champion": True, "new-data": True, "every-minute": True}


def test_maps_of_a_catalogues_scenes_are_left_out_with_a_note(
    described: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    config = RunConfig.load(ROOT / "examples" / "atlanta" / "run.yaml").model_dump()
    config["data"].update(scenes=[], catalog={"table": "/data/scenes.csv"})
    config["storage"] = "s3://b"
    rendered = render(described, config=RunConfig.model_validate(config))["deployments"]
    assert "predict" not in {each["entrypoint"].rpartition(":")[2] for each in rendered}
    assert "predict/on-demand is left out" in capsys.readouterr().err


def test_a_wrong_configuration_is_an_error_and_prints_no_deployment(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.yaml").write_text("name: 3\n")
    assert main(["--config", str(tmp_path / "run.yaml")]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "error: " in printed.err

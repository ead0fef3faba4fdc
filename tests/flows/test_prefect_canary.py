"""Does today's set of packages make a Prefect server that works? See the caps in pyproject.toml."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.servers.prefect_server import bootstrap, post, prefect_cli, prefect_server

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


@pytest.fixture
def new_server(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A server that makes its database by itself."""
    with prefect_server(tmp_path) as environment:
        yield environment


def test_the_server_starts_and_its_scheduler_makes_runs(new_server: dict[str, str]) -> None:
    """fastapi >= 0.155 kills the server; sqlalchemy 2.1 silently stops its scheduler: no run would ever appear."""
    api = new_server["PREFECT_API_URL"]
    bootstrap(new_server, ROOT)
    prefect_cli(new_server, ROOT, "deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    deployments = {
        f"{Path(found['entrypoint'].partition(':')[0]).stem}/{found['name']}": found
        for found in post(api, "/deployments/filter")
    }
    assert set(deployments) == {
        "retrain/on-demand",
        "retrain/nightly",
        "retrain/on-new-data",
        "retrain/on-degradation",
        "predict/on-demand",
        "predict/on-promotion",
        "evaluate/weekly-champion",
        "watch/new-data",
        "rollback/on-demand",
        "resume/after-crash",
        "resume/every-minute",
    }
    schema = deployments["retrain/nightly"]["parameter_openapi_schema"]
    assert set(schema["properties"]) == {"config", "dry_run", "overrides", "continues", "cause", "check"}
    assert schema["definitions"]["TrainerSettings"]["properties"]["epochs"]["description"] == "Max training epochs."

    deadline = time.monotonic() + 120
    scheduled: list[Any] = []
    while not scheduled and time.monotonic() < deadline:
        only = {"id": {"any_": [deployments["retrain/nightly"]["id"]]}}
        scheduled = post(api, "/flow_runs/filter", {"deployments": only})
        time.sleep(1)
    assert {run["state_name"] for run in scheduled} == {"Scheduled"}


def test_the_deployments_describe_the_sample_run() -> None:
    import yaml

    from ununennium.config import RunConfig
    from ununennium.config.maps import MapsConfig

    described = yaml.safe_load((ROOT / "deployments" / "prefect.yaml").read_text(encoding="utf-8"))
    sample = RunConfig.load(ROOT / "examples" / "atlanta" / "run.yaml")
    for deployment in described["deployments"]:
        settings = deployment.get("parameters", {}).get("config")
        if {"retrain", "evaluate", "watch"} & set(deployment["tags"]):
            assert RunConfig.parse(settings).with_scenes_relative_to(ROOT) == sample
        elif "predict" in deployment["tags"]:
            assert [str(ROOT / image) for image in MapsConfig.parse(settings).images] == [sample.data.scenes[0].image]
            assert settings["model"] == sample.name
        module, _, flow = deployment["entrypoint"].partition(":")
        assert (ROOT / module).exists()
        assert f"def {flow}(" in (ROOT / module).read_text(encoding="utf-8")

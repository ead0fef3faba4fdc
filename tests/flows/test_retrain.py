"""The flow against a real server: its final states, events, artifacts, dry run and failures.

The runs are real, too: the sample scene, a tiny network. They share one storage, so that later ones meet a champion;
each takes some ten seconds, most of it for starting processes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.processes import LONG_S, has_checkpoint, rank_pids, when
from ununennium.config import RunConfig
from ununennium.errors import ConfigError, TrainingError
from ununennium.runs.directory import RunDirectory
from ununennium.runs.listing import list_runs

pytestmark = pytest.mark.slow
Tiny = Callable[..., RunConfig]
ROOT = Path(__file__).parents[2]


def events(name: str, *, resource: str, count: int = 1) -> list[Any]:
    """Events of that name and resource, as the server has them, newest first, once there are ``count``."""
    from prefect.client.orchestration import get_client
    from prefect.events.filters import EventFilter, EventNameFilter, EventResourceFilter

    async def read() -> list[Any]:
        wanted = EventFilter(event=EventNameFilter(name=[name]), resource=EventResourceFilter(id=[resource]))
        async with get_client() as client:
            answer = await client._client.post("/events/filter", json={"filter": wanted.model_dump(mode="json")})
            return list(answer.json()["events"])

    for _ in range(200):  # they arrive by another road than the states
        found = asyncio.run(read())
        if len(found) >= count:
            return found
        time.sleep(0.25)
    return found


def artifact(key: str) -> Any:
    """The newest artifact of that key."""
    from prefect.artifacts import Artifact

    found = Artifact.get(key)
    assert found is not None
    return found


def retrain(config: RunConfig, **options: Any) -> Any:
    from flows.retrain import retrain as flow

    return flow(config, return_state=True, **options)


@pytest.mark.usefixtures("server")
def test_states_champions_events_and_artifacts(tiny: Tiny, place: Path) -> None:
    # The first model is promoted, as the gate asks for nothing.
    state = retrain(tiny())
    assert (state.type.value, state.name) == ("COMPLETED", "Completed"), state.message
    first = state.result()
    assert (first["verdict"], first["stop_reason"]) == ("promoted", "completed")
    assert first["champion"]["generation"] == 1
    assert set(first["holdout"]["IoU"]) == {"mean", "background", "building"}
    _check_files(first)

    (finished,) = events("ununennium.training.finished", resource=f"ununennium.run.{first['run_id']}")
    assert finished["payload"]["stop_reason"] == "completed"
    (promoted,) = events("ununennium.checkpoint.promoted", resource="ununennium.model.atlanta-buildings")
    assert promoted["payload"]["run_id"] == first["run_id"]
    assert promoted["payload"]["url"] == first["champion"]["url"]
    flow_run = str(state.state_details.flow_run_id)
    assert promoted["related"][0]["prefect.resource.id"] == f"prefect.flow-run.{flow_run}"
    record = json.loads((Path(first["places"]["files"]) / "run.json").read_text())
    assert record["started_by"]["flow_run_id"] == flow_run

    rows = json.loads(artifact("atlanta-buildings-metrics").data)
    assert [row["class"] for row in rows] == ["mean", "background", "building"]
    page = str(artifact("atlanta-buildings-report").data)
    assert first["reason"] in page
    assert "data:image/png;base64," in page
    assert len(page) < 1_500_000
    assert first["run_id"] in str(artifact("atlanta-buildings-run").data)

    # The second stops early; told apart by the state's name, and promoted all the same.
    state = retrain(
        tiny(
            "seed=1",
            "trainer.epochs=20",
            "early_stopping={monitor: train_loss, patience: 1, min_delta: 1000}",
            "gate.min_improvement=-1",
            "gate.max_class_drop=null",
        )
    )
    assert (state.type.value, state.name) == ("COMPLETED", "EarlyStopped"), state.message
    second = state.result()
    assert (second["stop_reason"], second["epochs"], second["champion"]["generation"]) == ("early_stopped", 2, 2)
    evaluation = json.loads((Path(second["places"]["files"]) / "evaluation.json").read_text())
    assert evaluation["champion"]["metrics"]["IoU"] == pytest.approx(first["holdout"]["IoU"])  # on the same holdout

    # The third stops early, too, and is not better: that is what its state says.
    state = retrain(
        tiny(
            "seed=2",
            "trainer.epochs=20",
            "early_stopping={monitor: train_loss, patience: 1, min_delta: 1000}",
            "gate.min_improvement=0.9",
        )
    )
    assert (state.type.value, state.name) == ("COMPLETED", "NotPromoted"), state.message
    third = state.result()
    assert (third["verdict"], third["stop_reason"]) == ("not_promoted", "early_stopped")
    assert third["champion"] == second["champion"]
    assert third["reason"] == state.message
    assert len(events("ununennium.checkpoint.promoted", resource="ununennium.model.atlanta-buildings")) == 2
    _check_files(third)

    listed = list_runs(str(place / "storage"))
    assert [run["run_id"] for run in listed] == [third["run_id"], second["run_id"], first["run_id"]]
    assert [run["verdict"] for run in listed] == ["not_promoted", "promoted", "promoted"]


@pytest.mark.usefixtures("server")
def test_two_retrainings_that_finish_together_end_in_one_champion_and_an_explained_loser(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both are judged while there is no champion; whose promotion comes second is measured again, beside the first."""
    from ununennium.checkpoints.registry import Registry
    from ununennium.pipeline.promotion import make_champion

    real, both, seen = make_champion, threading.Barrier(2), threading.local()

    def promote_together(run: Any, *, actor: str) -> Any:
        if not getattr(seen, "once", False):
            seen.once = True
            both.wait(240)
        return real(run, actor=actor)

    monkeypatch.setattr("ununennium.pipeline.stages.make_champion", promote_together)
    configs = [tiny("name=twins", f"seed={seed}", "gate.min_improvement=0.9") for seed in (0, 1)]
    with ThreadPoolExecutor(2) as threads:
        states = [each.result(timeout=500) for each in [threads.submit(retrain, config) for config in configs]]
    assert not both.broken
    assert sorted((state.type.value, state.name) for state in states) == [
        ("COMPLETED", "Completed"),
        ("COMPLETED", "NotPromoted"),
    ], [state.message for state in states]
    won, lost = sorted((state.result() for state in states), key=lambda summary: summary["verdict"] != "promoted")
    (record,) = Registry(str(configs[0].storage), "twins").history()
    assert (record.generation, record.run_id, record.evaluated_against) == (1, won["run_id"], 0)
    assert record.flow_run_id in {str(state.state_details.flow_run_id) for state in states}
    checkpoint = json.loads(Path(record.checkpoint["manifest"]).read_text())
    assert checkpoint["sha256"] == record.checkpoint["sha256"]
    assert lost["champion"] == won["champion"]
    gate = json.loads((Path(lost["places"]["files"]) / "gate.json").read_text())
    measured = json.loads((Path(lost["places"]["files"]) / "evaluation.json").read_text())
    assert (gate["generation"], measured["version"]) == (1, record.version)  # judged again, beside the winner
    assert measured["champion"]["metrics"]["IoU"] == pytest.approx(won["holdout"]["IoU"])
    assert "0.9" in lost["reason"]
    assert len(events("ununennium.checkpoint.promoted", resource="ununennium.model.twins")) == 1


def _check_files(summary: dict[str, Any]) -> None:
    import rasterio

    files = Path(summary["places"]["files"])
    names = {path.name for path in files.iterdir()}
    assert {"run.json", "plan.json", "index.json", "statistics.json", "split.geojson", "metrics.jsonl"} <= names
    assert {"result.json", "evaluation.json", "gate.json", "summary.json"} <= names
    gate = json.loads((files / "gate.json").read_text())
    assert gate["verdict"] == summary["verdict"]
    assert all(Path(url).exists() for url in summary["checkpoints"])
    assert {path.name for path in (files / "pictures").iterdir()} >= {"loss_curve.png"}
    (prediction, *_) = sorted((files / "prediction").glob("*.tif"))
    with rasterio.open(prediction) as source:
        assert source.count >= 1
        assert source.crs.to_epsg() == 32616
    assert json.loads((files / "summary.json").read_text()) == summary


@pytest.mark.usefixtures("server")
def test_a_dry_run_trains_nothing_and_leaves_nothing(
    tiny: Tiny, place: Path, caplog: pytest.LogCaptureFixture, request: pytest.FixtureRequest
) -> None:
    told = logging.getLogger("prefect.task_runs")
    told.addHandler(caplog.handler)
    request.addfinalizer(lambda: told.removeHandler(caplog.handler))
    state = retrain(tiny("storage=untouched"), dry_run=True)
    assert state.name == "Completed"
    assert state.message == "dry run of atlanta-buildings: nothing was trained"
    plan = state.result()
    assert plan["data"]["folds"]["holdout"]["labelled"] == 900 * (900 - 592)
    assert not (place / "untouched").exists()
    assert not list((place / "work").glob(f"{plan['run_id']}*"))
    assert "labelled px" in caplog.text
    assert "first model: not compared with a baseline (gate.first: any)" in caplog.text


@pytest.mark.usefixtures("server")
def test_a_run_that_fails_says_why_and_is_listed(tiny: Tiny, place: Path) -> None:
    state = retrain(tiny("model.target=ununennium.models:NoSuchNet", "storage=failed"))
    assert state.type.value == "FAILED"
    with pytest.raises(TrainingError, match="has no attribute 'NoSuchNet'"):
        state.result()
    (summary,) = list_runs(str(place / "failed"))
    assert (summary["stop_reason"], summary["verdict"]) == ("failed", None)
    assert "NoSuchNet" in summary["reason"]
    (finished,) = events("ununennium.training.finished", resource=f"ununennium.run.{summary['run_id']}")
    assert finished["payload"]["stop_reason"] == "failed"


@pytest.mark.usefixtures("server")
def test_settings_are_validated_before_anything_runs(tiny: Tiny) -> None:
    from prefect.exceptions import ParameterTypeError

    from flows.retrain import retrain as flow

    wrong = tiny().model_dump(mode="json")
    wrong["trainer"]["epochs"] = 0
    with pytest.raises((ParameterTypeError, ValueError)):
        flow(wrong)
    with pytest.raises(ConfigError, match="save_top_k"):
        retrain(tiny("checkpoints.save_top_k=0", "storage=failed")).result()


@pytest.mark.usefixtures("server")
def test_training_that_is_asked_to_stop_is_tried_again_and_goes_on_from_its_checkpoint(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a spot machine's agent does it: a training process gets the signal, and the flow lives on."""
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))

    def run() -> RunDirectory:
        return RunDirectory.open(next((tmp_path / "work").glob("*/run.json")))

    striker = when(
        lambda: any((tmp_path / "work").glob("*/run.json")) and has_checkpoint(run()),
        lambda: os.kill(rank_pids(run())[0], signal.SIGTERM),
    )
    state = retrain(tiny("trainer.epochs=12", "data.batch_size=2", "storage=preempted", "gate.min_improvement=-1"))
    striker.join(LONG_S)

    assert (state.type.value, state.name) == ("COMPLETED", "Completed"), state.message
    assert tries_of_training(state.state_details.flow_run_id) == 2
    summary = state.result()
    assert (summary["stop_reason"], summary["epochs"]) == ("completed", 12)
    told = events("ununennium.training.finished", resource=f"ununennium.run.{summary['run_id']}", count=2)
    second, first = [event["payload"] for event in told]
    assert (first["stop_reason"], second["stop_reason"]) == ("preempted", "completed")
    assert 0 < first["epochs"] < second["epochs"] == 12
    epochs = [json.loads(line)["epoch"] for line in run().metrics_file.read_text().splitlines()]
    assert sorted(set(epochs)) == list(range(1, 13))


def tries_of_training(flow_run: Any) -> int:
    """How often the training task of a flow run was begun."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    async def read() -> list[int]:
        of_run = FlowRunFilter(id=FlowRunFilterId(any_=[flow_run]))
        async with get_client() as client:
            tasks = await client.read_task_runs(flow_run_filter=of_run)
            return [task.run_count for task in tasks if task.name.startswith("train")]

    (tries,) = asyncio.run(read())
    return tries


def test_the_flow_process_imports_nothing_that_takes_long() -> None:
    """correctness 75; and a fork of this process would break loader workers (docs/dependencies.md)."""
    code = "import sys, flows.retrain; sys.exit(bool({'torch', 'scipy', 'pandas', 'pyogrio'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=240, check=False).returncode == 0


def test_the_library_imports_no_prefect() -> None:
    code = (
        "import sys; sys.modules['prefect'] = None; import ununennium.pipeline, ununennium.cli, ununennium.training, "
        "ununennium.workers.train, ununennium.workers.evaluate"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=240, check=False).returncode == 0

"""A worker process that is killed, slow or out of reach of the storage is lost, in one way; a failed one has failed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist
from prefect.states import Failed

from flows import evaluate as evaluate_flow
from flows import fan_out, retrain
from tests.judged_run import evaluated, new_run
from ununennium.config import RunConfig, TrainerSettings
from ununennium.errors import ConfigError, DataError, ProcessLost, StorageUnavailable, TrainingError
from ununennium.inference.jobs import JobScene, MapJob, run_job
from ununennium.launch.training import evaluate_in_subprocess, smoke_test
from ununennium.pipeline.evaluations import in_process
from ununennium.processes.reporting import report_error
from ununennium.processes.worker import ProcessTimedOut, run_worker
from ununennium.runs.directory import RunDirectory
from ununennium.training.config import TrainerConfig

ENDINGS: dict[str, str | Exception] = {
    "killed": "import os; os.kill(os.getpid(), 9)",
    "terminated": "import os; os.kill(os.getpid(), 15)",
    "killed in a container": "raise SystemExit(137)",
    "slow": "import time; time.sleep(60)",
    "peer lost": dist.DistNetworkError("gone"),
    "loader killed": RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
    "storage away": StorageUnavailable("no answer"),
    "setting": ConfigError("model.kwargs", {"a": "b: c"}, "no: do"),
    "data": DataError("a.tif is broken"),
    "bug": ZeroDivisionError("by zero"),
    "silent": "print('last words'); raise SystemExit(1)",
}
LOST = {"killed", "terminated", "killed in a container", "slow", "peer lost", "loader killed"}


@pytest.fixture
def worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Runs a module that ends in the way that is named."""
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.chdir(tmp_path)

    def run(ending: str) -> None:
        how = ENDINGS[ending]
        if isinstance(how, Exception):
            try:
                raise how
            except Exception as caught:
                report_error(tmp_path / "left.json", 0, caught)
            how = "import shutil, sys; shutil.copy('left.json', sys.argv[1]); raise SystemExit(1)"
        (tmp_path / "some_worker.py").write_text(how)
        error = tmp_path / "error.json"
        timeout_s = 1.0 if ending == "slow" else 100.0
        run_worker("some_worker", [error], what="test", error_file=error, timeout_s=timeout_s, grace_s=1.0)

    return run


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_lost_and_what_failed(ending: str, worker: Callable[[str], None]) -> None:
    """correctness 96"""
    expected = ProcessLost if ending in LOST else StorageUnavailable if ending == "storage away" else TrainingError
    with pytest.raises(expected) as caught:
        worker(ending)
    assert isinstance(caught.value, ProcessLost) == (ending in LOST)
    assert isinstance(caught.value, ProcessTimedOut) == (ending == "slow")
    assert isinstance(caught.value, ConfigError) == (ending == "setting")
    notes = "\n".join(getattr(caught.value, "__notes__", []))
    if ending == "setting":
        original = ConfigError("model.kwargs", {"a": "b: c"}, "no: do")
        copy = pickle.loads(pickle.dumps(caught.value))
        assert (str(caught.value), caught.value.field, str(copy)) == (str(original), original.field, str(original))
    elif ending == "silent":
        assert "last words" in notes
    elif ending == "bug":
        assert "ZeroDivisionError: by zero" in str(caught.value)
        assert "Traceback" in notes


def test_an_earlier_error_is_not_taken_for_this_ones(worker: Callable[[str], None]) -> None:
    with pytest.raises(TrainingError, match=r"a\.tif is broken"):
        worker("data")
    with pytest.raises(ProcessLost, match="was killed"):
        worker("killed")


def _job(tmp_path: Path) -> MapJob:
    image = tmp_path / "a.tif"
    image.touch()
    return MapJob(
        model="m", version="v", generation=None, scenes=[JobScene("a", [str(image)])], output=str(tmp_path / "maps"),
        storage=str(tmp_path / "storage"), tta=None, device="cpu", outputs=["map"],
        predictor={"tile": 64, "overlap": 8}, fit={}, polygons={},
    )  # fmt: skip


@pytest.mark.parametrize("signal", [9, 15])
@pytest.mark.parametrize("what", ["evaluation", "smoke test", "measurement", "map"])
def test_every_worker_that_is_killed_is_lost(
    what: str, signal: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, atlanta: Path
) -> None:
    """correctness 96"""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if any('ununennium.' in each for each in sys.orig_argv):\n"
        f"    os.kill(os.getpid(), {signal})\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    run = new_run(tmp_path / "storage")

    class Index:
        def save(self, path: Path) -> None:
            path.write_text("{}")

    index: Any = Index()
    calls: dict[str, Callable[[], Any]] = {
        "evaluation": lambda: evaluate_in_subprocess(run),
        "smoke test": lambda: smoke_test(run.url, run.probe_file, run.run_file),
        "measurement": lambda: in_process(run.config(), run.storage, index, {}, on_line=print),
        "map": lambda: run_job(_job(tmp_path)),
    }
    with pytest.raises(ProcessLost, match="was killed" if signal == 9 else "was ended by SIGTERM"):
        calls[what]()


def test_a_smoke_test_that_is_too_slow_or_cannot_reach_the_storage_is_no_answer(tmp_path: Path) -> None:
    """correctness 96"""
    with pytest.raises(ProcessLost, match=r"the smoke test did not end in 0\.01 s"):
        smoke_test(str(tmp_path), tmp_path / "probe.safetensors", tmp_path / "run.json", timeout_s=0.01)


@pytest.mark.parametrize("error", [ProcessLost("x"), StorageUnavailable("x")])
@pytest.mark.parametrize(
    "task", [retrain.train, retrain.evaluate_and_promote, retrain.apply_answer, evaluate_flow.measure, fan_out.make]
)
def test_every_flow_tries_again_what_was_lost_and_nothing_else(task: Any, error: Exception) -> None:
    """correctness 96"""
    assert task is fan_out.make or task.retries >= 2
    assert task.retry_condition_fn(task, None, Failed(data=error))
    assert not task.retry_condition_fn(task, None, Failed(data=DataError("broken")))
    assert not task.retry_condition_fn(task, None, Failed(data=ConfigError("a", 1, "b")))


@pytest.mark.parametrize("read", range(1, 5))
def test_a_fetch_that_is_interrupted_is_done_again_as_a_whole(
    read: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """correctness 96"""
    from ununennium.runs import directory as runs

    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "work"))
    run = new_run(tmp_path / "storage")
    evaluated(run)
    run.index_file.write_text("{}")
    run.publish(run.work.rglob("*"))
    there = {file.relative_to(run.work): file.read_bytes() for file in run.work.rglob("*") if file.is_file()}
    monkeypatch.setenv("UNUNENNIUM_WORK", str(tmp_path / "elsewhere"))
    reads = 0

    def failing(url: str) -> Any:
        storage = open_storage(url)
        whole = storage.read_bytes

        def read_bytes(key: str) -> bytes:
            nonlocal reads
            reads += 1
            if reads == read:
                raise StorageUnavailable("cut")
            return whole(key)

        storage.read_bytes = read_bytes  # type: ignore[method-assign]
        return storage

    open_storage = runs.open_storage
    monkeypatch.setattr(runs, "open_storage", failing)
    with pytest.raises(StorageUnavailable):
        RunDirectory.fetch(run.storage, run.run_id)
    copy = RunDirectory.fetch(run.storage, run.run_id)
    found = {file.relative_to(copy.work): file.read_bytes() for file in copy.work.rglob("*") if file.is_file()}
    assert found == there
    assert copy.work != run.work


def test_every_field_of_the_loops_settings_but_the_seed_can_be_configured() -> None:
    """correctness 96"""
    loop = {field.name for field in fields(TrainerConfig)} - {"seed"}
    becomes_callbacks = {"ema_decay", "callbacks", "metrics"}
    assert set(TrainerSettings.model_fields) - becomes_callbacks == loop
    settings = TrainerSettings().model_dump(exclude=becomes_callbacks)
    assert TrainerConfig(**settings) == TrainerConfig()


def test_a_plateau_scheduler_watches_the_metric_that_yaml_names(atlanta: Path) -> None:
    plateau = "{target: 'torch.optim.lr_scheduler:ReduceLROnPlateau', kwargs: {mode: max}}"
    changes = [f"scheduler={plateau}", "trainer.scheduler_monitor=val_IoU"]
    config = RunConfig.load(atlanta.parent / "run.yaml", changes)
    assert config.trainer.scheduler_monitor == "val_IoU"

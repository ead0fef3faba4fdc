"""Training under torchrun, for real: what it returns, and what is left when it is stopped, fails or is killed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import rasterio

from tests.processes import assert_nothing_left, rank_pids, steps_done, when
from ununennium import pipeline
from ununennium.checkpoints.store import CheckpointStore
from ununennium.errors import DataError, TrainingError
from ununennium.launch.result import Preempted, TrainingResult
from ununennium.launch.training import launch
from ununennium.runs.directory import RunDirectory

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="watches processes through /proc"),
]
Prepared = Callable[..., RunDirectory]


def test_a_run_trains_to_its_end(prepared: Prepared) -> None:
    """correctness 75: configuration in by file, result out by file."""
    run = prepared("checkpoints.save_top_k=1", "trainer.ema_decay=0.9")
    lines: list[str] = []
    result = launch(run, on_line=lines.append)
    assert (result.stop_reason, result.epochs, result.world_size, result.device) == ("completed", 2, 1, "cpu")
    assert result.error is None
    assert result.require_usable() is result
    assert result.best_epoch in (1, 2)
    assert result.best_checkpoint in result.checkpoints
    assert result.last_checkpoint == result.checkpoints[-1]
    assert len(result.history["train_loss"]) == 2
    assert sum(line.startswith("epoch") for line in lines) == 2  # one line per epoch, without torchrun's prefix
    assert not any("\r" in line or "torch" in line.lower() for line in lines)
    rows = [json.loads(line) for line in run.metrics_file.read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2]
    assert rows[-1]["val_IoU_building"] == result.history["val_IoU_building"][-1]
    assert json.loads(run.heartbeat_file.read_text())["epoch"] == 2
    assert_nothing_left(run, 60)

    again = launch(run, on_line=lines.append)  # a finished run takes no further step (correctness 67)
    assert (again.stop_reason, again.epochs, again.history) == ("completed", 2, result.history)


def test_trackers_are_told_what_the_metrics_file_has(prepared: Prepared, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    mlflow = pytest.importorskip("mlflow", reason="the extra 'mlflow' is not installed")
    run = prepared(f"tracking.tensorboard={tmp_path}/events/", f"tracking.mlflow=sqlite:///{tmp_path}/mlflow.db")
    launch(run, on_line=lambda line: None).require_usable()
    losses = [json.loads(line)["val_loss"] for line in run.metrics_file.read_text().splitlines()]
    events = event_accumulator.EventAccumulator(str(tmp_path / "events" / run.run_id)).Reload()
    assert [event.value for event in events.Scalars("val_loss")] == pytest.approx(losses)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("atlanta-buildings")
    (found,) = client.search_runs([experiment.experiment_id])
    assert (found.info.run_name, found.info.status) == (run.run_id, "FINISHED")
    assert [metric.value for metric in client.get_metric_history(found.info.run_id, "val_loss")] == losses
    assert found.data.params["data.chip_size"] == "64"


def test_two_ranks_train_together(prepared: Prepared) -> None:
    run = prepared("launcher.nproc_per_node=2", "trainer.epochs=1", "data.batch_size=2")
    result = launch(run, nproc=2, on_line=lambda line: None)
    assert (result.stop_reason, result.world_size) == ("completed", 2), result.message
    assert len(rank_pids(run)) == 2


def test_batches_are_augmented_on_the_device(prepared: Prepared) -> None:
    run = prepared("data.augment.where=device", "data.augment.scale=0.2", "data.num_workers=1")
    result = launch(run, on_line=lambda line: None)
    assert (result.stop_reason, result.epochs) == ("completed", 2), result.message


def test_early_stopping_is_a_result(prepared: Prepared) -> None:
    """correctness 44"""
    run = prepared("trainer.epochs=50", "early_stopping={monitor: train_loss, patience: 1, min_delta: 1000}")
    result = launch(run, on_line=lambda line: None)
    assert (result.stop_reason, result.epochs) == ("early_stopped", 2)
    assert "train_loss has not improved" in result.message
    assert result.usable


def test_sigterm_to_a_rank_is_a_preemption_that_can_be_resumed(prepared: Prepared) -> None:
    """correctness 68, 69: the exit status tells preempted from failed, and a checkpoint is written."""
    run = prepared("trainer.epochs=40", "data.chips_per_epoch=200")
    when(lambda: steps_done(run) > 0, lambda: os.kill(rank_pids(run)[0], signal.SIGTERM))
    result = launch(run, grace_s=60, on_line=lambda line: None)
    assert result.stop_reason == "preempted"
    assert "SIGTERM" in result.message
    newest = CheckpointStore(run.checkpoints_url).latest()
    assert newest is not None
    assert newest.step > 0
    assert_nothing_left(run, 60)
    with pytest.raises(Preempted, match="--resume"):
        result.require_usable()

    lines: list[str] = []
    further = newest.step  # more than that: the heartbeat of the first start is still there
    when(lambda: steps_done(run) > further, lambda: os.kill(rank_pids(run)[0], signal.SIGTERM))
    resumed = launch(run, grace_s=60, on_line=lines.append)
    after = CheckpointStore(run.checkpoints_url).latest()
    assert after is not None
    assert after.position > newest.position  # it went on; it did not begin anew
    assert resumed.epochs >= newest.epoch


@pytest.mark.parametrize("nproc", [1, 2])
def test_sigterm_during_start_up_is_a_preemption_too(prepared: Prepared, nproc: int) -> None:
    """correctness 69: before a step was done there is nothing to save, and the next start begins."""
    run = prepared("data.batch_size=2", "trainer.epochs=1")
    when(lambda: len(list(run.pids_folder.glob("rank*"))) == nproc, lambda: os.kill(rank_pids(run)[-1], signal.SIGTERM))
    result = launch(run, nproc=nproc, grace_s=60, max_restarts=2, on_line=lambda line: None)
    assert result.stop_reason == "preempted", result
    assert steps_done(run) <= 1
    assert_nothing_left(run, 60)
    assert launch(run, nproc=nproc, on_line=lambda line: None).stop_reason == "completed"


def test_a_failing_rank_brings_its_own_traceback(prepared: Prepared) -> None:
    """correctness 48: the original traceback, not torchrun's summary."""
    run = prepared("model={target: 'torch.nn:Linear', kwargs: {in_features: 1, out_features: 2}}")
    result = launch(run, on_line=lambda line: None)
    assert result.stop_reason == "failed"
    assert result.error is not None
    assert result.error.rank == 0
    with pytest.raises(TrainingError) as caught:
        result.require_usable()
    (note,) = caught.value.__notes__
    assert "rank 0" in note
    assert "Traceback" in note
    assert "workers/train.py" in note


def test_a_setting_that_shows_itself_only_in_the_rank_is_one_line(prepared: Prepared) -> None:
    run = prepared("model.target=ununennium.models:NoSuchNet")
    result = launch(run, on_line=lambda line: None)
    with pytest.raises(TrainingError, match=r"^model\.target = .*has no attribute 'NoSuchNet'"):
        result.require_usable()


def test_a_run_is_not_continued_on_other_labels(prepared: Prepared, atlanta: Path, tmp_path: Path) -> None:
    label = tmp_path / "label.tif"
    shutil.copy(atlanta / "atlanta_buildings.tif", label)
    run = prepared(f"data.scenes.0.label={label}", "trainer.epochs=1")
    label.touch()
    assert pipeline.train(run, on_line=lambda line: None).stop_reason == "completed"  # the same contents
    with rasterio.open(label, "r+") as dataset:
        dataset.write(1 - dataset.read())
    with pytest.raises(DataError, match=r"scenes \(atlanta\).* are not what they were .* start a new run"):
        pipeline.train(run)


def test_the_summary_tells_how_each_ended(prepared: Prepared) -> None:
    run = prepared("trainer.epochs=1")
    result = pipeline.train(run, on_line=lambda line: None)
    summary = json.loads(run.summary_file.read_text())
    assert (summary["stop_reason"], summary["best_epoch"]) == ("completed", 1)
    assert summary["verdict"] is None
    assert summary["checkpoints"] == result.checkpoints
    assert all(Path(url).exists() for url in summary["checkpoints"])
    assert (Path(run.url) / "summary.json").exists()


def test_a_result_without_a_model_is_not_usable() -> None:
    with pytest.raises(TrainingError, match="no checkpoint with a finite score"):
        TrainingResult("completed").require_usable()
    with pytest.raises(TrainingError, match="timed out"):
        TrainingResult("timed_out", "too slow").require_usable()

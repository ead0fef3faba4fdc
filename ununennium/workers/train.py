"""Training process, which torchrun starts on every rank: ``python -m ununennium.workers.train RUN_JSON``.

Before the first epoch one batch is trained on copies (``ununennium.workers.check``), unless ``--no-check`` follows;
with ``--check`` that is all. Reads ``run.json``, ``index.json`` and ``statistics.json`` of the work folder; writes
``metrics.jsonl``, ``heartbeat.json``, checkpoints, and at the end ``result.json`` (rank 0) or ``errors/rank<n>.json``.
Exit status: 0 done, 1 failed, 143 preempted (asked to stop by SIGTERM, with a checkpoint written).
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ununennium.checkpoints.manifest import best_first
from ununennium.checkpoints.savers import upload_left
from ununennium.checkpoints.store import CheckpointStore
from ununennium.config import RunConfig
from ununennium.errors import StorageError
from ununennium.files import finite, write_json
from ununennium.launch.restarts import ended_for_good, restarts
from ununennium.launch.result import rank_error_file
from ununennium.launch.stalls import STACKS_SIGNAL, register_process
from ununennium.launch.training import CHECK, NO_CHECK
from ununennium.live_line import Wait
from ununennium.processes.console import prefix_levels
from ununennium.processes.parent import PREEMPTED_EXIT_CODE, die_with_parent
from ununennium.processes.reporting import report_error
from ununennium.redaction import redact_logs
from ununennium.runs.directory import RunDirectory
from ununennium.training import distributed
from ununennium.training.callbacks import (
    EMA,
    Callback,
    CheckpointCallback,
    EarlyStopping,
    MetricsFile,
    MLflow,
    Progress,
    TensorBoard,
)
from ununennium.training.state import StopReason
from ununennium.training.trainer import Trainer
from ununennium.workers.build import Components, named_by_setting
from ununennium.workers.callbacks import EndWait, Heartbeat, StopOnSignal
from ununennium.workers.check import check_training
from ununennium.workers.resource_usage import cost_of
from ununennium.workers.sample_prediction import SamplePrediction

if TYPE_CHECKING:
    pass

_A_DAY_S = 86_400.0


def main(arguments: list[str] | None = None) -> int:
    """Train, or with ``--check`` only check, the run whose ``run.json`` is the first argument.

    Returns:
        The exit status.
    """
    run_file, *options = sys.argv[1:] if arguments is None else arguments
    if CHECK in options:
        return check(RunDirectory.open(run_file))
    rank = int(os.environ.get("RANK", "0"))
    run = RunDirectory.open(run_file)
    redact_logs()
    prefix_levels()
    die_with_parent(float(os.environ.get("UNUNENNIUM_GRACE_S", "25")))
    tell_where_on_signal(run.stacks_folder / f"rank{rank}.txt")
    register_process(run, rank)
    stop = StopOnSignal()
    status = ended_for_good(run, rank)
    if status is not None:
        return status
    try:
        config = run.config()
        # The launcher sees a stall first; this is for the ranks whose launcher is gone.
        patience = 2 * (config.launcher.stall_timeout_s or _A_DAY_S)
        with distributed.process_group(config.trainer.device, timeout_s=patience):
            with _waiting("reading the index, and making the model and the loaders"):
                components = Components(run)
            with _waiting(f"looking for a checkpoint in {run.checkpoints_url}"):
                resume = _resume_from(run)
            if NO_CHECK not in options and resume is None:
                with _waiting("trying two batches"):
                    found = check_training(components)
                if distributed.rank() == 0:
                    _say(f"checked: {found.in_words()}")
            reading = [] if resume is None else [EndWait(_waiting("reading the checkpoint"))]
            return _train(run, *build_trainer(run, [stop, *reading], components), resume)
    except BaseException as error:
        if not isinstance(error, Exception):
            traceback.print_exc()
        report_error(rank_error_file(run, rank), rank, error)
        return 1


def check(run: RunDirectory) -> int:
    """Check that ``run`` can be trained, and write what was found; returns the exit status."""
    redact_logs()
    prefix_levels()
    die_with_parent(grace_s=5.0)
    try:
        components = Components(run)
        found = check_training(components)
        build_trainer(run, components=components)
        write_json(run.check_file, {**found.to_json(), "words": found.in_words()})
    except Exception as error:
        report_error(run.check_error_file, 0, error)
        return 1
    return 0


def build_trainer(
    run: RunDirectory, more_callbacks: Sequence[Callback] = (), components: Components | None = None
) -> tuple[Trainer, CheckpointCallback]:
    """Trainer of ``run``, with all that it describes.

    Args:
        run: a run whose index and statistics have been written.
        more_callbacks: added to those that the configuration asks for.
        components: of the run, if they have been made already.

    Returns:
        The Trainer, and the callback that keeps its checkpoints.

    Raises:
        ConfigError: a component cannot be made as configured, or does not fit the data.
    """
    components = components or Components(run)
    config, index = components.config, components.index
    optimizer = components.make_optimizer(components.model)
    scheduler = components.make_scheduler(optimizer)
    with named_by_setting():
        checkpoint = CheckpointCallback(
            run.checkpoints_url,
            config.checkpoints.monitor,
            config.checkpoints.mode,
            config.checkpoints.save_top_k,
            every_n_steps=config.checkpoints.every_n_steps,
            background=config.checkpoints.background,
            snapshot=config.checkpoints.snapshot,
        )
        callbacks: list[Callback] = [
            *more_callbacks,
            components.make_validation_metrics(),
            *components.make_own_metrics(),
            MetricsFile(str(run.metrics_file)),
            Progress(_say),
            Heartbeat(run),
            SamplePrediction(run.sample_file, index),
            *trackers(run, config),
            *components.make_own_callbacks(),
            checkpoint,
        ]
        if config.trainer.ema_decay is not None:
            callbacks.append(EMA(config.trainer.ema_decay))
        if config.early_stopping is not None:
            early = config.early_stopping
            callbacks.append(EarlyStopping(early.monitor, early.patience, early.min_delta, mode=early.mode))
        trainer = Trainer(
            components.model,
            optimizer,
            components.loss_fn,
            components.loaders.train,
            components.loaders.validation,
            scheduler,
            callbacks,
            components.settings,
            batch_transform=components.make_transform(),
            progress=False,
        )
    return trainer, checkpoint


def trackers(run: RunDirectory, config: RunConfig) -> list[Callback]:
    """The callbacks that the section ``tracking`` asks for."""
    tracking, found = config.tracking, list[Callback]()
    if tracking.tensorboard is not None:
        found.append(TensorBoard(f"{tracking.tensorboard.rstrip('/')}/{run.run_id}"))
    if tracking.mlflow is not None:
        experiment = tracking.mlflow_experiment or config.name
        found.append(MLflow(tracking.mlflow, experiment, run.run_id, config.model_dump(mode="json")))
    return found


def _resume_from(run: RunDirectory) -> str | None:
    """The folder of the checkpoints to go on from, the same on all ranks; None if there are none yet."""
    newest = None
    if distributed.rank() == 0:
        for manifest in upload_left(run.checkpoints_url):
            _say(f"uploaded the checkpoint after epoch {manifest.epoch}, which an earlier process had to leave")
        newest = CheckpointStore(run.checkpoints_url).latest()
        if restarts():
            limit = os.environ.get("TORCHELASTIC_MAX_RESTARTS", "?")
            _say(f"a training process was lost: restart {restarts()} of {limit}")
        if newest is not None:
            batch = f", batch {newest.batches_done}" if newest.batches_done else ""
            _say(f"going on from the checkpoint after epoch {newest.epoch}{batch}")
    found: str | None = distributed.broadcast(run.checkpoints_url if newest is not None else None)
    return found


def _train(run: RunDirectory, trainer: Trainer, checkpoint: CheckpointCallback, resume: str | None) -> int:
    """Train, and write the result; returns the exit status."""
    store = CheckpointStore(run.checkpoints_url)
    started = time.monotonic()
    trainer.fit(resume_from=resume)
    reason = trainer.state.stop_reason
    if trainer.is_main_process:
        kept = store.manifests() if checkpoint.problem is None else checkpoint.kept  # it may not answer
        best = next(iter(best_first(kept)), None)
        write_json(
            run.result_file,
            {
                "stop_reason": reason.value if reason else StopReason.COMPLETED.value,
                "message": trainer.state.stop_message,
                "epochs": trainer.state.epoch,
                "best_epoch": best.epoch if best else None,
                "best_score": best.score if best else None,
                "best_checkpoint": best.url if best else None,
                "last_checkpoint": kept[-1].url if kept else None,
                "checkpoints": [manifest.url for manifest in kept],
                "monitor": checkpoint.monitor.monitor,
                "mode": checkpoint.monitor.mode,
                "history": finite(trainer.history),
                "device": str(trainer.device),
                "precision": trainer.precision.name,
                "world_size": distributed.world_size(),
                "skipped_steps": trainer.state.skipped_steps,
                "data_wait": trainer.data_wait.of_run,
                "storage_problem": checkpoint.problem,
                "duration_s": round(time.monotonic() - started, 3),
                "cost": cost_of(trainer),
            },
        )
        if checkpoint.problem is not None and reason is not StopReason.PREEMPTED:
            raise StorageError(f"training is done, but {checkpoint.problem} ('ununennium train --resume')")
    return PREEMPTED_EXIT_CODE if reason is StopReason.PREEMPTED else 0


def _say(line: str) -> None:
    """A line for whoever watches the run; the launcher passes it on."""
    print(line, flush=True)  # noqa: T201


def _waiting(text: str) -> Wait:
    """Tell whoever watches the run, by rank 0, what takes more than two seconds."""
    return Wait(text, _say if distributed.rank() == 0 else None)


def tell_where_on_signal(file: Path) -> None:
    """Write every thread's stack into ``file`` when the launcher asks, even where Python code does not get to run."""
    file.parent.mkdir(parents=True, exist_ok=True)
    faulthandler.register(STACKS_SIGNAL, file.open("w"), all_threads=True)


if __name__ == "__main__":
    sys.exit(main())

"""Measure a checkpoint, or a version of a model, on a holdout; nothing is decided, kept or promoted.

No torch here: the measurement runs in a process of its own.
"""

from __future__ import annotations

import secrets
import shutil
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ununennium.checkpoints.manifest import Manifest
from ununennium.checkpoints.store import CheckpointStore
from ununennium.config import RunConfig
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.index_cache import check_unchanged, indexed
from ununennium.errors import CheckpointError
from ununennium.evaluation.evaluation import Evaluation
from ununennium.evaluation.records import EvaluationRecord
from ununennium.files import work_root, write_json
from ununennium.launch.stalls import OnLine
from ununennium.processes.entry_points import Worker
from ununennium.processes.worker import run_worker
from ununennium.runs.directory import RunDirectory


def measure_checkpoint(run: RunDirectory, which: str, *, on_line: OnLine = print) -> tuple[Manifest, Evaluation]:
    """Measure a checkpoint of ``run`` on the holdout of that run.

    Args:
        run: run of the checkpoint.
        which: the number of an epoch (of several checkpoints the last one within it), ``last`` or ``best``.
        on_line: told what is being done, from a thread.

    Raises:
        CheckpointError: there is no such checkpoint, or it is damaged.
        DataError: the imagery or labels changed since the run indexed them.
        ProcessLost: the measuring process was killed; a new call begins anew.
    """
    manifest = find_checkpoint(run.checkpoints_url, which)
    index = ChipIndex.load(run.index_file)
    check_unchanged(index)
    job = {"checkpoint": manifest.url}
    found = in_process(run.config(), run.storage, index, job, statistics=run.statistics_file, on_line=on_line)
    return manifest, found.new_model


def measure_version(config: RunConfig, storage: str, version: str, *, on_line: OnLine = print) -> Evaluation:
    """Measure a version of the model ``config.name`` on the holdout of ``config.data``.

    Args:
        config: the data and the split; nothing is trained.
        storage: storage of the registry.
        version: version of the model.
        on_line: told what is being done, from a thread.

    Raises:
        CheckpointError: the version is not there, or is damaged.
        ConfigError: it knows other classes, or was made for another task.
        DataError: imagery or labels that cannot be used.
        ProcessLost: the measuring process was killed; a new call begins anew.
    """
    found = in_process(config, storage, index_of(config, on_line), {"version": version}, on_line=on_line)
    return found.new_model


def measure_champion(config: RunConfig, storage: str, *, on_line: OnLine = print) -> EvaluationRecord:
    """Evaluate the champion of ``config.name`` as ``measure_version`` does a version; it is the record's champion."""
    return in_process(config, storage, index_of(config, on_line), {}, on_line=on_line)


def find_checkpoint(url: str, which: str) -> Manifest:
    """The checkpoint ``which`` (see ``measure_checkpoint``) of those at ``url``.

    Raises:
        CheckpointError: there is none; the message names those that are there.
    """
    store = CheckpointStore(url)
    manifests = store.manifests()
    found = {"best": store.best(), "last": manifests[-1] if manifests else None}.get(which)
    found = found or next((each for each in reversed(manifests) if str(each.epoch) == which), None)
    if found is None:
        there = ", ".join(str(epoch) for epoch in sorted({each.epoch for each in manifests})) or "none"
        raise CheckpointError(
            f"{url} has no checkpoint {which!r}: say 'best', 'last', or the number of an epoch (there: {there})"
        )
    return found


def index_of(config: RunConfig, on_line: OnLine) -> ChipIndex:
    """The index of the data of ``config`` as they are now; its notes are said."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the notes are said below
        index = indexed(config.data, on_line, for_training=False).index
    for note in index.notes:
        on_line(f"warning: {note}")
    return index


def in_process(
    config: RunConfig,
    storage: str,
    index: ChipIndex,
    job: Mapping[str, Any],
    *,
    statistics: Path | None = None,
    on_line: OnLine,
) -> EvaluationRecord:
    """The findings of ``workers.evaluate_model`` for ``job``, in a process of its own that leaves nothing behind."""
    work = work_root() / f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-measure-{config.name}-{secrets.token_hex(2)}"
    try:
        work.mkdir(parents=True)
        index.save(work / "index.json")
        if statistics is not None:
            shutil.copyfile(statistics, work / "statistics.json")
        write_json(work / "job.json", {"storage": storage, "config": config.model_dump(mode="json"), **job})
        run_worker(
            Worker.EVALUATE_MODEL,
            [work / "job.json"],
            what="evaluation",
            error_file=work / "error.json",
            on_line=on_line,
        )
        return EvaluationRecord.load(work / "measured.json")
    finally:
        shutil.rmtree(work, ignore_errors=True)

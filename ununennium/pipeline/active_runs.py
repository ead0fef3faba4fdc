"""Active runs: those that train here by their heartbeats, others by what the storage shows of them."""

from __future__ import annotations

import platform
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ununennium.errors import UnunenniumError
from ununennium.files import work_root
from ununennium.launch.stalls import processes
from ununennium.moved import former_attribute
from ununennium.report.facts import epoch_rows
from ununennium.report.rows import duration_text
from ununennium.runs.directory import RunDirectory
from ununennium.runs.heartbeat import RunProgress
from ununennium.runs.listing import newest_summaries
from ununennium.runs.records import RunRecord, RunSummary
from ununennium.storage.open import open_storage

TRAINS = "trains"
_SILENT_S = 30.0
_LOOKED_AT = 30


@dataclass(frozen=True)
class ActiveRun:
    """A run that is under way.

    Attributes:
        run_id: its name.
        state: current activity, in words; ``TRAINS`` as long as batches are done.
        progress: batches and epochs done, and speed; None of a run that does not train here.
        metrics: the last epoch's line of ``metrics.jsonl``; empty before the first.
    """

    run_id: str
    state: str
    progress: RunProgress | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    standing = former_attribute("ActiveRun", "standing", "progress")


def local_runs(storage: str, name: str | None = None) -> list[ActiveRun]:
    """The runs of ``storage`` that train on this machine, or into its work folder, newest first.

    Args:
        storage: as ``resolve_storage`` gives it.
        name: only this model's.
    """
    found = []
    for file in sorted(work_root().glob("*/heartbeat.json"), reverse=True):
        run = RunDirectory(file.parent.name, file.parent, storage)
        progress = RunProgress.of(run)
        if progress is None:
            continue
        silent_s = time.time() - progress.told
        if not any(process.alive for process in processes(run)) and not _is_told_by_another(run, silent_s):
            continue
        try:
            record = run.record()
            mine = record.storage == storage and name in (None, record.name)
        except UnunenniumError:
            continue
        if mine:
            state = TRAINS if silent_s < _SILENT_S else f"silent for {duration_text(silent_s)}"
            rows = epoch_rows(run.metrics_file)
            found.append(ActiveRun(run.run_id, state, progress, rows[-1] if rows else {}))
    return found


def _is_told_by_another(run: RunDirectory, silent_s: float) -> bool:
    """Tell whether another machine, whose processes cannot be seen from here, trains into this work folder."""
    if silent_s > _SILENT_S:
        return False
    try:
        return run.record().last_host != platform.node()
    except UnunenniumError:
        return False


def unfinished_runs(storage: str, name: str | None = None) -> list[ActiveRun]:
    """The newest runs of ``storage`` whose summary has no end, wherever they are: under way, or lost.

    A run tells the storage when it begins and when training ends, and nothing between.

    Args:
        storage: as ``resolve_storage`` gives it.
        name: only this model's.
    """
    found = []
    for summary in newest_summaries(storage, name, _LOOKED_AT):
        if summary.stop_reason is not None or summary.verdict is not None:
            continue
        content = open_storage(f"{storage}/runs/{summary.run_id}").read_bytes("run.json")
        host = RunRecord.from_bytes(content).last_host
        if host == platform.node():
            state = "does not train at the moment, or was lost"
        else:
            state = f"on {host} (the storage will tell its end)"
        found.append(ActiveRun(summary.run_id, state))
    return found


def end_of(storage: str, run_id: str) -> str:
    """End of a run that is no longer active, in words, as the storage has it."""
    summary = RunSummary.from_bytes(open_storage(f"{storage}/runs/{run_id}").read_bytes("summary.json"))
    if summary.stop_reason is None:
        return "does not train any more"
    words = f"training ended: {summary.stop_reason} after {summary.epochs or 0} epochs"
    return f"{words}, {summary.verdict_text}" if summary.verdict else words

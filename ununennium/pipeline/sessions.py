"""Sessions: find the interrupted run of a configuration to resume, or create a new one.

A run is the same if its configuration, its data, the code and the versions of what computes it are. It was interrupted
if it was asked to stop while it trained, or was killed; one that failed, or came to its end, is never taken up again.
Only the machine that a run was on can tell whether it still lives: elsewhere it goes on by name (``train --resume``),
or within the same flow run, of which Prefect starts one try at a time.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import IO, Any

from ununennium.config import RunConfig
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.index_cache import check_unchanged
from ununennium.data.scenes.catalog import open_catalog
from ununennium.errors import ConfigError, DataError, StorageError, UnunenniumError
from ununennium.files import write_json
from ununennium.launch.result import Preempted
from ununennium.launch.stalls import processes
from ununennium.pipeline.approval import AWAITING
from ununennium.pipeline.stages import refresh
from ununennium.pipeline.summary import report, summarise
from ununennium.processes.supervise import POLL_S
from ununennium.runs.directory import RunDirectory
from ununennium.runs.listing import newest_summaries
from ununennium.runs.provenance import git_commit, versions
from ununennium.runs.records import Attempt, RunRecord, RunSummary
from ununennium.storage.base import Storage
from ununennium.storage.open import open_storage, resolve_storage

_LOOKED_AT = 10
_HOW_TO_SAVE = ("resume", "background", "snapshot")
_HOW_TO_TELL = ("tracking", "card")
_MARGIN_S = 5.0

Say = Callable[[str], None]


@contextlib.contextmanager
def open_run(
    config: RunConfig,
    *,
    started_by: Mapping[str, Any] | None = None,
    continues: str | None = None,
    again: bool = False,
    keep: bool = True,
    on_line: Say = print,
) -> Iterator[RunDirectory]:
    """The run that ``config`` asks for, whose summary says how it ended even if that was by an exception.

    Args:
        config: configuration of the run; with ``checkpoints.resume`` an interrupted run of the same is continued.
        started_by: person or program that asks, such as the ids of a flow run; recorded in ``run.json``.
        continues: id of a flow run that is known to have ended; what it asked for goes on wherever it was.
        again: whether the flow run has been under way before: a run of it that was judged, and waits for a person, goes
            on whatever has changed since, as nothing is computed again.
        keep: False leaves nothing behind, neither here nor in the storage (a dry run).
        on_line: told if a run goes on, or why one that was interrupted does not.

    Raises:
        StorageError: the work folder or the storage cannot be written.
    """
    flow_runs = {(started_by or {}).get("flow_run_id"), continues} - {None}
    waiting = _waiting(config, flow_runs) if keep and (again or continues is not None) else None
    if waiting is not None:
        run, lease = waiting
        on_line(f"going on with {run.run_id}, which has been judged")
        with lease, _summarised(run):
            if not _is_of_flow(run.record(), {(started_by or {}).get("flow_run_id")}):
                _record_start(run, started_by or {})
                run.publish([run.run_file])
            yield run
        return
    found = _interrupted(config, flow_runs, on_line) if keep and config.checkpoints.resume else None
    if found is not None:
        run, lease = found
        with lease, _summarised(run):
            _take_up(run, started_by or {}, config)
            yield run
        return
    run = RunDirectory.create(config, started_by=started_by)
    if not keep:
        try:
            yield run
        finally:
            shutil.rmtree(run.work, ignore_errors=True)
        return
    with _lease(run) or contextlib.nullcontext(), _summarised(run):
        summarise(run)
        run.publish([run.run_file, run.summary_file])
        yield run


@contextlib.contextmanager
def resume_run(run: RunDirectory, *, started_by: Mapping[str, Any] | None = None) -> Iterator[RunDirectory]:
    """``run``, whatever ended it, to go on.

    Raises:
        ConfigError: it has not ended: a process of this machine is at it.
    """
    lease = _lease(run)
    if lease is None:
        owner = (run.work / "lease").read_text(encoding="utf-8")
        raise ConfigError("run", run.run_id, f"is under way (process {owner}); wait for its end, or stop it first")
    with lease, _summarised(run):
        _take_up(run, started_by or {})
        yield run


def _take_up(run: RunDirectory, started_by: Mapping[str, Any], config: RunConfig | None = None) -> None:
    """Record who goes on with ``run``, and whom it tells from now on; it has no end any more."""
    _wait_for_processes(run)
    _record_start(run, started_by)
    if config is not None:
        record, asked = run.record(), config.model_dump(mode="json")
        told = {**record.config, **{name: asked[name] for name in _HOW_TO_TELL}}
        write_json(run.run_file, replace(record, config=told))
    run.result_file.unlink(missing_ok=True)
    summarise(run)
    run.publish([run.run_file, run.summary_file])


def _record_start(run: RunDirectory, started_by: Mapping[str, Any]) -> None:
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    record, again = run.record(), Attempt(now, platform.node(), versions(), dict(started_by))
    write_json(run.run_file, replace(record, resumed=(*record.resumed, again)))


@contextlib.contextmanager
def _summarised(run: RunDirectory) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        with contextlib.suppress(Exception):  # the error that ended the run is the one to see
            if summarise(run).verdict != AWAITING:  # which is no end: whoever answers goes on
                was_stopped = isinstance(error, Preempted) or not isinstance(error, Exception)
                known = isinstance(error, UnunenniumError)
                reason = str(error) if known else f"{type(error).__name__}: {error}".rstrip(": ")
                summarise(run, stop_reason="preempted" if was_stopped else "failed", reason=reason)
                run.publish([run.summary_file, run.metrics_file, run.result_file])
                report(run)
        raise


def _waiting(config: RunConfig, flow_runs: set[Any]) -> tuple[RunDirectory, IO[str]] | None:
    """The run of one of ``flow_runs`` that waits, or waited, for a person, and the lease of it.

    Raises:
        ConfigError: another process is at it.
    """
    storage = resolve_storage(config.storage)
    for summary in newest_summaries(storage, config.name):
        if summary.verdict is None:
            continue
        files = open_storage(f"{storage}/runs/{summary.run_id}")
        if not files.exists("approval.json") or not _is_of_flow(_record_in(files), flow_runs):
            continue
        run = RunDirectory.fetch(storage, summary.run_id)
        lease = _lease(run)
        if lease is None:
            raise ConfigError("run", run.run_id, "is under way in another process; wait for its end")
        refresh(run)
        return run, lease
    return None


def _interrupted(config: RunConfig, flow_runs: set[Any], on_line: Say) -> tuple[RunDirectory, IO[str]] | None:
    """An interrupted run of the same, and the lease of it."""
    storage = resolve_storage(config.storage)
    wanted = _settings(config.model_copy(update={"storage": storage}).model_dump(mode="json"))
    candidates = []
    for summary in newest_summaries(storage, config.name, _LOOKED_AT):
        run_id = summary.run_id
        try:
            record = _record_in(open_storage(f"{storage}/runs/{run_id}"))
            if _settings(record.config) == wanted and _was_interrupted(summary, record, flow_runs):
                candidates.append((run_id, record))
        except (OSError, KeyError, ValueError, UnunenniumError) as error:
            on_line(f"{run_id} is passed over, since its run.json cannot be read: {error!r}")
    for run_id, record in sorted(candidates, key=lambda candidate: not _is_of_flow(candidate[1], flow_runs)):
        try:
            _require_same_code(record)
            _require_same_place(record, flow_runs)
            run = RunDirectory.fetch(storage, run_id)
            lease = _lease(run)
            if lease is None:  # it is under way
                continue
            try:
                _require_same_data(config, run)
            except BaseException:
                lease.close()
                raise
        except (OSError, UnunenniumError) as error:
            on_line(f"{run_id} was interrupted, but does not go on by itself: {error}")
        else:
            on_line(f"going on with {run_id}, which was interrupted; checkpoints.resume=false starts anew")
            return run, lease
    return None


def _record_in(files: Storage) -> RunRecord:
    return RunRecord.from_bytes(files.read_bytes("run.json"))


def _was_interrupted(summary: RunSummary, record: RunRecord, flow_runs: set[Any]) -> bool:
    if summary.verdict is not None:
        return False
    return summary.stop_reason in (None, "preempted") or _is_of_flow(record, flow_runs)


def _is_of_flow(record: RunRecord, flow_runs: set[Any]) -> bool:
    """Tell whether one of ``flow_runs`` has asked for this run before: this is its next try."""
    return any(attempt.started_by.get("flow_run_id") in flow_runs for attempt in record.attempts)


def _require_same_code(record: RunRecord) -> None:
    """Raises ``ConfigError`` if something else computes now than when the run began."""
    now, then = versions(), record.versions
    for package in sorted(now.keys() | then.keys()):
        if then.get(package) != now.get(package):
            raise ConfigError("versions", now.get(package), f"{package} was {then.get(package)} when it began")
    commit = git_commit()
    if record.git_commit != commit or (commit or "").endswith("+"):
        raise ConfigError("git_commit", commit, f"it began with {record.git_commit}, and + stands for any change")


def _require_same_place(record: RunRecord, flow_runs: set[Any]) -> None:
    """Raises ``ConfigError`` if nobody here can tell whether the run still lives."""
    host = record.last_host
    if host != platform.node() and not _is_of_flow(record, flow_runs):
        remedy = f"it was on {host}; if it has ended there, 'ununennium train --resume' goes on with it"
        raise ConfigError("host", platform.node(), remedy)


def _require_same_data(config: RunConfig, run: RunDirectory) -> None:
    """Raises ``DataError`` if the data are not those that ``run`` indexed, if it came that far."""
    if run.plan_file.exists():
        index = ChipIndex.load(run.index_file)
        scenes = open_catalog(config.data, None)
        if [scene.to_dict() for scene in scenes] != [scene.to_dict() for scene in index.scenes]:
            raise DataError("the catalog has other scenes now")
        check_unchanged(index)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Part of a configuration that decides the result."""
    checkpoints = {key: value for key, value in config["checkpoints"].items() if key not in _HOW_TO_SAVE}
    return {**{key: value for key, value in config.items() if key not in _HOW_TO_TELL}, "checkpoints": checkpoints}


def _lease(run: RunDirectory) -> IO[str] | None:
    """The right to work on ``run``, until it is closed or this process ends; None if another process has it.

    Raises:
        StorageError: files cannot be locked there.
    """
    file = (run.work / "lease").open("a+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        file.close()
        message = f"{file.name} cannot be locked: {error.strerror or error}; set UNUNENNIUM_WORK to another folder"
        raise StorageError(message) from error
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return file


def _wait_for_processes(run: RunDirectory) -> None:
    """Let training processes whose launcher was killed write their last checkpoint and end, as they do by themselves.

    Raises:
        ConfigError: they do not.
    """
    deadline = time.monotonic() + run.config().launcher.grace_s + _MARGIN_S
    while alive := [process.pid for process in processes(run) if process.alive]:
        if time.monotonic() > deadline:
            raise ConfigError("run", run.run_id, f"process {alive[0]} still trains it; end that process first")
        time.sleep(POLL_S)

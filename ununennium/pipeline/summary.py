"""Summary and report of a run, from the files that it has so far."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from ununennium.checkpoints.registry import PROMOTED, Promotion, Registry
from ununennium.evaluation.records import GateRecord
from ununennium.files import write_json
from ununennium.launch.watch import OnLine
from ununennium.pipeline import approval
from ununennium.report.run import write_report
from ununennium.runs.directory import RunDirectory, read_json
from ununennium.tasks import headline


def summarise(run: RunDirectory, *, stop_reason: str | None = None, reason: str | None = None) -> dict[str, Any]:
    """Write and return ``summary.json``, what ``ununennium runs`` lists, from the files that the run has so far.

    Args:
        run: the run.
        stop_reason: how it ended, where no file says so.
        reason: the same in words.
    """
    record = run.record()
    result, measured, promotion = (
        read_json(file) if file.exists() else None
        for file in (run.result_file, run.evaluation_file, run.promotion_file)
    )
    gate = GateRecord.load(run.gate_file) if run.gate_file.exists() else None
    metrics = measured["challenger"]["metrics"] if measured else None
    champion = Registry(run.storage, record["name"]).current()
    stop_reason = result["stop_reason"] if result else stop_reason
    verdict, gate_reason = _verdict(gate, promotion, approval.record_of(run))
    summary = {
        "run_id": run.run_id,
        "name": record["name"],
        "started": record["started"],
        "finished": datetime.now(UTC).isoformat(timespec="milliseconds") if stop_reason else None,
        "stop_reason": stop_reason,
        "epochs": result["epochs"] if result else None,
        "best_epoch": result["best_epoch"] if result else None,
        "data_wait": result.get("data_wait") if result else None,
        "holdout": headline(metrics) if metrics else None,
        "verdict": verdict,
        "reason": reason or gate_reason or (result["message"] if result else None),
        "checkpoints": result["checkpoints"] if result else [],
        "champion": champion_summary(run.storage, record["name"], champion) if champion else None,
        "places": _places(run),
    }
    write_json(run.summary_file, summary)
    return summary


def champion_summary(storage: str, name: str, promotion: Promotion) -> dict[str, Any]:
    """Champion, and its place in the storage."""
    return {
        "generation": promotion.generation,
        "version": promotion.version,
        "run_id": promotion.run_id,
        "url": Registry(storage, name).version_url(promotion.version),
    }


def report(run: RunDirectory, *, on_line: OnLine = print) -> None:
    """Write and publish the report of ``run`` as it stands; what hinders it is said, and ends no run."""
    try:
        run.publish([write_report(run)])
    except Exception as error:
        on_line(f"the report of {run.run_id} could not be written: {type(error).__name__}: {error}")


def _verdict(
    gate: GateRecord | None, promotion: dict[str, Any] | None, asked: dict[str, Any] | None
) -> tuple[str | None, str | None]:
    """Verdict and reason; a candidate that may be promoted and has not been is not promoted, or waits for a person."""
    if gate is None:
        return None, None
    if gate.verdict != PROMOTED or promotion is not None:
        return gate.verdict, gate.reason
    if asked is not None and asked["state"] == approval.PENDING:
        return approval.AWAITING, f"passes the gate ({gate.reason}), and waits for a person to approve it"
    return (
        "not_promoted",
        f"passes the gate ({gate.reason}), but has not been promoted: 'ununennium promote' does it",
    )


def _places(run: RunDirectory) -> dict[str, str]:
    """Locations of the files of a run."""
    made = {
        "checkpoints": (run.result_file, "checkpoints"),
        "gate": (run.gate_file, "gate.json"),
        "prediction": (run.prediction_folder, "prediction"),
        "pictures": (run.pictures_folder, "pictures"),
        "report": (run.report_file, run.report_file.name),
    }
    return {"files": run.url} | {name: f"{run.url}/{key}" for name, (file, key) in made.items() if file.exists()}

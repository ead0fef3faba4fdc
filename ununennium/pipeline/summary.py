"""Summary and report of a run, from the files that it has so far."""

from __future__ import annotations

from datetime import UTC, datetime

from ununennium.checkpoints.registry import PROMOTED, Promotion, Registry
from ununennium.evaluation.records import EvaluationRecord, GateRecord
from ununennium.files import finite, write_json
from ununennium.launch.stalls import OnLine
from ununennium.pipeline import approval
from ununennium.report.run import write_report
from ununennium.runs.directory import RunDirectory, read_json
from ununennium.runs.records import ChampionSummary, RunSummary
from ununennium.tasks import headline


def summarise(run: RunDirectory, *, stop_reason: str | None = None, reason: str | None = None) -> RunSummary:
    """Write and return ``summary.json``, a line of ``ununennium runs``, from the files that the run has so far.

    Args:
        run: the run.
        stop_reason: how it ended, where no file says so.
        reason: the same in words.
    """
    record = run.record()
    result = read_json(run.result_file) if run.result_file.exists() else None
    evaluation = EvaluationRecord.load(run.evaluation_file) if run.evaluation_file.exists() else None
    gate = GateRecord.load(run.gate_file) if run.gate_file.exists() else None
    champion = Registry(run.storage, record.name).current()
    stop_reason = result["stop_reason"] if result else stop_reason
    verdict, gate_reason = _verdict(gate, run.promotion_file.exists(), approval.record_of(run))
    summary = RunSummary(
        run_id=run.run_id,
        name=record.name,
        started=record.started,
        finished=datetime.now(UTC).isoformat(timespec="milliseconds") if stop_reason else None,
        stop_reason=stop_reason,
        epochs=result["epochs"] if result else None,
        best_epoch=result["best_epoch"] if result else None,
        data_wait=result.get("data_wait") if result else None,
        holdout=finite(headline(evaluation.new_model.metrics)) if evaluation else None,
        verdict=verdict,
        reason=reason or gate_reason or (result["message"] if result else None),
        checkpoints=result["checkpoints"] if result else [],
        champion=champion_summary(run.storage, record.name, champion) if champion else None,
        places=_places(run),
    )
    write_json(run.summary_file, summary)
    return summary


def conclude(run: RunDirectory, *, on_line: OnLine = print) -> RunSummary:
    """Write and publish summary and report of ``run`` as it stands."""
    summary = summarise(run)
    run.publish([run.summary_file])
    report(run, on_line=on_line)
    return summary


def champion_summary(storage: str, name: str, promotion: Promotion) -> ChampionSummary:
    """Champion of the model ``name``, with its URL in the storage."""
    url = Registry(storage, name).version_url(promotion.version)
    return ChampionSummary(promotion.generation, promotion.version, promotion.run_id, url)


def report(run: RunDirectory, *, on_line: OnLine = print) -> None:
    """Write and publish the report of ``run`` as it stands; what hinders it is said, and ends no run."""
    try:
        run.publish([write_report(run)])
    except Exception as error:
        on_line(f"the report of {run.run_id} could not be written: {type(error).__name__}: {error}")


def _verdict(
    gate: GateRecord | None, promoted: bool, asked: approval.ApprovalRecord | None
) -> tuple[str | None, str | None]:
    """Verdict and reason; a candidate that may be promoted and has not been is not promoted, or waits for a person."""
    if gate is None:
        return None, None
    if gate.verdict != PROMOTED or promoted:
        return gate.verdict, gate.reason
    if asked is not None and asked.state == approval.PENDING:
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

"""Promotion of a judged candidate, after a smoke test of the stored artefact."""

from __future__ import annotations

from ununennium.checkpoints.registry import PROMOTED, Promotion, Registry
from ununennium.errors import GateError
from ununennium.evaluation.gate import Check, with_check
from ununennium.evaluation.records import EvaluationRecord, GateRecord
from ununennium.files import write_json
from ununennium.launch.training import smoke_test
from ununennium.pipeline.summary import summarise
from ununennium.report.card import write_card
from ununennium.runs.directory import RunDirectory


def promote(run: RunDirectory, *, actor: str) -> Promotion:
    """Make the judged candidate of ``run`` the champion, once the storage has shown that it holds that very model.

    Raises:
        GateError: the gate's verdict does not allow it, or the stored artefact fails the smoke test.
        PromotionConflict: the champion it was compared with is no longer the champion.
    """
    promotion = make_champion(run, actor=actor)
    summarise(run)
    run.publish([run.summary_file])
    return promotion


def make_champion(run: RunDirectory, *, actor: str) -> Promotion:
    """``promote`` without the summary, which the caller writes."""
    record, gate = run.record(), GateRecord.load(run.gate_file)
    registry = Registry(run.storage, record.name)
    if gate.verdict != PROMOTED:
        raise GateError(f"{run.run_id} cannot be promoted: {gate.reason}")
    version = registry.add_version(run.artifact_folder)
    gate = with_check(gate, _smoke_test(run, registry.version_url(version)))
    write_gate(run, gate)
    if gate.verdict != PROMOTED:
        raise GateError(f"{run.run_id} is not promoted: {gate.reason}")
    registry.describe(version, write_card(run, version, gate))
    promotion = registry.promote(
        version,
        expected_generation=gate.generation,
        gate=gate.to_json(),
        actor=actor,
        run_id=run.run_id,
        token=run.run_id,
        checkpoint=EvaluationRecord.load(run.evaluation_file).checkpoint,
        flow_run_id=str(record.started_by.get("flow_run_id") or ""),
    )
    write_json(run.promotion_file, {"generation": promotion.generation, "version": promotion.version, "actor": actor})
    run.publish([run.promotion_file])
    return promotion


def _smoke_test(run: RunDirectory, url: str) -> Check:
    """Check that the storage holds the very model that was evaluated."""
    if not run.probe_file.exists():
        passed, words = False, "the run has nothing to compare with; evaluate it again ('ununennium evaluate')"
    else:
        passed, words = smoke_test(url, run.probe_file, run.run_file)
    reason = f"loaded from the storage by a fresh process: {words}"
    return Check("smoke test", None, None, None, passed, reason, "smoke test")


def write_gate(run: RunDirectory, gate: GateRecord) -> None:
    """Write and publish ``gate.json``."""
    write_json(run.gate_file, gate)
    run.publish([run.gate_file])

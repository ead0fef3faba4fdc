"""Stages of a run after its plan: train, evaluate, decide, promote. The flow and the command line are made of these.

No Prefect here, and no torch: training and evaluation run in processes of their own.
"""

from __future__ import annotations

from collections.abc import Callable

from ununennium.checkpoints.registry import PROMOTED
from ununennium.data.chips.index import ChipIndex
from ununennium.data.chips.index_cache import check_unchanged
from ununennium.errors import GateError, PromotionConflict
from ununennium.evaluation.gate import decide, with_check
from ununennium.evaluation.records import EvaluationRecord, GateRecord
from ununennium.files import write_json
from ununennium.formatting import scenes_text
from ununennium.launch.result import TrainingResult
from ununennium.launch.stalls import OnLine
from ununennium.launch.training import evaluate_in_subprocess, launch
from ununennium.live_line import Wait
from ununennium.pipeline import approval
from ununennium.pipeline.approval import Answer
from ununennium.pipeline.promotion import make_champion, write_gate
from ununennium.pipeline.summary import conclude, report, summarise
from ununennium.runs.directory import RunDirectory
from ununennium.runs.records import RunSummary

ATTEMPTS = 3
"""Times that a candidate is judged anew because another champion was promoted in the meantime."""


def train(
    run: RunDirectory, *, check: bool = True, on_line: OnLine = print, on_wait: Callable[[], None] | None = None
) -> TrainingResult:
    """Train under torchrun; a run that has checkpoints goes on from the newest. ``require_usable`` tells failures.

    Args:
        run: a prepared run.
        check: train one batch on copies first, so that a wrong setting shows itself at once.
        on_line: told what rank 0 prints.
        on_wait: called every quarter of a second while training runs; what it raises ends training with a checkpoint.

    Raises:
        DataError: the imagery or labels changed since the run indexed them.
    """
    settings = run.config().launcher
    index = ChipIndex.load(run.index_file)
    with Wait(f"checking that {scenes_text(len(index.scenes))} did not change", on_line):
        check_unchanged(index)
    with Wait(f"writing the plan to {run.storage}", on_line):
        run.publish([run.plan_file, run.index_file, run.statistics_file, run.split_file])
    result = launch(
        run,
        nproc=settings.nproc_per_node,
        timeout_s=settings.timeout_s,
        grace_s=settings.grace_s,
        stall_timeout_s=settings.stall_timeout_s,
        max_restarts=settings.max_restarts,
        check=check,
        on_line=on_line,
        on_wait=on_wait,
    )
    with Wait("writing the report", on_line):
        summarise(run)
        run.publish([run.result_file, run.metrics_file, run.summary_file])
        report(run, on_line=on_line)
    return result


def evaluate(run: RunDirectory, *, on_line: OnLine = print, on_wait: Callable[[], None] | None = None) -> GateRecord:
    """Measure the best checkpoint and the champion on the holdout, and decide; promotes nothing.

    Args:
        run: with a checkpoint.
        on_line: told what the evaluation prints.
        on_wait: called every quarter of a second meanwhile; what it raises ends the evaluation.

    Returns:
        The decision, which is also ``gate.json``.
    """
    evaluate_in_subprocess(run, on_line=on_line, on_wait=on_wait)
    measured = EvaluationRecord.load(run.evaluation_file)
    decision = decide(
        measured.new_model,
        measured.champion,
        run.config().gate,
        champion_error=measured.champion_error,
        notes=_notes(measured),
        baselines=measured.baselines,
    ).to_json()
    compared = {"run_id": run.run_id, "generation": measured.generation, "version": measured.version}
    write_json(run.gate_file, decision | compared)
    run.publish(
        [
            *(run.evaluation_file, run.gate_file, run.probe_file, run.artifact_folder),
            *(run.prediction_folder, run.pictures_folder),
        ]
    )
    return GateRecord.from_json(decision)


def _notes(measured: EvaluationRecord) -> list[str]:
    """Notes for readers of the verdict."""
    challenger, before = measured.new_model, measured.champion_holdout
    notes = list(challenger.worst)
    if before is not None:
        if before["split_sha256"] != challenger.split_sha256:
            notes.append(
                "the holdout is not the one that the champion was judged on, so it was measured anew; it may have been "
                "trained on a part of it, which flatters it (data.split.file with its run's split.geojson keeps folds)"
            )
        elif before["data_sha256"] != challenger.data_sha256:
            notes.append("the data changed since the champion was judged, so it was measured anew")
    return notes


def evaluate_and_promote(
    run: RunDirectory, *, actor: str, on_line: OnLine = print, on_wait: Callable[[], None] | None = None
) -> RunSummary:
    """Evaluate, decide, and promote if the gate allows it; judged anew if the champion changes meanwhile.

    With ``gate.approval: manual`` what passes waits for a person, see ``apply_answer``.

    Args:
        run: with a checkpoint.
        actor: the registry records it as the one who promoted.
        on_line: told what the evaluation prints.
        on_wait: called every quarter of a second of the evaluation, and before the promotion; what it raises ends the
            stage, and nothing is promoted.

    Returns:
        The run's summary.
    """
    for attempt in range(1, ATTEMPTS + 1):
        decision = evaluate(run, on_line=on_line, on_wait=on_wait)
        if decision.verdict != PROMOTED:
            break
        if on_wait is not None:
            on_wait()
        if run.config().gate.approval == "manual":
            approval.ask(run, GateRecord.load(run.gate_file).generation)
            break
        try:
            make_champion(run, actor=actor)
            break
        except GateError as refused:  # gate.json says why
            on_line(str(refused))
            break
        except PromotionConflict as conflict:
            if attempt == ATTEMPTS:
                raise
            on_line(f"{conflict}; evaluating against the new champion")
    return conclude(run, on_line=on_line)


def is_awaiting_approval(run: RunDirectory) -> bool:
    """Tell whether ``run`` has been evaluated, and a person was asked, whatever they said since."""
    return approval.record_of(run) is not None


def refresh(run: RunDirectory) -> None:
    """Take over what somebody elsewhere may have said of a run that waits, or done about it."""
    run.refresh([run.run_file, run.approval_file, run.gate_file, run.promotion_file, run.summary_file])


def continue_approval(run: RunDirectory, *, on_line: OnLine = print) -> RunSummary:
    """Summarise a run about which a person was asked; an approval that nobody acted upon is acted upon.

    Returns:
        The run's summary.
    """
    answer = approval.answer_of(run)
    if answer is not None and answer.approved and not run.promotion_file.exists():
        return apply_answer(run, answer, on_line=on_line)
    return summarise(run)


def apply_answer(run: RunDirectory, answer: Answer, *, on_line: OnLine = print) -> RunSummary:
    """Act on what a person said of a run that waits: promote it or not.

    If another champion was promoted while it waited, it is judged anew, and waits again if it passes. What has been
    promoted stays so, whatever is said later.

    Returns:
        The run's summary.
    """
    refresh(run)
    if run.promotion_file.exists():
        on_line(f"{run.run_id} has been promoted already; 'ununennium registry rollback' goes back")
        return summarise(run)
    approval.record_answer(run, answer)
    write_gate(run, with_check(GateRecord.load(run.gate_file), answer.check()))
    try:
        if answer.approved:
            make_champion(run, actor=answer.by)
    except GateError as refused:
        on_line(str(refused))
    except PromotionConflict as conflict:
        on_line(f"{conflict}; evaluating against the new champion")
        return evaluate_and_promote(run, actor=answer.by, on_line=on_line)
    return conclude(run, on_line=on_line)

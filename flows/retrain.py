"""Retrain a model, and let it replace the champion only if it is measurably better.

``python -m flows.retrain --config examples/atlanta/run.yaml`` runs it here with a Prefect server of its own;
``deployments/prefect.yaml`` schedules it. This process never imports torch: training and evaluation run in processes of
their own, and hand over by the files of ``RunDirectory``.
"""

from __future__ import annotations

if __name__ == "__main__":  # before Prefect, imported below, reads its settings
    from flows.local import main

    raise SystemExit(main())

from typing import Any

from prefect import State, Task, flow, get_run_logger, runtime, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.states import Cancelled, Completed, Crashed

from flows import approval, lineage, live
from flows.cancellation import CancellationWatch, RunCancelled, watched
from flows.events import EARLY_STOPPED, FINISHED, PROMOTED, emit
from flows.leases import keep_slots_through_outages
from flows.logs import passed_on
from flows.outages import answered, is_away, wait_for_server
from ununennium import pipeline, report
from ununennium.config import RunConfig, apply_overrides
from ununennium.errors import LaunchError, ProcessLost, StorageUnavailable
from ununennium.evaluation.records import EvaluationRecord, GateRecord
from ununennium.launch.result import Preempted, TrainingResult
from ununennium.pipeline.approval import AWAITING, Answer
from ununennium.pipeline.sessions import open_run
from ununennium.runs.directory import RunDirectory, as_link, read_json
from ununennium.runs.records import RunSummary

keep_slots_through_outages()


@flow(name="retrain")
def retrain(
    config: RunConfig,
    dry_run: bool = False,
    overrides: list[str] | None = None,
    continues: str | None = None,
    cause: dict[str, Any] | None = None,
    check: bool = True,
) -> State[Any]:
    """Plan, index, train, evaluate, gate, promote, tell; with ``gate.approval: manual`` wait for a person meanwhile.

    Args:
        config: data, model and training, and what the gate requires of the new model.
        dry_run: print the plan, and train nothing.
        overrides: changes to it, such as ``trainer.epochs=5``: parameters of a deployment are replaced as a whole.
        continues: id of a flow run that crashed, with whose training to go on.
        cause: the event that asked for it, with its payload, for the run's record.
        check: try two batches on copies first, in a dry run and before training, so that a wrong setting costs seconds.

    Returns:
        ``Completed``, ``Completed(name="EarlyStopped")`` or ``Completed(name="NotPromoted")``, with the run's summary
        as its data; a run that is not promoted is ``NotPromoted`` however training stopped, and one that waits for a
        person, where no deployment can start it again, ``AwaitingApproval``.
        ``Crashed(name="Preempted")`` if training was asked to stop at each try: ``resume/after-crash`` goes on with it.
        ``Cancelled`` if somebody cancelled it where no worker could end it.
    """
    if overrides:
        config = RunConfig.parse(apply_overrides(config.model_dump(mode="json"), overrides), source="overrides")
    try:
        with watched(get_run_logger()) as watch:
            return stages(config, watch, dry_run=dry_run, continues=continues, cause=cause, check=check)
    except RunCancelled as cancelled:
        return Cancelled(message=str(cancelled))


def stages(
    config: RunConfig,
    watch: CancellationWatch,
    *,
    dry_run: bool,
    continues: str | None,
    cause: dict[str, Any] | None,
    check: bool,
) -> State[Any]:
    """Run the stages of ``retrain`` in their order; the arguments are those of ``retrain``.

    Raises:
        RunCancelled: somebody cancelled the flow run.
    """
    log = get_run_logger()
    with open_run(
        config,
        started_by=_started_by(cause),
        continues=continues,
        again=approval.suspended_before(),
        keep=not dry_run,
        on_line=log.info,
    ) as run:
        if pipeline.is_awaiting_approval(run):
            # It was suspended, or crashed while it waited: nothing is computed again.
            summary = until_answered(run, pipeline.continue_approval(run, on_line=log.info))
            return final_state(summary, TrainingResult(**read_json(run.result_file)))
        plan = index(run)
        if dry_run:
            plan = try_one_batch(run, plan) if check else plan
            return Completed(message=f"dry run of {config.name}: nothing was trained", data=plan.details)
        try:
            result = train(run, check, watch)
        except Preempted as stopped:
            return Crashed(name="Preempted", message=str(stopped), data=stopped)
        return final_state(until_answered(run, evaluate_and_promote(run, watch)), result)


def until_answered(run: RunDirectory, summary: RunSummary) -> RunSummary:
    """Publish what was found, and ask a person as long as one is needed; gives the last summary.

    The process ends with each question, and another one gets here with the answer.
    """
    publish(run, summary)
    while summary.verdict == AWAITING and approval.can_wait():
        summary = apply_answer(run, approval.ask(run, summary.reason or ""))
        publish(run, summary)
    return summary


@task(cache_policy=NO_CACHE)
def index(run: RunDirectory) -> pipeline.RunPlan:
    """Check and index the imagery, and say what the run is going to do."""
    log = get_run_logger()
    plan = pipeline.prepare(run, on_wait=passed_on(log))
    for line in plan.lines():
        log.info("%s", line)
    return plan


@task(cache_policy=NO_CACHE)
def try_one_batch(run: RunDirectory, plan: pipeline.RunPlan) -> pipeline.RunPlan:
    """Build every component and train one batch, in a process of its own; nothing of it is kept."""
    log = get_run_logger()
    checked = pipeline.check(run, plan, on_line=passed_on(log))
    log.info("%s", checked.lines()[-1])
    return checked


def _a_restart_may_mend(task: Task[Any, Any], task_run: TaskRun, state: State[Any]) -> bool:
    """A preemption, a lost process, a rendezvous that failed, storage that does not answer; never a wrong setting."""
    try:
        state.result()
    except (Preempted, ProcessLost, LaunchError, StorageUnavailable):
        return True
    except BaseException:
        return False
    return False


@task(cache_policy=NO_CACHE, retries=3, retry_delay_seconds=5, retry_condition_fn=_a_restart_may_mend)
def train(run: RunDirectory, check: bool, watch: CancellationWatch) -> TrainingResult:
    """Train under torchrun. Called directly, never submitted: a cancellation must reach the thread that waits."""
    log = get_run_logger()
    with live.shown(run, log):
        result = pipeline.train(run, check=check, on_line=passed_on(log), on_wait=watch.check)
    finished(run, result)
    link_report(run)
    if result.stop_reason == "preempted":
        log.warning("training was asked to stop after %d epochs; its checkpoint is where it goes on", result.epochs)
    return result.require_usable()


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5, retry_condition_fn=_a_restart_may_mend)
def evaluate_and_promote(run: RunDirectory, watch: CancellationWatch) -> RunSummary:
    """Evaluate on the holdout beside the champion, decide, and promote if the gate says so."""
    log = get_run_logger()
    summary = pipeline.evaluate_and_promote(run, actor="flow", on_line=passed_on(log), on_wait=watch.check)
    log.info("%s: %s", summary.verdict_text, summary.reason)
    return summary


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=5, retry_condition_fn=_a_restart_may_mend)
def apply_answer(run: RunDirectory, answer: Answer) -> RunSummary:
    """Promote what a person approves; or not."""
    log = get_run_logger()
    summary = pipeline.apply_answer(run, answer, on_line=passed_on(log))
    log.info("%s: %s", summary.verdict_text, summary.reason)
    return summary


@task(cache_policy=NO_CACHE)
def publish(run: RunDirectory, summary: RunSummary) -> None:
    """Tell the world: the event that downstream flows wait for, and artifacts for people; waits for the server."""
    log = get_run_logger()
    wait_for_server(log)
    name = run.config().name
    evaluation, gate = EvaluationRecord.load(run.evaluation_file), GateRecord.load(run.gate_file)
    if summary.verdict == "promoted" and summary.champion is not None:
        emit(
            PROMOTED,
            resource=(f"ununennium.model.{name}", name),
            payload={
                **summary.champion.to_json(),
                "run_id": run.run_id,
                "metrics": summary.holdout,
                "storage": run.storage,
            },
        )
    lineage.of_run(run, summary, evaluation.new_model)
    key = name.replace("_", "-")
    rows, description = report.metric_rows(evaluation), f"Holdout metrics of {run.run_id}"
    answered(lambda: create_table_artifact(table=rows, key=f"{key}-metrics", description=description), log)
    pictures = sorted(run.pictures_folder.glob("*.png"))
    words = report.markdown(summary, evaluation, gate, pictures)
    answered(lambda: create_markdown_artifact(markdown=words, key=f"{key}-report", description=summary.reason), log)
    answered(
        lambda: create_link_artifact(
            link=as_link(run.url),
            link_text=run.run_id,
            key=f"{key}-run",
            description="Checkpoints, metrics and predictions",
        ),
        log,
    )


def link_report(run: RunDirectory) -> None:
    """Link the run's report, which the storage has from the end of training on; left out while the server is away."""
    try:
        answered(
            lambda: create_link_artifact(
                link=as_link(f"{run.url}/{run.report_file.name}"),
                link_text=f"Report of {run.run_id}",
                key=f"{run.config().name.replace('_', '-')}-page",
                description="One page for people: verdict, curves, chips, configuration and cost",
            ),
            get_run_logger(),
            wait_s=0.0,
        )
    except Exception as error:
        if not is_away(error):
            raise
        get_run_logger().warning("Prefect's UI does not link the run's report, as the server is away: %r", error)


def finished(run: RunDirectory, result: TrainingResult) -> None:
    """Emit that training is over, however it ended, and that it stopped early if it did."""
    resource = (f"ununennium.run.{run.run_id}", run.run_id)
    about = {
        "run_id": run.run_id,
        "model": run.config().name,
        "message": result.message,
        "epochs": result.epochs,
        "best_epoch": result.best_epoch,
        "best_score": result.best_score,
    }
    emit(FINISHED, resource=resource, payload={**about, "stop_reason": result.stop_reason})
    if result.stop_reason == "early_stopped":
        emit(EARLY_STOPPED, resource=resource, payload={**about, "monitor": result.monitor})


def final_state(summary: RunSummary, result: TrainingResult) -> State[Any]:
    """The flow's final state; its type is always COMPLETED, its name says what there is to know at a glance."""
    data = summary.to_json()
    if summary.verdict == AWAITING:
        return Completed(name="AwaitingApproval", message=summary.reason, data=data)
    if summary.verdict != "promoted":
        return Completed(name="NotPromoted", message=summary.reason, data=data)
    if result.stop_reason == "early_stopped":
        return Completed(name="EarlyStopped", message=result.message, data=data)
    return Completed(message=summary.reason, data=data)


def _started_by(cause: dict[str, Any] | None) -> dict[str, Any]:
    """Which flow run asked for this run, for its record."""
    flow_run = runtime.flow_run
    return {
        "flow_run_id": flow_run.id,
        "flow_run_name": flow_run.name,
        "flow_name": flow_run.flow_name,
        "deployment_id": runtime.deployment.id,
        "deployment_name": runtime.deployment.name,
        "cause": cause,
    }

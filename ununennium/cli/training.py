"""``train``, ``evaluate``, ``promote``, ``runs``: a run from its configuration to the champion, without Prefect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ununennium.cli.commands import load_command
from ununennium.cli.console import (
    DEFAULT_STORAGE,
    NOT_PROMOTED,
    Json,
    StorageOption,
    print_json,
    print_pairs,
    print_table,
    say,
    user,
)
from ununennium.errors import ConfigError
from ununennium.runs.records import RunSummary

TRAIN_EXAMPLES = (
    "Examples: ununennium train run.yaml | ununennium train run.yaml --set trainer.epochs=5 --set seed=1 | "
    "ununennium train --resume latest"
)
EVALUATE_EXAMPLES = (
    "Examples: ununennium evaluate latest | ununennium evaluate 20260102T030405Z-roads-1a2b --json | "
    "ununennium evaluate latest --checkpoint last"
)
PROMOTE_EXAMPLES = (
    "Exit code 3 if the gate does not allow it. Examples: ununennium promote latest | "
    "ununennium promote latest --reject --reason 'the river is gone'"
)
RUNS_EXAMPLES = "Examples: ununennium runs | ununennium runs --watch | ununennium runs --json | jq '.[0].holdout.IoU'"

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or 'latest'.")]


def train(
    config: Annotated[Path | None, typer.Argument(metavar="[CONFIG]", help="The run, as 'init' writes it.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Change a setting: trainer.epochs=5."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the plan, and try two batches; train nothing, keep nothing.")
    ] = False,
    no_check: Annotated[
        bool, typer.Option("--no-check", help="Do not try two batches first, neither in a dry run nor before training.")
    ] = False,
    prepare: Annotated[
        bool,
        typer.Option(
            "--prepare", help="Index the imagery, and print the run.json that 'ununennium.launch.training' takes."
        ),
    ] = False,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Go on with a run from its newest checkpoint.")
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Index the imagery and train, in processes of their own; promotes nothing.

    The same command again goes on with a run that was killed or asked to stop (checkpoints.resume=false: a new one).

    The storage of a new run is the configuration's; --storage says where --resume looks.
    """
    if (config is None) == (resume is None):
        raise ConfigError("train", None, "give a configuration file, or --resume with a run; not both")
    from ununennium import pipeline
    from ununennium.cli.live import LiveOutput
    from ununennium.config import RunConfig
    from ununennium.pipeline.sessions import open_run, resume_run
    from ununennium.report import closing_rows
    from ununennium.runs.directory import RunDirectory

    with LiveOutput() as output:
        if config is not None:
            described = RunConfig.load(config, changes or [])
            with open_run(described, started_by={"user": user()}, keep=not dry_run, on_line=output.write) as run:
                plan = pipeline.prepare(run, on_wait=output.write)
                if dry_run:
                    plan = plan if no_check else pipeline.check(run, plan, on_line=output.write)
                    output.stop()
                    print_json(plan.details) if as_json else print_pairs(plan.rows)
                    return
                for line in plan.lines():
                    output.write(line)
                output.stop()
                if prepare:
                    run.publish([run.plan_file, run.index_file, run.statistics_file, run.split_file])
                    print_json({"run_json": str(run.run_file)}) if as_json else typer.echo(run.run_file)
                    return
                with output.following(run):
                    pipeline.train(run, check=not no_check, on_line=output.write).require_usable()
        else:
            if changes or dry_run or prepare:
                raise ConfigError(
                    "train --resume", resume, "goes on as it began: without --set, --dry-run and --prepare"
                )
            with resume_run(RunDirectory.fetch(storage, str(resume)), started_by={"user": user()}) as run:
                with output.following(run):
                    pipeline.train(run, check=not no_check, on_line=output.write).require_usable()
    summary = pipeline.summarise(run)
    if as_json:
        print_json(summary.to_json())
        return
    print_pairs(closing_rows(summary))
    say(f"Next: ununennium evaluate {run.run_id} --storage {run.storage}")


def evaluate(
    run: RunArgument,
    checkpoint: Annotated[
        str | None,
        typer.Option("--checkpoint", metavar="EPOCH", help="Measure this one alone: an epoch, 'last' or 'best'."),
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Measure a run's best checkpoint, and the champion, on the holdout; decides, but promotes nothing.

    With --checkpoint another checkpoint of the run is measured: nothing is decided, and no file of the run changes.
    """
    from ununennium import pipeline, report
    from ununennium.evaluation.records import EvaluationRecord
    from ununennium.pipeline.summary import conclude
    from ununennium.runs.directory import RunDirectory

    directory = RunDirectory.fetch(storage, run)
    if checkpoint is not None:
        _measure(directory, checkpoint, as_json=as_json)
        return
    gate = pipeline.evaluate(directory, on_line=say)
    conclude(directory, on_line=say)
    evaluation = EvaluationRecord.load(directory.evaluation_file)
    if as_json:
        print_json({"evaluation": evaluation.to_json(), "gate": gate.to_json()})
        return
    print_table(report.metric_rows(evaluation), empty="no metrics")
    typer.echo()
    print_table(report.gate_rows(gate), empty="no checks: the gate asks for nothing")
    typer.echo(f"\n{'passes the gate' if gate.verdict == 'promoted' else 'does not pass the gate'}: {gate.reason}")
    if gate.verdict == "promoted":
        say(f"Next: ununennium promote {directory.run_id} --storage {directory.storage}")


def _measure(run: Any, which: str, *, as_json: bool) -> None:
    """Print the metrics of one checkpoint."""
    from ununennium import report
    from ununennium.evaluation.records import EvaluationRecord
    from ununennium.pipeline.evaluations import measure_checkpoint

    manifest, found = measure_checkpoint(run, which, on_line=say)
    if as_json:
        print_json({"checkpoint": manifest.url, "epoch": manifest.epoch, "evaluation": found.to_json()})
        return
    print_table(report.metric_rows(EvaluationRecord(challenger=found)), empty="no metrics")
    typer.echo(f"\nepoch {manifest.epoch}: {manifest.url}")


def promote(
    run: RunArgument,
    reject: Annotated[bool, typer.Option("--reject", help="Say no: a run that waits is not promoted.")] = False,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Reason, for the record.")] = "",
    storage: StorageOption = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Make an evaluated run the champion, if its gate.json allows it; the answer to a run that waits for a person.

    The smoke test comes first: a fresh process loads the model from the storage. A flow run that waits goes on.
    """
    from ununennium import pipeline, report
    from ununennium.evaluation.records import GateRecord
    from ununennium.pipeline.approval import Answer
    from ununennium.pipeline.summary import conclude
    from ununennium.runs.directory import RunDirectory

    directory = RunDirectory.fetch(storage, run)
    pipeline.refresh(directory)
    asked = pipeline.is_awaiting_approval(directory)
    if reject and not asked:
        raise ConfigError("promote --reject", directory.run_id, "does not wait for a person, so nobody need reject it")
    if asked or directory.config().gate.approval == "manual":
        summary = pipeline.apply_answer(directory, Answer(not reject, user(), reason), on_line=say)
    else:
        if GateRecord.load(directory.gate_file).verdict == "promoted":
            pipeline.promote(directory, actor=user())
        summary = conclude(directory, on_line=say)
    if asked and (flow_run_id := directory.flow_run_id):
        _wake(flow_run_id, {"approve": not reject, "by": user(), "reason": reason})
    print_json(summary.to_json()) if as_json else print_pairs(report.closing_rows(summary))
    if summary.verdict != "promoted":
        raise typer.Exit(NOT_PROMOTED)


def _wake(flow_run_id: str, answer: dict[str, Any]) -> None:
    """Resume the flow run that waits, by the command that the flows have registered."""
    try:
        say(load_command("wake")(flow_run_id, answer))
    except Exception as error:
        say(f"flow run {flow_run_id} may still wait ({error}); resume it in Prefect, and it will end")


def runs(
    storage: StorageOption = DEFAULT_STORAGE,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Only this model's runs.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Only so many, the newest.")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Show the runs that are under way, until Ctrl-C.")] = False,
    as_json: Json = False,
) -> None:
    """List runs, newest first, with how each ended and what came of it.

    With --watch: how far those are that train on this machine, and which others the storage knows of.
    """
    from ununennium.runs.listing import list_runs

    if watch:
        if as_json or limit:
            raise ConfigError("runs --watch", True, "shows what is under way: without --json and --limit")
        from ununennium.cli.watch import watch as watch_runs

        watch_runs(storage, model)
        return
    found = list_runs(storage, name=model)[:limit]
    if as_json:
        print_json([summary.to_json() for summary in found])
        return
    print_table([_row(summary) for summary in found], empty=f"no runs in {storage}; 'ununennium train' makes one")


def _row(summary: RunSummary) -> dict[str, Any]:
    from ununennium.report import number

    holdout = summary.holdout or {}
    family = "IoU" if "IoU" in holdout else ""
    values = "  ".join(f"{name} {number(value)}" for name, value in holdout.get(family, holdout).items())
    return {
        "run": summary.run_id,
        "started": summary.started[:16].replace("T", " "),
        "stop reason": summary.stop_reason,
        "best epoch": summary.best_epoch,
        "holdout": f"{family} {values}".strip() or None,
        "verdict": summary.verdict,
        "reason": summary.reason,
    }


def demo(context: typer.Context) -> None:
    """Retrain on the sample scene with an embedded Prefect server: the flow that deployments schedule.

    Takes the options of python -m flows.retrain, such as --dry-run and --set trainer.epochs=3. Needs a checkout of the
    project, where the flows and the scene are.
    """
    raise typer.Exit(load_command("demo")(context.args))

"""The command line: ``ununennium --help`` teaches it.

Exit codes: 0 done; 1 failed; 2 wrong usage or settings; 3 not promoted; 130 interrupted; 143 training was asked to stop
and left a checkpoint to go on from.
"""

from __future__ import annotations

import sys

import typer

from ununennium.cli import data, doctor, initialise, predict, registry, reports, storage, training
from ununennium.cli.console import (
    FAILED,
    INTERRUPTED,
    NOT_PROMOTED,
    PREEMPTED,
    USAGE,
    fail,
    version_text,
)
from ununennium.processes.supervise import Terminated, raise_on_sigterm

app = typer.Typer(
    name="ununennium",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Retrain Earth-observation models, promote them only when they are better, lose nothing.\n\n"
        "A first run, from a folder of scenes with labels:\n\n"
        "    ununennium init scenes/ -o run.yaml      (then look through run.yaml)\n\n"
        "    ununennium data describe run.yaml        (scenes, classes, folds, and a map of them)\n\n"
        "    ununennium train run.yaml --dry-run      (what would be done)\n\n"
        "    ununennium train run.yaml\n\n"
        "    ununennium evaluate latest               (on the holdout, beside the champion)\n\n"
        "    ununennium report latest --open          (all of it on one page)\n\n"
        "    ununennium promote latest                (if the gate allows it)\n\n"
        "    ununennium predict scene.tif --model NAME -o map.tif\n\n"
        "All of it in one, with a Prefect server, on a schedule: python -m flows.retrain --config run.yaml"
    ),
    epilog=(
        f"Exit codes: 0 done, {FAILED} failed, {USAGE} wrong usage or settings, {NOT_PROMOTED} not promoted, "
        f"{INTERRUPTED} interrupted, {PREEMPTED} asked to stop (with a checkpoint to resume from)."
    ),
)
app.command("init", epilog=initialise.EXAMPLES)(initialise.init)
app.command("train", epilog=training.TRAIN_EXAMPLES)(training.train)
app.command("evaluate", epilog=training.EVALUATE_EXAMPLES)(training.evaluate)
app.command("promote", epilog=training.PROMOTE_EXAMPLES)(training.promote)
registry.app.command("promote", epilog=training.PROMOTE_EXAMPLES)(training.promote)
app.command("predict", epilog=predict.EXAMPLES)(predict.predict)
app.command("runs", epilog=training.RUNS_EXAMPLES)(training.runs)
app.command("report", epilog=reports.REPORT_EXAMPLES)(reports.report)
app.command("compare", epilog=reports.COMPARE_EXAMPLES)(reports.compare)
app.command("doctor", epilog=doctor.EXAMPLES)(doctor.doctor)
app.add_typer(data.app, name="data")
app.add_typer(registry.app, name="registry")
app.add_typer(storage.app, name="storage")
app.command("demo", context_settings={"ignore_unknown_options": True, "allow_extra_args": True})(training.demo)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(version_text())
        raise typer.Exit


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error; goes anywhere on the line."),
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def run(arguments: list[str]) -> int:
    """Run the command line, and return the exit code."""
    debug = "--debug" in arguments
    try:
        app([argument for argument in arguments if argument != "--debug"], prog_name="ununennium")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except (Exception, KeyboardInterrupt, Terminated) as error:
        return fail(error, debug=debug)
    return 0


def main() -> None:
    """The console script."""
    raise_on_sigterm()
    sys.exit(run(sys.argv[1:]))

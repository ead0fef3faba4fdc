"""``report`` and ``compare``: one run on a page, two runs side by side."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ununennium.cli.console import DEFAULT_STORAGE, Json, StorageOption, print_json, print_table, say

REPORT_EXAMPLES = (
    "Examples: ununennium report latest --open | ununennium report 20260102T030405Z-roads-1a2b -o report.html"
)
COMPARE_EXAMPLES = (
    "Examples: ununennium compare 20260102T030405Z-roads-1a2b latest | ununennium compare RUN RUN --html compare.html"
)
_LONGEST = 60

if TYPE_CHECKING:
    from ununennium.runs.directory import RunDirectory

RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="A run's name, or 'latest'.")]
OutputOption = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it there, too, to send or keep.")
]


def report(
    run: RunArgument,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    output: OutputOption = None,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Write a run's report, one HTML file that needs no network, and print where it is.

    Every run has one, also one that failed or was not promoted. It is made anew from the run's files.
    """
    from ununennium.data.scenes.overwriting import refuse_overwriting
    from ununennium.files import write_text
    from ununennium.report.run import write_report
    from ununennium.runs.directory import RunDirectory

    directory = RunDirectory.fetch(storage, run)
    if output is not None:
        refuse_overwriting({"report": output}, _files_of_run(directory), "--output")
    file = write_report(directory)
    directory.publish([file])
    if output is not None:
        write_text(output, file.read_text(encoding="utf-8"))
        file = output.resolve()
    typer.echo(file)
    if show and not webbrowser.open(file.as_uri()):
        say("no browser could be opened; open the file by hand")


def compare(
    first: RunArgument,
    second: RunArgument,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the comparison as a page, too.")
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Show what differs between two runs: metrics, configuration, data, code, time and cost."""
    from ununennium.data.scenes.overwriting import refuse_overwriting
    from ununennium.files import write_text
    from ununennium.report.compare import PARTS, caution, comparison_page
    from ununennium.report.compare import compare as differences
    from ununennium.report.facts import Facts
    from ununennium.report.page import render
    from ununennium.runs.directory import RunDirectory

    directories = [RunDirectory.fetch(storage, run) for run in (first, second)]
    if html is not None:
        read = [file for directory in directories for file in _files_of_run(directory)]
        refuse_overwriting({"comparison": html}, read, "--html")
    one, other = (Facts.of(directory) for directory in directories)
    found = differences(one, other)
    if html is not None:
        write_text(html, render(comparison_page(one, other)))
        say(f"written to {html}")
    if as_json:
        print_json([{**difference._asdict(), "change": difference.change.text or None} for difference in found])
        return
    names = [facts.record.run_id for facts in (one, other)]
    warning = caution(one, other)
    if warning:
        say(warning)
    for part, title in PARTS.items():
        rows = [
            {"": d.what, names[0]: _short(d.first), names[1]: _short(d.second), "difference": d.change.text}
            for d in found
            if d.part == part
        ]
        if rows and not any(row["difference"] for row in rows):
            for row in rows:
                del row["difference"]
        typer.secho(title, bold=True)
        print_table(rows, empty="no difference", numbers=part == "metrics")
        typer.echo()


def _files_of_run(directory: RunDirectory) -> list[str]:
    """The files of a run but its report, which is made anew, and the imagery and labels that it names."""
    from ununennium.data.scenes.images import files_of
    from ununennium.data.scenes.locations import local_file

    folders = [directory.work, local_file(directory.url)]
    files = [str(file) for folder in folders if folder is not None for file in folder.rglob("*") if file.is_file()]
    for scene in directory.record().config.get("data", {}).get("scenes", []):
        given = scene["image"] if isinstance(scene["image"], list) else [scene["image"]]
        files += [*files_of(given), *filter(None, [scene.get("label")])]
    return [file for file in files if Path(file).name != directory.report_file.name]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."

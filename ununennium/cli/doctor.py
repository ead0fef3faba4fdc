"""``doctor``: what is wrong with a set-up, and how to mend it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ununennium.cli.console import DEFAULT_STORAGE, FAILED, Json, StorageOption, print_json

EXAMPLES = (
    "Exit code 1 if there is a problem. Examples: ununennium doctor | ununennium doctor --storage s3://bucket/eo | "
    "ununennium doctor --json | jq '.[] | select(.level == \"problem\")'"
)
_COLOURS = {"ok": "green", "note": "blue", "warning": "yellow", "problem": "red"}


def doctor(
    storage: StorageOption = DEFAULT_STORAGE,
    api: Annotated[
        str | None, typer.Option("--api", metavar="URL", help="Prefect's API; else PREFECT_API_URL, or the profile's.")
    ] = None,
    least_free_gb: Annotated[
        float, typer.Option("--least-free-gb", min=0.0, help="Less room on a disk is a problem.")
    ] = 2.0,
    as_json: Json = False,
) -> None:
    """Say what is wrong with packages, machine, storage, and Prefect's server, and how to mend it.

    Changes nothing, but for a small object in the storage that it removes again.
    """
    from ununennium.doctor import run_checks

    found: list[dict[str, Any]] = []
    for finding in run_checks(storage, api_url=api, least_free_gb=least_free_gb):
        found.append(finding.to_json())
        if as_json:
            continue
        typer.secho(f"{finding.level:<8} ", fg=_COLOURS[finding.level], nl=False)
        typer.echo(f"{finding.what:<12} {finding.says}")
        if finding.remedy:
            typer.echo(f"{'':<22}-> {finding.remedy}")
    if as_json:
        print_json(found)
    problems = sum(each["level"] == "problem" for each in found)
    if problems:
        if not as_json:
            typer.echo(f"\n{problems} problem(s)")
        raise typer.Exit(FAILED)

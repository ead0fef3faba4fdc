"""``storage``: look after the folder or bucket that holds runs and the registry."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ununennium.cli.console import DEFAULT_STORAGE, Json, StorageOption, print_json, print_table

app = typer.Typer(
    no_args_is_help=True,
    help="Look after storage. Nothing that is committed is ever removed.",
    epilog="Examples: ununennium storage gc --dry-run | ununennium storage gc --storage s3://bucket/eo --older-than 72",
)


@app.callback()
def _group() -> None:
    pass


@app.command()
def gc(
    storage: StorageOption = DEFAULT_STORAGE,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and remove nothing.")] = False,
    older_than: Annotated[float, typer.Option("--older-than", metavar="HOURS", help="Keep what is younger.")] = 24.0,
    as_json: Json = False,
) -> None:
    """Remove what killed runs left: files without a manifest, uploads that never ended, spools already uploaded."""
    from ununennium.checkpoints.janitor import find_leftovers
    from ununennium.storage.open import open_storage, resolve_storage

    root = resolve_storage(storage)
    rows: list[dict[str, Any]] = []
    for finding in list(find_leftovers(open_storage(root), older_than_hours=older_than)):
        done = "stays"
        if finding.remove is not None:
            done = "would be removed" if dry_run else "removed"
            if not dry_run:
                finding.remove()
        rows.append(
            {
                "what": finding.what,
                "done": done,
                "MB": None if finding.size_bytes is None else round(finding.size_bytes / 1e6, 2),
                "hours old": None if finding.age_hours is None else round(finding.age_hours, 1),
                "why": finding.reason,
                "where": finding.place,
            }
        )
    print_json(rows) if as_json else print_table(rows, empty=f"nothing is left behind in {root}")

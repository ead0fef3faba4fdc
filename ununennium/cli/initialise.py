"""``init``: a first configuration from a folder of scenes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ununennium.cli.console import say
from ununennium.errors import ConfigError

EXAMPLES = "Examples: ununennium init scenes/ | ununennium init scenes/ -o roads.yaml --name roads"

_SAYS_NOTHING = {"data", "images", "scenes", "dataset"}


def init(
    folder: Annotated[Path, typer.Argument(help="Folder with images and labels, in sub-folders too.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The configuration to write.")] = Path("run.yaml"),
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the model; from the folder's if not given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Write a commented configuration for a folder of scenes.

    Pairs images with labels, and reads bands and classes from the files. Look it through: what it cannot know it
    guesses, and says so.
    """
    from ununennium.config import RunConfig
    from ununennium.discover import commented_yaml, discover

    if output.exists() and not force:
        raise ConfigError("--output", str(output), "exists already; give another name, or --force to write over it")
    found = discover(folder, relative_to=output.parent)
    place = folder.resolve()
    if place.name.lower() in _SAYS_NOTHING:
        place = place.parent
    slug = re.sub(r"[^a-z0-9_-]+", "-", place.name.lower()).strip("-_") or "model"
    last = found.classes[-1]
    monitor = f"val_IoU_{last}" if len(found.classes) == 2 else "val_IoU"
    config = RunConfig.parse(
        {
            "name": name or slug,
            "data": {"scenes": found.scenes, "classes": found.classes, "nodata": found.nodata},
            "checkpoints": {"monitor": monitor, "mode": "max", "save_top_k": 3},
            "early_stopping": {"monitor": monitor, "mode": "max", "patience": 15},
            "gate": {"metric": f"IoU.{last}" if len(found.classes) == 2 else "IoU"},
        }
    )
    header = (
        "One description of a run. Every setting is here with its default or what was found; delete what you do not "
        "change.\nTry it: ununennium train " + str(output) + " --dry-run"
    )
    notes = "".join(f"\nNote: {note}" for note in found.notes)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(commented_yaml(config, header=header + notes), encoding="utf-8")
    for note in found.notes:
        say(f"note: {note}")
    say(f"{output}: {len(found.scenes)} scene(s), classes {', '.join(found.classes)}")
    say(f"Next: look it through, then: ununennium train {output} --dry-run")

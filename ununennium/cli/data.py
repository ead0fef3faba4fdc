"""``data``: what there is to train on, before anything is trained."""

from __future__ import annotations

import shutil
import sys
import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ununennium.cli.console import Json, print_json, print_pairs, print_table, say
from ununennium.errors import DataError, UnunenniumError

if TYPE_CHECKING:
    from ununennium.config import RunConfig
    from ununennium.data.chips.index import ChipIndex

_MOST_SCENES = 20
_INDENT = 10  # width of the longest heading with two blanks

app = typer.Typer(
    no_args_is_help=True,
    help="Look at the data of a configuration: scenes, labels, folds. Trains nothing.",
    epilog="Examples: ununennium data describe run.yaml | ununennium data describe run.yaml data.split.block_size=64",
)


@app.command(
    epilog=(
        "Examples: ununennium data describe run.yaml | ununennium data describe run.yaml data.split.block_size=64 "
        "data.nodata=0 | ununennium data describe run.yaml --json | jq .folds"
    )
)
def describe(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="The run, as 'init' writes it.")],
    changes: Annotated[
        list[str] | None,
        typer.Argument(metavar="[PATH=VALUE]...", help="Settings to try instead: data.split.buffer=32."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder for the map and the split; .ununennium/data/NAME if not given."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show the scenes, the labelled pixels of each class in each fold, and a map of the folds.

    Indexes the imagery as a run would, or takes the index of an earlier look if nothing has changed since. A class that
    is absent from a fold, scenes that share ground, borders without data: what a run would stumble over is named here.
    """
    from ununennium.config import RunConfig
    from ununennium.data import describe as text
    from ununennium.files import write_json

    described = RunConfig.load(config, changes or [])
    folder = output or Path(".ununennium/data") / described.name
    index = _index(described, as_json=as_json)
    if index is None:
        return
    from ununennium.data.scenes.overwriting import files_of_data, refuse_overwriting
    from ununennium.evaluation.split_picture import split_picture

    picture, split = folder / "split.png", folder / "split.geojson"
    read = [str(config), *files_of_data(described.data), *(file for scene in index.scenes for file in scene.files)]
    refuse_overwriting({"map of the folds": picture, "split": split}, read, "--output")
    folder.mkdir(parents=True, exist_ok=True)
    split_picture(index, picture)
    write_json(split, index.split.to_geojson())
    if as_json:
        print_json({**text.to_json(index), "files": {"picture": str(picture), "split": str(split)}})
        return
    _print_scenes(text.scene_rows(index))
    typer.echo()
    print_table(text.fold_rows(index), empty="no classes", numbers=True)
    typer.echo()
    overlaps = text.overlap_texts(index.scenes)
    print_pairs(
        [
            ("split", text.split_text(index)),
            *(("overlap", _wrapped(line)) for line in overlaps),
            *(("warning", _wrapped(note)) for note in index.notes),
            ("map", str(picture)),
            ("polygons", str(split)),
        ]
    )


def _index(config: RunConfig, *, as_json: bool) -> ChipIndex | None:
    """The index; None where the scenes have no labels at all. What the files say of themselves is shown in any case."""
    from ununennium.data import describe as text
    from ununennium.data.chips.index import check_classes
    from ununennium.data.chips.index_cache import indexed
    from ununennium.data.scenes.catalog import open_catalog

    scenes = open_catalog(config.data)
    try:
        if any(scene.label is not None for scene in scenes):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # the index keeps them, and they are shown in their place
                index = indexed(config.data, say, scenes=scenes, for_training=False).index
            try:
                check_classes(index.labelled, config.data)
            except DataError as refusal:
                index.notes.append(f"a run refuses this: {refusal}")
            return index
    except UnunenniumError:
        if not as_json:
            _print_scenes(
                [{"scene": s.name, **text.scene_facts(s, scenes[0].band_set(config.data.bands))} for s in scenes]
            )
        raise
    if as_json:
        print_json({"scenes": [scene.to_dict() for scene in scenes], "folds": None})
    else:
        _print_scenes([{"scene": s.name, **text.scene_facts(s, scenes[0].band_set(config.data.bands))} for s in scenes])
        typer.echo(
            "\nno scene has labels: there is nothing to split; data.scenes: label names a raster or a vector file"
        )
    return None


def _wrapped(text: str) -> str:
    """A sentence on several lines that begin under its first word; on anything but a terminal as it is."""
    if not sys.stdout.isatty():
        return text
    return textwrap.fill(text, shutil.get_terminal_size().columns - _INDENT).replace("\n", "\n" + " " * _INDENT)


def _print_scenes(rows: list[dict[str, str]]) -> None:
    """Common properties of the scenes once, and a table of the others."""
    from ununennium.data.describe import common_and_own

    common, own = common_and_own(rows)
    if len(rows) == 1:
        print_pairs([("scene", rows[0]["scene"]), *common.items()])
        return
    print_pairs([("scenes", str(len(rows))), *common.items()])
    typer.echo()
    print_table(own[:_MOST_SCENES], empty="no scenes")
    if len(own) > _MOST_SCENES:
        typer.echo(f"and {len(own) - _MOST_SCENES} more (--json has all)")

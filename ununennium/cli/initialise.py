"""``init``: a first configuration from a folder of scenes."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ununennium.cli.console import say
from ununennium.errors import ConfigError, DataError, UnunenniumError

if TYPE_CHECKING:
    from ununennium.config import RunConfig

EXAMPLES = (
    "Examples: ununennium init scenes/ | ununennium init scenes/ -o roads.yaml --name roads | "
    "ununennium init scenes/ --budget 10min"
)

_SAYS_NOTHING = {"data", "images", "scenes", "dataset"}


def init(
    folder: Annotated[Path, typer.Argument(help="Folder with images and labels, in sub-folders too.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The configuration to write.")] = Path("run.yaml"),
    name: Annotated[
        str | None, typer.Option("--name", help="Name of the model; from the folder's if not given.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
    budget: Annotated[
        str | None,
        typer.Option("--budget", metavar="TIME", help="Train about so long on this machine: 90s, 3min, 1.5h."),
    ] = None,
    check: Annotated[
        bool, typer.Option("--check/--no-check", help="Index the scenes as the run will, to see that they fit.")
    ] = True,
) -> None:
    """Write a commented configuration for a folder of scenes.

    Pairs images with labels, reads bands and classes from the files, and indexes the scenes once, as `data describe`
    and the run do. Names and settings that it has to guess are marked as guesses in the file.
    """
    from ununennium.config import RunConfig
    from ununennium.data.scenes.overwriting import refuse_overwriting
    from ununennium.discover import commented_yaml, discover
    from ununennium.discover.files import RASTERS, VECTORS
    from ununennium.discover.recipe import budget_s

    if output.exists() and not force:
        raise ConfigError("--output", str(output), "exists already; give another name, or --force to write over it")
    if output.exists():
        read = [file for file in folder.rglob("*") if file.suffix.lower() in RASTERS | VECTORS]
        refuse_overwriting({"configuration": output}, read, "--output")
    found = discover(folder, relative_to=output.parent)
    location = folder.resolve()
    if location.name.lower() in _SAYS_NOTHING:
        location = location.parent
    slug = re.sub(r"[^a-z0-9_-]+", "-", location.name.lower()).strip("-_") or "model"
    names = found.class_names
    monitor = f"val_IoU_{names[-1]}" if len(names) == 2 else "val_IoU"
    config = RunConfig.parse(
        {
            "name": name or slug,
            "data": {"scenes": found.scenes, "classes": found.classes, **found.settings},
            "checkpoints": {"monitor": monitor, "mode": "max", "save_top_k": 3},
            "early_stopping": {"monitor": monitor, "mode": "max", "patience": 15},
            "gate": {"metric": f"IoU.{names[-1]}" if len(names) == 2 else "IoU"},
        }
    )
    remarks = dict(found.remarks)
    seconds = None if budget is None else budget_s(budget)
    problem: UnunenniumError | None = None
    if check:
        try:
            config, reasons = _derived(config, output.parent, seconds)
            remarks |= reasons
        except UnunenniumError as error:
            if isinstance(error, ConfigError) and error.field == "--budget":
                raise
            problem = error
    header = (
        "One description of a run. Every setting is here with its default, what was found, or what the recipe derived; "
        "delete what you do not change.\nTry it: ununennium train " + str(output) + " --dry-run"
    )
    notes = "".join(f"\nNote: {note}" for note in found.notes)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(commented_yaml(config, header=header + notes, remarks=remarks), encoding="utf-8")
    for note in found.notes:
        say(f"note: {note}")
    say(f"{output}: {len(found.scenes)} scene(s), classes {', '.join(names)}")
    if problem is not None:
        raise DataError(f"{output} is written, and has to be changed before it runs: {problem}") from problem
    say(f"Next: look it through, then: ununennium train {output} --dry-run")


def _derived(config: RunConfig, folder: Path, budget: float | None) -> tuple[RunConfig, dict[str, str]]:
    """``config`` with what the recipe derives from its data, and the reasons by dotted path.

    Args:
        config: scenes and classes as they were found.
        folder: of the configuration file.
        budget: seconds of training; None lets the recipe choose the steps.

    Raises:
        DataError: the scenes do not fit each other or the configuration.
        ConfigError: the budget is too small.
    """
    from ununennium.data.chips.index_cache import indexed
    from ununennium.discover.fingerprint import fingerprint_of
    from ununennium.discover.recipe import LEAST_STEPS, apply_recipe, derive, remarks_of
    from ununennium.discover.step_time import step_time_s

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the index keeps them as notes
        data = indexed(config.with_scenes_relative_to(folder).data, say)
    for note in data.index.notes:
        say(f"note: {note}")
    for fold, counts in data.index.labelled.items():
        say(f"{fold}: {sum(counts):,} labelled pixels")
    facts = fingerprint_of(data.index, data.statistics())
    chosen = derive(facts)
    if budget is not None:
        taken = step_time_s(apply_recipe(config, chosen), data.index.in_channels)
        steps = int(budget / taken)
        if steps < LEAST_STEPS:
            least = f"{math.ceil(LEAST_STEPS * taken)}s"
            raise ConfigError(
                "--budget", f"{budget:g}s", f"fits {steps} optimizer steps of {taken:.2g} s; give {least} or more"
            )
        say(f"budget: {steps:,} optimizer steps of {taken:.2g} s")
        chosen = derive(replace(facts, steps_in_budget=steps))
    return apply_recipe(config, chosen), remarks_of(chosen)

"""``predict``: a map of a scene, made with the champion."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from ununennium.cli.console import DEFAULT_STORAGE, StorageOption, print_pairs, say
from ununennium.errors import ConfigError

EXAMPLES = (
    "Examples: ununennium predict scene.tif --model roads -o roads.tif | "
    "ununennium predict scene.tif --model roads -o roads.tif --device cuda --quicklook roads.png"
)


def predict(
    scene: Annotated[
        list[str],
        typer.Argument(help="A GeoTIFF or anything else that GDAL reads: a path or a URL; of a stack, one per date."),
    ],
    model: Annotated[str, typer.Option("--model", metavar="NAME", help="Name of the model whose champion predicts.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The map to write, a GeoTIFF.")],
    quicklook: Annotated[
        Path | None, typer.Option("--quicklook", help="A picture of it; beside the map if not given.")
    ] = None,
    version: Annotated[str | None, typer.Option("--version", help="This version instead of the champion.")] = None,
    tta: Annotated[
        bool | None,
        typer.Option("--tta/--no-tta", help="Average over flips and turns, or not; if not given, as it was judged."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Computation device.")] = "cpu",
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Make a map of a scene with the champion, and a picture to look at."""
    from ununennium.checkpoints.artifact import load_artifact
    from ununennium.checkpoints.registry import Registry
    from ununennium.inference.maps import quicklook as draw
    from ununennium.inference.scene import map_scene
    from ununennium.runs import resolve_storage

    registry = Registry(resolve_storage(storage), model)
    champion = registry.current()
    if version is None:
        if champion is None:
            raise ConfigError(
                "--model", model, f"has no champion in {storage}; 'ununennium registry list' shows who has"
            )
        version = champion.version
    network, contract = load_artifact(registry.version_url(version))
    say(f"{model}: version {version} of run {contract['run_id']}, classes {', '.join(contract['classes'])}")
    with _progress() as on_rows:
        mapped = map_scene(network, contract, scene, output, device=device, tta=tta, on_rows=on_rows)
    quicklook = quicklook or output.with_suffix(".png")
    draw(mapped, contract, quicklook)
    total = sum(mapped.pixels.values())
    rows: list[tuple[str, str]] = [("map", str(output)), ("picture", str(quicklook))]
    rows += [(f"  {name}", f"{count:,} px, {count / max(total, 1):.1%}") for name, count in mapped.pixels.items()]
    if mapped.unmapped:
        rows.append(("  without data", f"{mapped.unmapped:,} px"))
    print_pairs(rows)


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[int, int], None] | None]:
    """A bar of the rows done, on a terminal."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(console=console, transient=True) as bar:
        task = bar.add_task("mapping")
        yield lambda done, total: bar.update(task, completed=done, total=total)

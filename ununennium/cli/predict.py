"""``predict``: a map of a scene, made with the champion."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from ununennium.cli.console import DEFAULT_STORAGE, StorageOption, print_pairs, say

EXAMPLES = (
    "Examples: ununennium predict scene.tif --model roads -o roads.tif | "
    "ununennium predict scene.tif --model roads -o roads.tif --device cuda --outputs probabilities --outputs polygons "
    "--set predictor.mixed_precision=true --set polygons.simplify=1.5"
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
    outputs: Annotated[
        list[str] | None,
        typer.Option(help="Files beside the map, which names them: probabilities, confidence, polygons, areas."),
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", help="A setting of predictor, fit or polygons, such as predictor.tile=512."),
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Make a map of a scene with the champion, and a picture to look at.

    What is done is kept on this machine until the map is whole: a command that was killed goes on when it is given
    again.
    """
    from ununennium.config.maps import MapsConfig
    from ununennium.config.parsing import apply_overrides
    from ununennium.data.scenes.overwriting import local_output
    from ununennium.inference.outputs import draw
    from ununennium.inference.predictor import Predictor

    given = {"model": model, "scenes": [{"image": scene}], "outputs": ["map", *(outputs or [])], "tta": tta}
    config = MapsConfig.parse(apply_overrides(given, overrides or []))
    predictor = Predictor.champion(
        model, storage=storage, version=version, device=device, tta=tta, settings=config.predictor, fit=config.fit
    )
    contract = predictor.contract
    shown = f"version {predictor.version} of run {contract.run_id}"
    say(f"{model}: {shown}, classes {', '.join(predictor.classes)}")
    output = local_output(output)
    quicklook = quicklook or output.with_suffix(".png")
    with _progress() as on_rows:
        wanted = [output for output in config.outputs if output != "quicklook"]
        mapped = predictor.map(scene, output, wanted, polygons=config.polygons, on_rows=on_rows, picture=quicklook)
    draw(mapped.path, contract, quicklook)
    total = sum(mapped.pixels.values())
    rows: list[tuple[str, str]] = [(kind, str(file)) for kind, file in mapped.files.items()]
    rows.append(("picture", str(quicklook)))
    for name, area in mapped.areas.items():
        size = "" if area["area_m2"] is None else f", {area['area_m2'] / 1e6:,.4g} km2"
        rows.append((f"  {name}", f"{area['pixels']:,} px, {area['pixels'] / max(total, 1):.1%}{size}"))
    if mapped.num_polygons is not None:
        rows.append(("  polygons", f"{mapped.num_polygons:,}"))
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

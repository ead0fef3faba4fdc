"""``registry``: which models there are, who is champion, who was, and back to who was."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ununennium.cli.console import DEFAULT_STORAGE, FAILED, Json, StorageOption, print_json, print_pairs, print_table
from ununennium.errors import CheckpointError, ConfigError, UnunenniumError

app = typer.Typer(
    no_args_is_help=True,
    help="Champions: who they are, who they were, and back again. Nothing here is ever overwritten.",
    epilog=(
        "Examples: ununennium registry list | ununennium registry show roads --json | "
        "ununennium registry rollback roads --reason 'stripes on coastal tiles'"
    ),
)
Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the model, as in its configuration.")]


@app.command("list")
def list_models(storage: StorageOption = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """List the models and their champions."""
    from ununennium.checkpoints.registry import Registry
    from ununennium.storage.open import open_storage, resolve_storage

    root = resolve_storage(storage)
    names = sorted({key.split("/")[0] for key in open_storage(f"{root}/models").list() if key.count("/") > 1})
    rows: list[dict[str, Any]] = []
    for name in names:
        try:
            champion = Registry(root, name).current()
        except (CheckpointError, ConfigError) as error:  # one model's records hide no other model
            typer.echo(f"{name} is left out: {error}", err=True)
            continue
        rows.append(
            {
                "model": name,
                "generation": champion.generation if champion else None,
                "version": champion.version if champion else None,
                "run": champion.run_id if champion else None,
                "since": champion.created if champion else None,
            }
        )
    print_json(rows) if as_json else print_table(rows, empty=f"no models in {storage}")


@app.command()
def show(model: Model, storage: StorageOption = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Show a model's champion, its contract, and every generation, newest first."""
    from ununennium.data.scenes.places import crs_text, resolution_text

    registry = _registry(storage, model)
    history = registry.history()
    contract = registry.contract(history[0].version)
    if as_json:
        print_json(
            {
                "model": model,
                "champion": asdict(history[0]),
                "contract": contract.to_json(),
                "history": list(map(asdict, history)),
            }
        )
        return
    print_pairs(
        [
            ("model", model),
            ("champion", f"generation {history[0].generation}, version {history[0].version}"),
            ("where", registry.version_url(history[0].version)),
            ("built from", f"{contract.model.target}, run {contract.run_id}, commit {contract.git_commit}"),
            ("classes", ", ".join(contract.classes)),
            ("bands", ", ".join(contract.inputs)),
            ("pixel", resolution_text(contract.crs, contract.resolution)),
            ("CRS", crs_text(contract.crs)),
        ]
    )
    typer.echo()
    print_table([_generation(record) for record in history], empty="")


@app.command()
def rollback(
    model: Model,
    to: Annotated[int | None, typer.Option("--to", metavar="GENERATION", help="The one before, if not given.")] = None,
    reason: Annotated[str, typer.Option("--reason", help="Reason, kept in the record.")] = "",
    storage: StorageOption = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Make an earlier generation's version the champion again, as a new generation."""
    from ununennium.cli.console import user

    registry = _registry(storage, model)
    record = registry.rollback(actor=user(), to_generation=to, reason=reason)
    if as_json:
        print_json(asdict(record))
        return
    typer.echo(
        f"{model}: generation {record.generation} is version {record.version} again (of generation "
        f"{record.restored_from})"
    )


@app.command()
def alias(
    model: Model,
    name: Annotated[str | None, typer.Argument(metavar="ALIAS", help="Such as 'staging'; all, if not given.")] = None,
    to: Annotated[str | None, typer.Option("--to", metavar="VERSION", help="Version or alias to stand for.")] = None,
    storage: StorageOption = DEFAULT_STORAGE,
    as_json: Json = False,
) -> None:
    """Show what an alias stands for ('champion' and 'previous' are always there), or let it stand for a version."""
    from ununennium.cli.console import user

    registry = _registry(storage, model)
    if name is not None and to is not None:
        registry.set_alias(name, registry.resolve(to), actor=user())
    found = {"champion": registry.resolve("champion"), **registry.aliases()}
    if name is not None:
        found = {name: registry.resolve(name)}
    rows = [{"alias": each, "version": version} for each, version in found.items()]
    print_json(rows) if as_json else print_table(rows, empty="")


@app.command()
def verify(model: Model, storage: StorageOption = DEFAULT_STORAGE, as_json: Json = False) -> None:
    """Read every version that was ever champion, and compare it with the hashes in its name and its contract.

    Exit code 1 if one is missing or damaged.
    """
    registry = _registry(storage, model)
    rows: list[dict[str, Any]] = []
    for version in dict.fromkeys(record.version for record in registry.history()):
        try:
            registry.check(version)
            rows.append({"version": version, "whole": True, "problem": None})
        except UnunenniumError as error:
            rows.append({"version": version, "whole": False, "problem": str(error)})
    print_json(rows) if as_json else print_table(rows, empty="")
    if not all(row["whole"] for row in rows):
        raise typer.Exit(FAILED)


@app.command()
def evaluate(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A run's YAML: the model's name and the data.")],
    version: Annotated[
        str, typer.Option("--version", metavar="VERSION", help="A version, or an alias such as 'previous'.")
    ] = "champion",
    storage: Annotated[
        str | None,
        typer.Option("--storage", metavar="URL", help="Folder or URL of the registry; the YAML's if not given."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure a version on the holdout of a configuration's data, as they are now; decides and keeps nothing."""
    from ununennium import report
    from ununennium.cli.console import say
    from ununennium.config import RunConfig
    from ununennium.pipeline.evaluations import measure_version
    from ununennium.storage.open import resolve_storage

    described = RunConfig.load(config)
    location = resolve_storage(storage or described.storage)
    found = _registry(location, described.name).resolve(version)
    measured = measure_version(described, location, found, on_line=say)
    if as_json:
        print_json({"model": described.name, "version": found, "evaluation": measured.to_json()})
        return
    print_table(report.metric_rows({"challenger": measured.to_json()}), empty="no metrics")
    typer.echo(f"\n{described.name}, version {found}")


@app.command()
def export(
    model: Model,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="The .onnx file to write.")],
    version: Annotated[
        str, typer.Option("--version", metavar="VERSION", help="A version, or an alias such as 'previous'.")
    ] = "champion",
    tile: Annotated[
        int | None,
        typer.Option("--tile", min=1, metavar="PX", help="Side of its tiles; that of training if not given."),
    ] = None,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Write a version as an ONNX file that takes pixels as they are, once ONNX Runtime agrees with PyTorch."""
    from ununennium.checkpoints.artifact import load_artifact
    from ununennium.data.scenes.overwriting import refuse_overwriting
    from ununennium.inference.onnx_export import export_onnx

    registry = _registry(storage, model)
    found = registry.resolve(version)
    refuse_overwriting({"ONNX file": output}, [registry.url], "--output")
    difference = export_onnx(*load_artifact(registry.version_url(found)), output, tile=tile)
    typer.echo(f"{output}: version {found} of {model}; ONNX Runtime is within {difference:.2g} of PyTorch")


def _registry(storage: str, model: str) -> Any:
    """The registry of a model that has a champion."""
    from ununennium.checkpoints.registry import Registry
    from ununennium.storage.open import resolve_storage

    registry = Registry(resolve_storage(storage), model)
    if registry.current() is None:
        raise ConfigError("MODEL", model, f"has no champion in {storage}; 'ununennium registry list' shows who has")
    return registry


def _generation(record: Any) -> dict[str, Any]:
    return {
        "generation": record.generation,
        "version": record.version,
        "action": record.action if record.restored_from is None else f"rollback to {record.restored_from}",
        "by": record.actor,
        "run": record.run_id or None,
        "when": record.created[:16].replace("T", " "),
        "reason": record.reason or None,
    }

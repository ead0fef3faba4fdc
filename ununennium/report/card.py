"""The model card and the STAC item of a version, for people and catalogues; both stand beside it in the registry."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ununennium.checkpoints.contract import CONTRACT, ModelContract
from ununennium.data.scenes.places import crs_text, resolution_text
from ununennium.evaluation.records import GateRecord
from ununennium.files import finite, write_json, write_text
from ununennium.inference.mlm_item import mlm_item
from ununennium.report.rows import number
from ununennium.runs.directory import RunDirectory

CARD, ITEM = "README.md", "stac.json"
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$&])")
_UNSAID = "Nobody said so yet: set `card.{}` in the run's configuration."
_SAID = {
    "description": "What it is for",
    "intended_use": "Intended use",
    "limits": "Known limits",
    "data_licence": "Licence of the data",
    "contact": "Contact",
}


def write_card(run: RunDirectory, version: str, gate: GateRecord) -> list[Path]:
    """Write the card and the STAC item of the candidate of ``run`` into its artefact's folder.

    Args:
        run: evaluated run.
        version: version id of its artefact in the registry.
        gate: the contents of ``gate.json``.

    Returns:
        The two files.

    Raises:
        ConfigError: the contract is missing or damaged.
    """
    folder, name = run.artifact_folder, run.record().name
    contract = ModelContract.load(folder / CONTRACT)
    said = run.config().card.model_dump()
    item = mlm_item(contract, name, version, storage=run.storage)
    item["properties"]["license"] = said["licence"] or "other"
    item["assets"]["card"] = {"href": CARD, "type": "text/markdown", "title": "model card", "roles": ["metadata"]}
    write_json(folder / ITEM, item)
    write_text(folder / CARD, card(name, version, contract, gate, said))
    return [folder / CARD, folder / ITEM]


def card(name: str, version: str, contract: ModelContract, gate: GateRecord, said: Mapping[str, str | None]) -> str:
    """The card as Markdown; of what a user wrote nothing is taken as markup.

    Args:
        name: of the model.
        version: version of the model.
        contract: of the version.
        gate: the contents of ``gate.json``.
        said: fields of ``CardConfig``.
    """
    parts = [
        "---",
        f"license: {json.dumps(said.get('licence') or 'other')}",
        "library_name: pytorch",
        f"tags: {json.dumps(['earth-observation', contract.task])}",
        "---",
        f"# {_plain(name)}, version {version}",
    ]
    for field, title in _SAID.items():
        text = said.get(field)
        parts += [f"## {title}", _plain(text) if text else _UNSAID.format(field)]
    parts += ["## What it reads and gives", _table(("", ""), _use(contract))]
    parts += ["## Measured on the holdout", _table(("metric", "value"), _metrics(contract.metrics))]
    parts += [
        "## Why it was let through",
        f"{_plain(gate.reason)}.",
        _table(("check", "passed"), [(check.reason, "yes" if check.passed else "no") for check in gate.checks]),
        *(f"Note: {_plain(note)}." for note in gate.notes),
    ]
    parts += ["## Where it comes from", _table(("", ""), _origin(contract))]
    return "\n\n".join(["\n".join(parts[:5]), *parts[5:]]) + "\n"


def _use(contract: ModelContract) -> Iterator[tuple[str, str]]:
    yield "task", contract.task
    yield "classes", ", ".join(contract.classes)
    yield "bands", ", ".join(contract.inputs)
    if contract.num_dates > 1:
        yield "dates", str(contract.num_dates)
    yield "pixel size", resolution_text(contract.crs, contract.resolution)
    yield "trained in", crs_text(contract.crs)
    yield "pixels without data", str(contract.nodata)
    yield "model", str(contract.model.target)
    if (contract.temperature or 1.0) != 1.0:
        yield "temperature of its probabilities", f"{contract.temperature:.4g}"
    if contract.tta:
        yield "applied as", "the mean over eight flips and turns"


def _metrics(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in finite(metrics).items():
        if isinstance(value, Mapping):
            yield from ((f"{name} {label}", number(each)) for label, each in value.items())
        else:
            yield name, number(value)


def _origin(contract: ModelContract) -> Iterator[tuple[str, str]]:
    yield "run", str(contract.run_id)
    yield "created", str(contract.created)
    yield "commit", str(contract.git_commit)
    for part, value in {
        "data": contract.data_sha256,
        "split": contract.split_sha256,
        "weights": contract.weights_sha256,
    }.items():
        yield f"{part}, SHA-256", str(value)
    yield "made with", ", ".join(f"{package} {version}" for package, version in contract.versions.items())


def _table(columns: tuple[str, str], rows: Any) -> str:
    lines = ["| " + " | ".join(columns) + " |", "| --- | --- |"]
    return "\n".join([*lines, *(f"| {_plain(one)} | {_plain(other)} |" for one, other in rows)])


def _plain(text: str) -> str:
    """``text`` on one line, and with nothing in it that Markdown or HTML takes for more than text."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(text).split()))

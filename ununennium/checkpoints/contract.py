"""The contract of a promoted model: everything needed to use its weights on new imagery, and to trace them back."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from ununennium.checkpoints.json_records import is_sha256, parse_json_object, shortened
from ununennium.errors import CheckpointError, ConfigError

WEIGHTS = "model.safetensors"
HEAL = "add the same artefact again, which replaces what is damaged, or use another version"
"""Remedy for a version that is not whole."""
CONTRACT = "contract.json"

REQUIRED = {
    "model": "import path, keyword arguments, band and class counts",
    "classes": "class names in the order of their values",
    "ignore_index": "label value of unlabelled pixels",
    "bands": "bands read, counted from 1, in the model's order",
    "statistics": "mean and standard deviation per band, of the training fold; its range and percentiles",
    "nodata": "pixel value without data, or null",
    "resolution": "ground size of a pixel [x, y] in units of the CRS, or null",
    "crs": "coordinate reference system of the training scenes, or null",
    "chip_size": "side of a training chip in pixels",
    "split_sha256": "hash of the split into folds",
    "data_sha256": "hash of the data",
    "git_commit": "commit of the code, or null",
    "versions": "packages it was trained with",
    "metrics": "holdout metrics",
    "run_id": "run that trained it",
    "created": "when, UTC, ISO 8601",
}
"""Keys that every contract has, and what they say; ``weights_sha256`` is added when the weights are written.

Newer ones add ``task``, ``num_dates``, ``layout``, ``target_scale``, ``tta``; ``class_values``, the values that the
classes had in the label files (empty where they are their numbers); ``temperature``, by which its
probabilities are tempered (``ununennium.evaluation.calibration``; 1 if it is not there); and ``confusion``, the
holdout's confusion matrix, with which areas on its maps are estimated (``ununennium.evaluation.areas``). ``band_names``
are the bands' names in the first training scene, ``alpha_bands`` the numbers of its alpha bands, ``band_tags`` the
scale and offset of each band, in whose numbers the statistics are; ``band_nodata`` stands for ``nodata`` where bands
have values of their own.
"""

_REQUIRED_OF_MODEL: dict[str, type] = {"target": str, "kwargs": Mapping, "in_channels": int, "num_classes": int}
_VERSION = re.compile("[0-9a-f]{16}")


def check_contract(contract: Mapping[str, Any]) -> None:
    """Make sure that nothing is missing, and that the parts agree.

    Raises:
        ConfigError: a key is missing or of another type, or lists of bands, classes and statistics differ in length.
    """
    for key, meaning in REQUIRED.items():
        if key not in contract:
            raise ConfigError(f"contract.{key}", None, f"is missing; it holds the {meaning}")
    model, statistics = contract["model"], contract["statistics"]
    for key, kind in _REQUIRED_OF_MODEL.items():
        if not isinstance(model, Mapping) or key not in model:
            raise ConfigError(f"contract.model.{key}", None, "is missing")
        _check_kind(f"contract.model.{key}", model[key], kind)
    _check_kind("contract.statistics", statistics, Mapping)
    _check_kind("contract.num_dates", contract.get("num_dates", 1), int)
    lengths = {
        "contract.classes": (contract["classes"], "num_classes"),
        "contract.bands": (contract["bands"], "in_channels"),
        "contract.statistics.mean": (statistics.get("mean"), "in_channels"),
        "contract.statistics.std": (statistics.get("std"), "in_channels"),
    }
    # Dates that reach the model as channels share the bands' names and statistics.
    repeats = contract.get("num_dates", 1) if contract.get("layout", "channels") == "channels" else 1
    for field, (values, count) in lengths.items():
        times = repeats if count == "in_channels" else 1
        if not isinstance(values, list | tuple) or len(values) * times != model[count]:
            raise ConfigError(field, values, f"needs one entry for each of the model's {count} = {model[count]}")
    for field in ("contract.statistics.mean", "contract.statistics.std"):
        if not all(isinstance(value, Real) and math.isfinite(value) for value in lengths[field][0]):
            raise ConfigError(field, lengths[field][0], "needs finite numbers")
    for key in ("band_names", "band_tags", "band_nodata"):
        values = contract.get(key) or contract["bands"]
        if not isinstance(values, list | tuple) or len(values) != len(contract["bands"]):
            raise ConfigError(f"contract.{key}", values, f"needs one entry for each of {len(contract['bands'])} bands")


def to_json(values: Any) -> bytes:
    """``values`` as indented JSON with sorted keys; numbers that JSON cannot hold become null."""
    return (json.dumps(_finite(values), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def parse_contract(data: bytes, *, url: str) -> dict[str, Any]:
    """The contract in ``data``.

    Raises:
        CheckpointError: it is damaged, or not a contract.
    """
    problem = f"{url} is not a model's contract"
    contract = parse_json_object(data, problem)
    try:
        check_contract(contract)
    except ConfigError as error:
        raise CheckpointError(f"{problem}: {error}") from error
    if not is_sha256(contract.get("weights_sha256")):
        raise CheckpointError(f"{problem}: weights_sha256 is {shortened(contract.get('weights_sha256'))}, not a hash")
    return contract


def version_of(data: bytes) -> str:
    """The version of an artefact: the start of its contract's SHA-256, which holds the hash of the weights."""
    return hashlib.sha256(data).hexdigest()[:16]


def is_version(name: str) -> bool:
    """Tell whether ``name`` has the form of a version."""
    return _VERSION.fullmatch(name) is not None


def check_version(data: bytes, version: str, *, url: str) -> None:
    """Make sure that a contract is the one that its version is named after.

    Raises:
        CheckpointError: it was changed, or belongs to another version.
    """
    found = version_of(data)
    if found != version:
        raise CheckpointError(
            f"{url} is not the contract of version {version!r}: it was changed, or is that of version {found}; {HEAL}"
        )


def named_version(url: str) -> str | None:
    """The version that the folder at ``url`` has the name of; None for a folder of another kind."""
    folder, _, name = url.rstrip("/").rpartition("/")
    return name if is_version(name) or folder.rpartition("/")[2] == "versions" else None


def read_local_contract(folder: Path) -> tuple[dict[str, Any], bytes]:
    """The contract of the artefact in ``folder``, and its bytes, after the weights' hash has been checked.

    Raises:
        CheckpointError: a file is missing, or the weights are not those that the contract speaks of.
    """
    try:
        data = (folder / CONTRACT).read_bytes()
        sha256 = file_sha256(folder / WEIGHTS)
    except FileNotFoundError as error:
        raise CheckpointError(f"{folder} is no model artefact: {error.filename} is missing") from error
    except OSError as error:
        raise CheckpointError(f"{folder} is no model artefact: {error.filename} ({error.strerror})") from error
    contract = parse_contract(data, url=str(folder / CONTRACT))
    check_weights(sha256, contract, url=str(folder / WEIGHTS))
    return contract, data


def check_weights(sha256: str, contract: Mapping[str, Any], *, url: str) -> None:
    """Compare the hash of weights with the contract's.

    Raises:
        CheckpointError: they differ; the message names both.
    """
    if sha256 != contract["weights_sha256"]:
        raise CheckpointError(
            f"{url} is damaged or belongs to another contract: its SHA-256 is {sha256}, the contract says "
            f"{contract['weights_sha256']}; {HEAL}"
        )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_kind(field: str, value: Any, kind: type) -> None:
    names = {str: "text", Mapping: "an object of named values", int: "a whole number >= 1"}
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
    if not (is_count if kind is int else isinstance(value, kind)):
        raise ConfigError(field, value, f"is not {names[kind]}")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value

"""The contract of a promoted model: everything needed to use its weights on new imagery, and to trace them back."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as default
from numbers import Real
from pathlib import Path
from typing import Any

from ununennium.checkpoints.json_records import is_sha256, parse_json_object, shortened
from ununennium.errors import CheckpointError, ConfigError
from ununennium.files import finite
from ununennium.records import JsonRecord

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
"""Keys that every contract has, and what they say; ``ModelContract`` has those of newer ones, too."""

_REQUIRED_OF_MODEL: dict[str, type] = {"target": str, "kwargs": Mapping, "in_channels": int, "num_classes": int}
_VERSION = re.compile("[0-9a-f]{16}")


@dataclass(frozen=True, eq=False)
class Architecture(JsonRecord):
    """Construction of the model.

    Attributes:
        target: import path of its class or function.
        kwargs: keyword arguments.
        in_channels: channels that it reads, all dates together where the layout is ``channels``.
        num_classes: classes, or values, that it gives.
    """

    target: str = ""
    kwargs: Mapping[str, Any] = default(default_factory=dict)
    in_channels: int = 0
    num_classes: int = 0


@dataclass(frozen=True, eq=False)
class ModelContract(JsonRecord):
    """Contract of a model, ``contract.json``: all that is needed to use its weights and to trace them back.

    A stored contract has all of ``REQUIRED`` (see ``check_contract``); the other fields came later, and their defaults
    are what an older contract means. ``metrics`` and ``statistics`` are as evaluation and training wrote them.

    Attributes:
        model: how to build it.
        task: name of the task, a key of ``ununennium.tasks.TASKS``.
        num_dates: images of a scene.
        layout: dates as further ``channels``, or as a dimension of their own.
        target_scale: mean and standard deviation of a regression's values; None without.
        classes: names in the order of their values.
        class_values: values of the classes in the label files; empty where they are their numbers.
        ignore_index: label value of unlabelled pixels.
        bands: numbers, from 1, of the bands that it reads, in its order.
        band_names: their names in the first training scene.
        alpha_bands: numbers of the alpha bands of that scene.
        band_tags: scale and offset of each band, in whose numbers the statistics are.
        band_nodata: of each band; instead of ``nodata`` where bands have values of their own.
        statistics: mean and standard deviation per band, range and percentiles, of the training fold.
        nodata: pixel value without data.
        resolution: ground size of a pixel [x, y] in units of the CRS.
        crs: coordinate reference system of the training scenes.
        chip_size: side of a training chip in pixels.
        tta: whether it was judged as the mean over flips and turns.
        temperature: by which probabilities are tempered (``ununennium.evaluation.calibration``); null means 1.
        confusion: the holdout's confusion matrix, with which areas on maps are estimated
            (``ununennium.evaluation.areas``).
        split_sha256: hash of the split into folds.
        data_sha256: hash of the data.
        git_commit: commit of the code.
        versions: packages that it was trained with.
        metrics: on the holdout.
        run_id: run that trained it.
        created: UTC, ISO 8601.
        weights_sha256: hash of the weights' file; added when that is written.
    """

    model: Architecture = default(default_factory=Architecture)
    task: str = "segmentation"
    num_dates: int = 1
    layout: str = "channels"
    target_scale: Sequence[float] | None = None
    classes: Sequence[str] = ()
    class_values: Mapping[str, str] = default(default_factory=dict)
    ignore_index: int = 255
    bands: Sequence[int] = ()
    band_names: Sequence[str] = ()
    alpha_bands: Sequence[int] = ()
    band_tags: Sequence[Sequence[float]] = ()
    band_nodata: Sequence[float | None] | None = None
    statistics: Mapping[str, Any] = default(default_factory=dict)
    nodata: float | None = None
    resolution: Sequence[float] | None = None
    crs: str | None = None
    chip_size: int = 0
    tta: bool = False
    temperature: float | None = 1.0
    confusion: Sequence[Sequence[float]] | None = None
    split_sha256: str = ""
    data_sha256: str = ""
    git_commit: str | None = None
    versions: Mapping[str, str] = default(default_factory=dict)
    metrics: Mapping[str, Any] = default(default_factory=dict)
    run_id: str = ""
    created: str = ""
    weights_sha256: str | None = None

    @classmethod
    def _parsed(cls, name: str, value: Any) -> Any:
        return Architecture.of(value) if name == "model" and isinstance(value, Mapping) else value

    @property
    def inputs(self) -> list[str]:
        """Bands for people: by name where they have names, else by number."""
        return [str(band) for band in self.band_names or self.bands]

    @property
    def dates_as_channels(self) -> int:
        """Number of times that the bands repeat along the channels."""
        return self.num_dates if self.layout == "channels" else 1

    def band_entries(self) -> dict[str, Any]:
        """Arguments of ``BandSet.from_contract``."""
        names = ("bands", "band_names", "alpha_bands", "band_tags", "band_nodata", "nodata")
        return {name: getattr(self, name) for name in names}


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
    if statistics.get("log_floor"):
        lengths["contract.statistics.log_floor"] = (statistics["log_floor"], "in_channels")
    # Dates that reach the model as channels share the bands' names and statistics.
    repeats = contract.get("num_dates", 1) if contract.get("layout", "channels") == "channels" else 1
    for field, (values, count) in lengths.items():
        times = repeats if count == "in_channels" else 1
        if not isinstance(values, list | tuple) or len(values) * times != model[count]:
            raise ConfigError(field, values, f"needs one entry for each of the model's {count} = {model[count]}")
    for field in (each for each in lengths if each.startswith("contract.statistics.")):
        if not all(isinstance(value, Real) and math.isfinite(value) for value in lengths[field][0]):
            raise ConfigError(field, lengths[field][0], "needs finite numbers")
    for key in ("band_names", "band_tags", "band_nodata"):
        values = contract.get(key) or contract["bands"]
        if not isinstance(values, list | tuple) or len(values) != len(contract["bands"]):
            raise ConfigError(f"contract.{key}", values, f"needs one entry for each of {len(contract['bands'])} bands")


def to_json(values: Any) -> bytes:
    """``values`` as indented JSON with sorted keys; numbers that JSON cannot hold become null."""
    return (json.dumps(finite(values), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()


def parse_contract(data: bytes, *, url: str) -> ModelContract:
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
    return ModelContract.from_json(contract)


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


def read_local_contract(folder: Path) -> tuple[ModelContract, bytes]:
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


def check_weights(sha256: str, contract: ModelContract, *, url: str) -> None:
    """Compare the hash of weights with the contract's.

    Raises:
        CheckpointError: they differ; the message names both.
    """
    if sha256 != contract.weights_sha256:
        raise CheckpointError(
            f"{url} is damaged or belongs to another contract: its SHA-256 is {sha256}, the contract says "
            f"{contract.weights_sha256}; {HEAL}"
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

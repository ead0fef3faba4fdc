"""The manifest of a checkpoint: the small object whose existence is the commit, and which ones to keep."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, cast

from ununennium.checkpoints.json_records import is_sha256, parse_json_object, shortened, text, whole_number
from ununennium.errors import CheckpointError

FORMAT = 1
PREFIX = "epoch="
"""Start of the names of all checkpoints and manifests."""
_NUMBERS = {"epoch": None, "step": None, "batches_done": None, "size_bytes": None, "generation": 0}
"""The whole numbers of a manifest, and their values where an earlier version wrote none."""
_NAME = re.compile(r"epoch=\d{4,}-step=\d{8,}-[0-9a-f]{12}\.json")


@dataclass(frozen=True)
class SavePoint:
    """Position of training at which a checkpoint is saved, and its rank among others.

    Attributes:
        epoch: completed epochs.
        step: optimizer steps that ran.
        batches_done: micro-batches consumed in the running epoch.
        metrics: the epoch's metrics, for people.
        monitor: metric that ranks checkpoints.
        mode: whether a smaller or a larger score is better.
        score: the monitored value; None without one.
    """

    epoch: int
    step: int
    batches_done: int = 0
    metrics: Mapping[str, float] | None = None
    monitor: str = ""
    mode: Literal["min", "max"] = "min"
    score: float | None = None


@dataclass(frozen=True)
class Manifest:
    """Record of one checkpoint. A checkpoint exists if, and only if, its manifest does.

    Attributes:
        key: name of the checkpoint in its folder; it begins with the position and ends with the content's hash.
        epoch: completed epochs.
        step: optimizer steps that ran.
        batches_done: micro-batches consumed in the running epoch; 0 at an epoch boundary.
        size_bytes: length of the checkpoint.
        sha256: hash of the checkpoint, 64 hexadecimal digits.
        created: when it was serialised, UTC, ISO 8601 with microseconds.
        writer: token of the ``CheckpointStore`` that wrote it.
        generation: counts the writes into the folder, from 1: one more than the largest that the folder had. It orders
            the checkpoints, which no machine's clock can do; 0 in manifests of versions that did not count.
        monitor: metric that ranks it; empty if none does.
        mode: whether a smaller (``min``) or a larger (``max``) score is better.
        score: the monitored value; None for a checkpoint that only serves recovery, such as one within an epoch.
        metrics: all metrics of the epoch.
        versions: packages that wrote it.
        url: address of the checkpoint; known from where the manifest was read, so not part of the JSON.
    """

    key: str
    epoch: int
    step: int
    batches_done: int
    size_bytes: int
    sha256: str
    created: str
    writer: str
    generation: int = 0
    monitor: str = ""
    mode: Literal["min", "max"] = "min"
    score: float | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    url: str = field(default="", compare=False)

    @property
    def manifest_key(self) -> str:
        """Name of the manifest itself."""
        return manifest_key(self.key)

    @property
    def position(self) -> tuple[int, int, int]:
        """Epoch, step and batches done."""
        return (self.epoch, self.step, self.batches_done)

    @property
    def age_order(self) -> tuple[int, tuple[int, int, int], str, str]:
        """Sort key, oldest first: generation, then position; the clock decides only where all of that is equal."""
        return (self.generation, self.position, self.created, self.key)

    @property
    def is_ranked(self) -> bool:
        """Tell whether the score is a number that can be compared; 0.0 is one, NaN and infinity are not."""
        return self.score is not None and math.isfinite(self.score)

    def to_dict(self) -> dict[str, Any]:
        """Plain values that JSON can hold; numbers that JSON cannot hold become ``"nan"``, ``"inf"``, ``"-inf"``."""
        values: dict[str, Any] = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "url"}
        values["score"] = None if self.score is None else _plain(self.score)
        values["metrics"] = {name: _plain(value) for name, value in self.metrics.items()}
        values["versions"] = dict(self.versions)
        return {"format": FORMAT, **values}

    def to_json(self) -> bytes:
        """The manifest as it is stored."""
        return (json.dumps(self.to_dict(), indent=2, sort_keys=True, allow_nan=False) + "\n").encode()

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, url: str = "") -> Manifest:
        """The inverse of ``to_dict``.

        Raises:
            CheckpointError: these values are no manifest, or one of a later format.
        """
        if values.get("format") != FORMAT:
            raise CheckpointError(f"manifest format {values.get('format')!r}: this version reads format {FORMAT}")
        numbers = {name: whole_number(values.get(name, default), name) for name, default in _NUMBERS.items()}
        texts = {name: text(values.get(name), name) for name in ("key", "sha256", "created", "writer", "monitor")}
        mode, score = values.get("mode"), values.get("score")
        if mode not in ("min", "max") or not is_sha256(texts["sha256"]):
            raise CheckpointError(f"not a manifest: mode {mode!r}, sha256 {texts['sha256']!r}")
        position = checkpoint_key(epoch=numbers["epoch"], step=numbers["step"], sha256="").removesuffix(".pt")
        if not is_manifest_key(manifest_key(texts["key"])) or not texts["key"].startswith(position):
            raise CheckpointError(f"not a manifest: its key is {texts['key']!r}, and its contents begin {position}")
        return cls(
            key=texts["key"],
            epoch=numbers["epoch"],
            step=numbers["step"],
            batches_done=numbers["batches_done"],
            size_bytes=numbers["size_bytes"],
            sha256=texts["sha256"],
            created=texts["created"],
            writer=texts["writer"],
            generation=numbers["generation"],
            monitor=texts["monitor"],
            mode=cast(Literal["min", "max"], mode),
            score=None if score is None else _number(score, "score"),
            metrics={name: _number(value, f"metrics.{name}") for name, value in _object(values, "metrics").items()},
            versions={name: text(value, f"versions.{name}") for name, value in _object(values, "versions").items()},
            url=url,
        )

    @classmethod
    def from_json(cls, data: bytes, *, url: str = "") -> Manifest:
        """The inverse of ``to_json``.

        Raises:
            CheckpointError: this is no manifest, or one of a later format.
        """
        return cls.from_dict(parse_json_object(data, "not a manifest"), url=url)


def checkpoint_key(*, epoch: int, step: int, sha256: str) -> str:
    """Name of a checkpoint: readable, sorted by position, and never the same for other content."""
    return f"epoch={epoch:04d}-step={step:08d}-{sha256[:12]}.pt"


def manifest_key(key: str) -> str:
    """Name of the manifest of the checkpoint ``key``."""
    return f"{key.removesuffix('.pt')}.json"


def is_manifest_key(key: str) -> bool:
    """Tell whether ``key`` has the form of a manifest's name."""
    return _NAME.fullmatch(key) is not None


def best_first(manifests: Sequence[Manifest]) -> list[Manifest]:
    """The manifests with a finite score, best first; of two equal ones the older comes first.

    Scores compare only within one monitor and mode: those of the newest manifest that has a finite score count.

    Args:
        manifests: oldest first.
    """
    ranked = [manifest for manifest in manifests if manifest.is_ranked]
    if not ranked:
        return []
    rule = ranked[-1].monitor, ranked[-1].mode
    sign = 1.0 if ranked[-1].mode == "min" else -1.0
    comparable = [manifest for manifest in ranked if (manifest.monitor, manifest.mode) == rule]
    return sorted(comparable, key=lambda manifest: sign * cast(float, manifest.score))  # stable: a tie keeps the older


def retained(manifests: Sequence[Manifest], save_top_k: int) -> list[Manifest]:
    """The checkpoints to keep, oldest first.

    These are the ``save_top_k`` best finite scores (a tie keeps the older), the newest checkpoint, from which a run
    that was killed goes on, and the newest with a finite score, to which one goes back whose loss became NaN.

    Args:
        manifests: oldest first.
        save_top_k: -1 keeps all, 0 none.
    """
    if save_top_k < 0:
        return list(manifests)
    if save_top_k == 0 or not manifests:
        return []
    keep = best_first(manifests)[:save_top_k] + [m for m in manifests if m.is_ranked][-1:] + [manifests[-1]]
    keys = {(manifest.url, manifest.key) for manifest in keep}
    return [manifest for manifest in manifests if (manifest.url, manifest.key) in keys]


def _number(value: Any, name: str) -> float:
    """A number as ``to_dict`` writes it: ``"nan"``, ``"inf"`` and ``"-inf"`` stand for what JSON cannot hold."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            if math.isfinite(float(value)):
                return float(value)
    if value in ("nan", "inf", "-inf"):
        return float(value)
    raise CheckpointError(f"not a manifest: {name} is {shortened(value)}, not a number")


def _object(values: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = values.get(name)
    if not isinstance(found, Mapping):
        raise CheckpointError(f"not a manifest: {name} is {shortened(found)}, not an object")
    return found


def _plain(value: float) -> float | str:
    number = float(value)
    return number if math.isfinite(number) else str(number)

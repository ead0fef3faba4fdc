"""One generation of a champion, as it is on record."""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

from ununennium.checkpoints.contract import to_json
from ununennium.checkpoints.json_records import parse_json_object, shortened, text, whole_number
from ununennium.errors import CheckpointError, ConfigError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
"""Names of models, versions and aliases, which are parts of URLs."""

_FORMAT = 1
_TEXTS = {"actor": None, "run_id": None, "token": None, "created": None, "reason": "", "flow_run_id": ""}
"""Attributes that are text, and their values where an earlier version wrote none."""


@dataclass(frozen=True)
class Promotion:
    """One generation of the champion.

    Attributes:
        generation: counted from 1.
        version: version of the new champion.
        action: ``promote`` a new version, or ``rollback`` to an older generation's.
        restored_from: the generation whose version a rollback restored; None for a promotion.
        gate: the decision that allowed it; empty for a rollback.
        evaluated_against: generation of the champion that the gate compared with, 0 if there was none; None for a
            rollback, which compares nothing.
        checkpoint: ``manifest`` (URL) and ``sha256`` of the checkpoint that the version was made of; empty if unknown.
        reason: why, in words.
        actor: person or program that asked for it.
        run_id: run that trained the version, or asked for the rollback.
        flow_run_id: Prefect's flow run that asked for it; empty if none did.
        token: by which a caller that got no answer recognises its own record.
        created: when, UTC, ISO 8601.
    """

    generation: int
    version: str
    action: Literal["promote", "rollback"]
    actor: str
    run_id: str
    token: str
    created: str
    reason: str = ""
    restored_from: int | None = None
    gate: dict[str, Any] = field(default_factory=dict)
    evaluated_against: int | None = None
    checkpoint: dict[str, str] = field(default_factory=dict)
    flow_run_id: str = ""

    def to_json(self) -> bytes:
        """The record as it is stored."""
        return to_json({"format": _FORMAT, **asdict(self)})

    @classmethod
    def from_json(cls, data: bytes, *, url: str) -> Promotion:
        """The inverse of ``to_json``.

        Raises:
            CheckpointError: the record is damaged, or of a later format.
        """
        values = parse_json_object(data, f"{url} is not a promotion record")
        try:
            return cls._from_values(values)
        except CheckpointError as error:
            raise CheckpointError(f"{url} is not a promotion record: {error}") from error

    @classmethod
    def _from_values(cls, values: Mapping[str, Any]) -> Promotion:
        if values.get("format") != _FORMAT:
            raise CheckpointError(f"its format is {shortened(values.get('format'))}, and this version reads {_FORMAT}")
        generation = whole_number(values.get("generation"), "generation", least=1)
        version, action = text(values.get("version"), "version"), values.get("action")
        if not NAME.fullmatch(version) or action not in ("promote", "rollback"):
            raise CheckpointError(f"version {shortened(version)}, action {shortened(action)}")
        restored_from, evaluated_against = values.get("restored_from"), values.get("evaluated_against")
        if restored_from is not None and whole_number(restored_from, "restored_from", least=1) >= generation:
            raise CheckpointError(
                f"generation {generation} is said to restore {restored_from}, which is no earlier one"
            )
        if evaluated_against is not None:
            whole_number(evaluated_against, "evaluated_against")
        gate, checkpoint = values.get("gate", {}), values.get("checkpoint", {})
        if not isinstance(gate, dict) or not isinstance(checkpoint, dict):
            raise CheckpointError(f"gate {shortened(gate)}, checkpoint {shortened(checkpoint)}")
        return cls(
            generation=generation,
            version=version,
            action=cast(Literal["promote", "rollback"], action),
            restored_from=restored_from,
            evaluated_against=evaluated_against,
            gate=gate,
            checkpoint=checkpoint,
            **{name: text(values.get(name, default), name) for name, default in _TEXTS.items()},
        )


def generation_before(records: Mapping[int, Promotion], generation: int) -> int:
    """The generation before the one that first promoted what ``generation`` holds, 0 if there is none.

    Rolling back twice goes back two versions.
    """
    while (record := records.get(generation)) is not None and record.restored_from is not None:
        generation = record.restored_from
    return max((each for each in records if each < generation), default=0)


def whole_generation(name: str, value: Any) -> int:
    """``value`` as a generation.

    Raises:
        ConfigError: it is no whole number.
    """
    try:
        if not isinstance(value, bool):
            return operator.index(value)
    except TypeError:
        pass
    raise ConfigError(name, value, "give the whole number of a generation, 0 for none")

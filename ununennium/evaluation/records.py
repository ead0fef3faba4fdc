"""Typed record of the gate's decision, ``gate.json``: its keys are described in ``ununennium.evaluation.gate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ununennium.evaluation.checks import Check
from ununennium.records import JsonRecord
from ununennium.runs.directory import read_json


@dataclass(frozen=True, eq=False)
class GateRecord(JsonRecord):
    """Contents of ``gate.json``; a file without a verdict allows nothing.

    Attributes:
        verdict: ``promoted`` (it may be) or ``not_promoted``.
        reason: why, in one sentence.
        words: every check and note in a sentence of its own.
        checks: every condition, in order.
        notes: what a reader should know of the comparison.
        bootstrap: how intervals were drawn; None without any.
        split_sha256: the split that both were judged on.
        holdout_sha256: the labels that both were judged on.
        run_id: of the candidate.
        generation: of the champion that it was compared with; 0 without one.
        version: of that champion.
    """

    verdict: str | None = None
    reason: str = ""
    words: Sequence[str] = ()
    checks: Sequence[Check] = ()
    notes: Sequence[str] = ()
    bootstrap: Mapping[str, Any] | None = None
    split_sha256: str = ""
    holdout_sha256: str = ""
    run_id: str = ""
    generation: int = 0
    version: str | None = None

    @classmethod
    def load(cls, file: Path) -> GateRecord:
        """Read ``gate.json``.

        Raises:
            ConfigError: it is missing or damaged.
        """
        return cls.from_json(read_json(file))

    @classmethod
    def _parsed(cls, name: str, value: Any) -> Any:
        return tuple(Check.from_json(check) for check in value) if name == "checks" else value

"""Typed records of ``evaluation.json`` (``EvaluationRecord``) and of the decision, ``gate.json`` (``GateRecord``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ununennium.errors import ConfigError
from ununennium.evaluation.checks import Check
from ununennium.evaluation.evaluation import Baseline, Evaluation
from ununennium.records import JsonRecord


@dataclass(frozen=True, eq=False)
class EvaluationRecord(JsonRecord):
    """Contents of ``evaluation.json``; files of the first version have only the first three keys and ``epoch``.

    Attributes:
        challenger: evaluation of the new model; None where only the champion was measured.
        champion: evaluation of the champion on the same holdout; None without one.
        generation: of the champion, with which a promotion is compared; 0 without one.
        version: of the champion.
        champion_error: why the champion could not be measured.
        champion_holdout: ``split_sha256`` and ``data_sha256`` that the champion was evaluated on when it was promoted.
        epoch: of the checkpoint, from 1.
        checkpoint: ``manifest`` (URL) and ``sha256`` of the checkpoint that was measured.
        code: ``git_commit`` and ``version`` of the code that measured both.
        baselines: baselines of a first model, on the same holdout; empty where there is a champion.
    """

    challenger: Evaluation | None = None
    champion: Evaluation | None = None
    generation: int = 0
    version: str | None = None
    champion_error: str | None = None
    champion_holdout: Mapping[str, str] | None = None
    epoch: int | None = None
    checkpoint: Mapping[str, str] | None = None
    code: Mapping[str, Any] = field(default_factory=dict)
    baselines: Sequence[Baseline] = ()

    @property
    def new_model(self) -> Evaluation:
        """Evaluation of the new model.

        Raises:
            ConfigError: only the champion was measured.
        """
        if self.challenger is None:
            raise ConfigError("evaluation.challenger", None, "is missing: the file holds no evaluation of a new model")
        return self.challenger

    @classmethod
    def _parsed(cls, name: str, value: Any) -> Any:
        if name == "baselines":
            return tuple(Baseline.from_json(each) for each in value)
        is_model = name in ("challenger", "champion") and isinstance(value, Mapping)
        return Evaluation.from_json(value) if is_model else value


@dataclass(frozen=True, eq=False)
class GateRecord(JsonRecord):
    """Contents of ``gate.json``; a file without a verdict allows nothing.

    Attributes:
        verdict: ``promoted`` (it may be) or ``not_promoted``.
        reason: why, in one sentence.
        words: every check and note in a sentence of its own.
        checks: every condition, in order.
        notes: remarks on the comparison, for a reader.
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
    def _parsed(cls, name: str, value: Any) -> Any:
        return tuple(Check.from_json(check) for check in value) if name == "checks" else value

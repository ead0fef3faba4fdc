"""Facts of a run from whichever files it has: a run that failed has a report, too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ununennium.evaluation.evaluation import Evaluation
from ununennium.evaluation.records import EvaluationRecord, GateRecord
from ununennium.files import finite
from ununennium.records import JsonRecord
from ununennium.runs.directory import RunDirectory
from ununennium.runs.records import RunRecord, RunSummary

Record = TypeVar("Record", bound=JsonRecord)


@dataclass(frozen=True)
class Facts:
    """Facts of a run; empty where a file is missing.

    Attributes:
        record: ``run.json``.
        plan: ``plan.json``.
        statistics: ``statistics.json``.
        result: ``result.json``.
        epochs: lines of ``metrics.jsonl``, one for each epoch.
        evaluation: ``evaluation.json``.
        gate: ``gate.json``.
        promotion: ``promotion.json``.
        summary: ``summary.json``.
        chips: ``pictures/chips.json``.
        errors: errors that ended processes, the earliest first.
        pictures: folder of the pictures.
        unreadable: files that are damaged.
    """

    record: RunRecord
    plan: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)
    result: dict[str, Any] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    evaluation: EvaluationRecord = field(default_factory=EvaluationRecord)
    gate: GateRecord = field(default_factory=GateRecord)
    promotion: dict[str, Any] = field(default_factory=dict)
    summary: RunSummary = field(default_factory=RunSummary)
    chips: dict[str, Any] = field(default_factory=dict)
    errors: list[dict[str, Any]] = field(default_factory=list)
    pictures: Path = Path()
    unreadable: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, run: RunDirectory) -> Facts:
        """Facts from the work folder of ``run``.

        Raises:
            ConfigError: not even its ``run.json`` can be read.
        """
        unreadable: list[str] = []

        def read(file: Path) -> dict[str, Any]:
            try:
                content = json.loads(file.read_text(encoding="utf-8"))
            except FileNotFoundError:
                return {}
            except (OSError, ValueError):
                content = None
            if not isinstance(content, dict):
                unreadable.append(file.name)
                return {}
            return content

        def record(kind: type[Record], file: Path) -> Record:
            try:
                return kind.from_json(read(file))
            except (KeyError, TypeError, ValueError, AttributeError):  # of JSON, but not such a record
                unreadable.append(file.name)
                return kind()

        errors = [error for file in sorted(run.errors_folder.glob("*.json")) if (error := read(file))]
        return cls(
            record=run.record(),
            plan=read(run.plan_file),
            statistics=read(run.statistics_file),
            result=read(run.result_file),
            epochs=epoch_rows(run.metrics_file),
            evaluation=record(EvaluationRecord, run.evaluation_file),
            gate=record(GateRecord, run.gate_file),
            promotion=read(run.promotion_file),
            summary=record(RunSummary, run.summary_file),
            chips=read(run.pictures_folder / "chips.json"),
            errors=sorted(errors, key=lambda error: float(error.get("time") or 0.0)),
            pictures=run.pictures_folder,
            unreadable=unreadable,
        )

    @property
    def config(self) -> Mapping[str, Any]:
        """The configuration, as ``run.json`` has it."""
        return self.record.config

    @property
    def challenger(self) -> Evaluation | None:
        """Evaluation of the new model; None before there is one."""
        return self.evaluation.challenger

    @property
    def champion(self) -> Evaluation | None:
        """Evaluation of the champion on the same holdout; None without one."""
        return self.evaluation.champion


def epoch_rows(file: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``; a torn last line, and a file that is not there, are passed over."""
    rows = []
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and "epoch" in row:
            rows.append(row)
    return rows


def metrics_of(evaluation: Evaluation | None) -> Mapping[str, Any]:
    """Metrics of an evaluation, None where one is not a number; empty without an evaluation."""
    found: Mapping[str, Any] = {} if evaluation is None else finite(evaluation.metrics)
    return found

"""Typed records of a run: ``run.json`` (``RunRecord``) and ``summary.json`` (``RunSummary``)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ununennium.errors import ConfigError
from ununennium.records import JsonRecord, read_json


@dataclass(frozen=True, eq=False)
class Attempt(JsonRecord):
    """One start of a run.

    Attributes:
        started: UTC, ISO 8601.
        host: name of the machine.
        versions: package -> version.
        started_by: person or program that asked for it, such as ``flow_run_id``.
    """

    started: str = ""
    host: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    started_by: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class RunRecord(JsonRecord):
    """Contents of ``run.json``.

    Attributes:
        run_id: UTC time of the start, the model's name and four hexadecimal digits.
        name: of the model.
        started: UTC, ISO 8601.
        storage: absolute URL or path.
        git_commit: of the code, ``+`` at its end for uncommitted changes; None outside a repository.
        versions: package -> version.
        host: name of the machine of the first start.
        started_by: person or program that asked for the first start.
        config: the configuration as JSON; ``RunDirectory.config`` validates it.
        resumed: later starts, the earliest first.
    """

    run_id: str = ""
    name: str = ""
    started: str = ""
    storage: str = ""
    git_commit: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    started_by: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    resumed: Sequence[Attempt] = ()

    @classmethod
    def load(cls, file: Path) -> RunRecord:
        """Read ``run.json``.

        Raises:
            ConfigError: it is missing, damaged, or not a run's.
        """
        values = read_json(file)
        if not isinstance(values, dict) or not {"run_id", "storage", "config"} <= values.keys():
            raise ConfigError("run", str(file), "is not the run.json of a run")
        return cls.from_json(values)

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        """All starts, the earliest first."""
        return Attempt(self.started, self.host, self.versions, self.started_by), *self.resumed

    @property
    def last_host(self) -> str:
        """Name of the machine of the last start."""
        return self.attempts[-1].host

    @property
    def flow_run_ids(self) -> list[str]:
        """Ids of the flow runs that asked for it, the earliest first."""
        return [str(found) for attempt in self.attempts if (found := attempt.started_by.get("flow_run_id"))]

    @classmethod
    def _parsed(cls, name: str, value: Any) -> Any:
        return tuple(Attempt.of(each) for each in value) if name == "resumed" else value


@dataclass(frozen=True, eq=False)
class ChampionSummary(JsonRecord):
    """Champion of a model.

    Attributes:
        generation: counted from 1.
        version: of the artefact.
        run_id: run that trained it.
        url: folder of the version.
    """

    generation: int = 0
    version: str = ""
    run_id: str = ""
    url: str = ""


@dataclass(frozen=True, eq=False)
class RunSummary(JsonRecord):
    """Contents of ``summary.json``, a line of ``ununennium runs``; ``ununennium.pipeline.summary`` writes it.

    Attributes:
        run_id: of the run.
        name: of the model.
        started: UTC, ISO 8601.
        finished: UTC, ISO 8601; None before training has ended.
        stop_reason: ``completed``, ``early_stopped``, ``preempted``, ``timed_out`` or ``failed``; None before the end.
        epochs: completed epochs; None before the end.
        best_epoch: completed epochs at the best checkpoint, from 1; None without one.
        data_wait: share of the training time spent on waiting for batches, 0 to 1; None where unknown.
        holdout: the main metrics; None before the evaluation.
        verdict: ``promoted``, ``not_promoted`` or ``awaiting_approval``; None before the evaluation.
        reason: of the verdict or of the end, in words.
        checkpoints: URLs, the oldest first.
        champion: the model's champion at the time of writing; None without one.
        places: name -> URL of the files that the run has made.
    """

    run_id: str = ""
    name: str = ""
    started: str = ""
    finished: str | None = None
    stop_reason: str | None = None
    epochs: int | None = None
    best_epoch: int | None = None
    data_wait: float | None = None
    holdout: Mapping[str, Any] | None = None
    verdict: str | None = None
    reason: str | None = None
    checkpoints: Sequence[str] = ()
    champion: ChampionSummary | None = None
    places: Mapping[str, str] = field(default_factory=dict)

    @property
    def verdict_text(self) -> str:
        """The verdict in words; empty without one."""
        return (self.verdict or "").replace("_", " ")

    @classmethod
    def _parsed(cls, name: str, value: Any) -> Any:
        return ChampionSummary.of(value) if name == "champion" and value is not None else value

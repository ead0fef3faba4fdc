"""Asking a person before a model that passes the gate is promoted: the record of the question and of the answer.

``approval.json`` of a run: ``state`` (``pending``, ``approved`` or ``rejected``), ``round`` (from 1: a run is asked for
again if the champion changed while it waited), ``generation`` (of the champion that the candidate was compared with),
``asked`` (UTC), and, once somebody has answered, ``answered``, ``by`` and ``reason``.
A run that waits holds no process: whoever comes back to it (the flow run that Prefect resumes, ``ununennium promote``)
goes on from its files, and trains and evaluates nothing again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ununennium.evaluation.gate import Check
from ununennium.files import write_json
from ununennium.runs.directory import RunDirectory, read_json

AWAITING = "awaiting_approval"
"""Verdict of a run that passes the gate and waits for a person."""
PENDING, APPROVED, REJECTED = "pending", "approved", "rejected"


@dataclass(frozen=True)
class Answer:
    """What a person said.

    Attributes:
        approved: whether the candidate may become the champion.
        by: who said so.
        reason: why, in their words.
    """

    approved: bool
    by: str
    reason: str = ""

    def check(self) -> Check:
        """The answer as a condition of the gate."""
        words = f"{self.by or 'somebody'} {'approves' if self.approved else 'does not approve'}"
        if self.reason:
            words += f": {self.reason}"
        return Check("approval", None, None, None, self.approved, words, "approval")


def ask(run: RunDirectory, generation: int) -> None:
    """Note that ``run``, compared with ``generation``, waits for a person."""
    before = record_of(run)
    number = 1 if before is None else before["round"] + 1
    question = {"state": PENDING, "round": number, "generation": generation, "asked": _now()}
    write_json(run.approval_file, question)
    run.publish([run.approval_file])


def record_answer(run: RunDirectory, answer: Answer) -> None:
    """Note what a person said, before anything is done about it: it must not be asked twice."""
    record = record_of(run) or {}
    said = {"state": APPROVED if answer.approved else REJECTED, "by": answer.by, "reason": answer.reason}
    write_json(run.approval_file, {**record, **said, "answered": _now()})
    run.publish([run.approval_file])


def record_of(run: RunDirectory) -> dict[str, Any] | None:
    """The contents of ``approval.json``; None if nobody was ever asked."""
    if not run.approval_file.exists():
        return None
    record: dict[str, Any] = read_json(run.approval_file)
    return record


def answer_of(run: RunDirectory) -> Answer | None:
    """What a person said; None if nobody has said anything yet."""
    record = record_of(run)
    if record is None or record["state"] == PENDING:
        return None
    return Answer(record["state"] == APPROVED, record["by"], record["reason"])


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

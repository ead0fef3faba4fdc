"""Asking a person before a model that passes the gate is promoted: the record of the question and of the answer.

``approval.json`` of a run (``ApprovalRecord``) holds both.
A run that waits holds no process: whoever comes back to it (the flow run that Prefect resumes, ``ununennium promote``)
goes on from its files, and trains and evaluates nothing again.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from ununennium.evaluation.gate import Check
from ununennium.files import write_json
from ununennium.records import JsonRecord
from ununennium.runs.directory import RunDirectory

AWAITING = "awaiting_approval"
"""Verdict of a run that passes the gate and waits for a person."""
PENDING, APPROVED, REJECTED = "pending", "approved", "rejected"


@dataclass(frozen=True, eq=False)
class ApprovalRecord(JsonRecord):
    """Contents of ``approval.json``.

    Attributes:
        state: ``pending``, ``approved`` or ``rejected``.
        round: from 1; a run is asked for again if the champion changed while it waited.
        generation: of the champion that the candidate was compared with.
        asked: UTC, ISO 8601.
        by: person who answered; empty before.
        reason: of the answer, in their words.
        answered: UTC, ISO 8601; empty before.
    """

    state: str = PENDING
    round: int = 1
    generation: int = 0
    asked: str = ""
    by: str = ""
    reason: str = ""
    answered: str = ""


@dataclass(frozen=True)
class Answer:
    """Answer of a person to the question of approval.

    Attributes:
        approved: whether the candidate may become the champion.
        by: person who answered.
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
    number = 1 if before is None else before.round + 1
    unanswered = frozenset({"by", "reason", "answered"})
    write_json(run.approval_file, ApprovalRecord(PENDING, number, generation, _now(), absent=unanswered))
    run.publish([run.approval_file])


def record_answer(run: RunDirectory, answer: Answer) -> None:
    """Note what a person said, before anything is done about it: it must not be asked twice."""
    state = APPROVED if answer.approved else REJECTED
    record = record_of(run) or ApprovalRecord(absent=frozenset({"round", "generation", "asked"}))
    said = record.updated(state=state, by=answer.by, reason=answer.reason, answered=_now())
    write_json(run.approval_file, said)
    run.publish([run.approval_file])


def record_of(run: RunDirectory) -> ApprovalRecord | None:
    """Contents of ``approval.json``; None if nobody was ever asked."""
    return ApprovalRecord.load(run.approval_file) if run.approval_file.exists() else None


def answer_of(run: RunDirectory) -> Answer | None:
    """Answer of a person; None before there is one."""
    record = record_of(run)
    if record is None or record.state == PENDING:
        return None
    return Answer(record.state == APPROVED, record.by, record.reason)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")

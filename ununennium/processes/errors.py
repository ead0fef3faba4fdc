"""Errors that a process leaves in a file for the one that started it, and the exceptions that they become there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ununennium.errors import (
    ConfigError,
    LaunchError,
    ProcessLost,
    StorageUnavailable,
    TrainingError,
    UnunenniumError,
)
from ununennium.processes.supervise import how_it_ended


@dataclass(frozen=True)
class RankError:
    """Error that ended a training process.

    Attributes:
        rank: its rank.
        time: seconds since the epoch; the earliest of all ranks is the root cause.
        type: name of the exception's class.
        message: the exception's message.
        traceback: in full.
        expected: whether it is one of ``ununennium.errors``, which a user can mend.
        lost: whether a process or a connection was lost, which says nothing about the run itself: a new start goes on
            from the newest checkpoint.
        setting: ``field``, ``value`` (its ``repr``) and ``remedy`` of a ConfigError.
    """

    rank: int
    time: float
    type: str
    message: str
    traceback: str
    expected: bool = False
    lost: bool = False
    setting: dict[str, str] | None = None


def read_error(file: Path) -> RankError | None:
    """The error in ``file``; None if there is none."""
    try:
        return RankError(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


class SettingRefused(TrainingError, ConfigError):
    """A setting that a process found not to work; the command line ends with status 2, as for any setting."""

    def __init__(self, field: str, value: Any, remedy: str) -> None:
        ConfigError.__init__(self, field, value, remedy)


class _Shown(str):
    """Text that is shown as it is, such as the ``repr`` of a value of another process."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def failed_process(file: Path, what: str, returncode: int) -> UnunenniumError:
    """The exception for a process other than a rank, such as the evaluation, that left its error in ``file``."""
    error = read_error(file)
    if error is None:
        return TrainingError(f"the {what} {how_it_ended(returncode)}")
    return as_exception(error, f"In the {what}:")


def as_exception(error: RankError, where: str) -> UnunenniumError:
    failure: UnunenniumError
    if error.setting is not None:
        failure = SettingRefused(error.setting["field"], _Shown(error.setting["value"]), error.setting["remedy"])
    else:
        kinds: dict[str, type[UnunenniumError]] = {"LaunchError": LaunchError, "StorageUnavailable": StorageUnavailable}
        kind = kinds.get(error.type, ProcessLost if error.lost else TrainingError)
        failure = kind(error.message if error.expected else f"{error.type}: {error.message}")
    failure.add_note(f"{where}\n{error.traceback}")
    return failure

"""The exceptions a user can meet. Each message names the field or file, the value, and the remedy."""

from __future__ import annotations

from typing import Any

from ununennium.redaction import redact


class UnunenniumError(Exception):
    """Base of every error that a user can mend; the command line prints it in one line. It never holds a secret."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*(redact(each) if isinstance(each, str) else each for each in arguments))


class ConfigError(UnunenniumError, ValueError):
    """A setting that cannot work.

    Args:
        field: dotted path of the setting, such as ``data.chip_size``.
        value: value that was given.
        remedy: advice: a right value.
    """

    def __init__(self, field: str, value: Any, remedy: str) -> None:
        super().__init__(f"{field} = {_shown(value)}: {remedy}")
        self.field = field
        self.value = value
        self.remedy = remedy

    def __reduce__(self) -> tuple[Any, ...]:
        return (type(self), (self.field, self.value, self.remedy))


_LONGEST = 300


def _shown(value: Any) -> str:
    """``repr(value)``, cut where it would hide the rest of the message."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, or a value that holds itself
        return f"<{type(value).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 20]}... ({len(text):,} characters)"


class DataError(UnunenniumError):
    """Imagery or labels that cannot be used as they are."""


class TrainingError(UnunenniumError):
    """Training cannot go on, such as a loss that stays non-finite."""


class NonFiniteError(TrainingError):
    """Too many optimizer steps in a row had a non-finite gradient."""


class LaunchError(TrainingError):
    """A training subprocess could not be started, or ended without a result."""


class ProcessLost(TrainingError):
    """A training process was killed, stalled, or lost its connection; a new start goes on from a checkpoint."""


class StorageError(UnunenniumError):
    """Object storage refused, or failed for good."""


class CredentialsError(StorageError):
    """Object storage refuses these credentials, or has not been given any."""


class StorageUnavailable(StorageError):
    """Storage did not answer, or said that it cannot now; trying again later may help."""


class CheckpointError(UnunenniumError):
    """A checkpoint is missing, damaged, or does not fit the model."""


class PromotionConflict(UnunenniumError):
    """Another champion was promoted in the meantime; evaluate against it before trying again."""


class GateError(UnunenniumError):
    """Promotion was asked for without a gate verdict that allows it."""

"""Parts of a run's state from a checkpoint whose hash is right, and whose contents may be anything all the same."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from ununennium.checkpoints.json_records import shortened, whole_number
from ununennium.errors import CheckpointError, UnunenniumError

_MAPPINGS = ("model", "optimizer", "state", "history", "callbacks")
_LISTS_OF_MAPPINGS = ("random_states", "running")
_OPTIONAL_MAPPINGS = ("scheduler", "scaler")
_COUNTS = ("epoch", "global_step", "batches_done", "skipped_steps")
_WRONG = (AttributeError, IndexError, KeyError, OverflowError, RuntimeError, TypeError, ValueError)
"""Exceptions that a value of another kind raises, in our code and in torch's."""


def check_parts(checkpoint: Any) -> None:
    """Make sure that those parts of a run's state which are there are of the kind that a run writes.

    Raises:
        CheckpointError: one is not; the message names it.
    """
    if not isinstance(checkpoint, Mapping):
        raise _wrong("state", checkpoint, "an object of named parts")
    for name in (*_MAPPINGS, *_OPTIONAL_MAPPINGS):
        value = checkpoint.get(name, {})
        if not (isinstance(value, Mapping) or (value is None and name in _OPTIONAL_MAPPINGS)):
            raise _wrong(name, value, "an object of named values")
    for name in _LISTS_OF_MAPPINGS:
        value = checkpoint.get(name, [])
        if not isinstance(value, list) or not all(isinstance(each, Mapping) for each in value):
            raise _wrong(name, value, "a list with an object for each rank")
    for name, state in checkpoint.get("callbacks", {}).items():
        if not isinstance(state, Mapping):
            raise _wrong(f"callbacks.{name}", state, "an object of named values")
    for name, values in checkpoint.get("history", {}).items():
        if not isinstance(values, list):
            raise _wrong(f"history.{name}", values, "a list with a number for each epoch")
    for name in _COUNTS:
        whole_number(checkpoint.get("state", {}).get(name, 0), f"the checkpoint's state.{name}")
    if "optimizer" in checkpoint:
        groups = checkpoint["optimizer"].get("param_groups")
        if not isinstance(groups, list) or not all(isinstance(each, Mapping) for each in groups):
            raise _wrong("optimizer.param_groups", groups, "a list of objects")
        if not isinstance(checkpoint["optimizer"].get("state"), Mapping):
            raise _wrong("optimizer.state", checkpoint["optimizer"].get("state"), "an object")


@contextlib.contextmanager
def taking_over(what: str) -> Iterator[None]:
    """Turn whatever is raised while ``what`` is taken over from a checkpoint into a ``CheckpointError``."""
    try:
        yield
    except UnunenniumError:
        raise
    except _WRONG as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise CheckpointError(
            f"{what} is not what a run writes, though its hash is right; go on from another checkpoint ({reason})"
        ) from error


def _wrong(name: str, value: Any, kind: str) -> CheckpointError:
    return CheckpointError(
        f"the checkpoint's {name} is {shortened(value)}, not {kind}: it was not written by this trainer; go on from "
        "another checkpoint"
    )

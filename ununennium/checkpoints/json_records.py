"""JSON that lies in storage, where anybody may have changed it: every fault of it is a ``CheckpointError``."""

from __future__ import annotations

import json
import re
from typing import Any

from ununennium.errors import CheckpointError

_SHOWN = 60
_DEEPEST = 64
_SHA256 = re.compile("[0-9a-f]{64}")
_LONGEST_NUMBER = 100
"""Digits. Python refuses to read more than 4300, and needs seconds for hundreds of thousands."""


def parse_json_object(data: bytes, problem: str) -> dict[str, Any]:
    """The JSON object in ``data``.

    Args:
        data: bytes as read.
        problem: start of the error message, such as "not a manifest".

    Raises:
        CheckpointError: it is no JSON object, or one that cannot be read: nested too deeply, or with an endless number.
    """
    try:
        values = json.loads(data, parse_int=_parsed_int)
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{problem}: no JSON (line {error.lineno}, column {error.colno})") from error
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{problem}: no text in UTF-8 (byte {error.start})") from error
    except RecursionError as error:
        raise CheckpointError(f"{problem}: its brackets are nested too deeply") from error
    except CheckpointError as error:
        raise CheckpointError(f"{problem}: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{problem}: JSON, but not an object of named values")
    if not _is_shallow(values):
        raise CheckpointError(f"{problem}: its brackets are nested more than {_DEEPEST} deep")
    return values


def whole_number(value: Any, name: str, *, least: int = 0) -> int:
    """``value`` if it is a whole number.

    Raises:
        CheckpointError: it is something else, or less than ``least``.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise CheckpointError(f"{name} is {shortened(value)}, not a whole number >= {least}")
    return value


def text(value: Any, name: str) -> str:
    """``value`` if it is text.

    Raises:
        CheckpointError: it is something else.
    """
    if not isinstance(value, str):
        raise CheckpointError(f"{name} is {shortened(value)}, not text")
    return value


def is_sha256(value: Any) -> bool:
    """Tell whether ``value`` is a hash of 64 hexadecimal digits."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def shortened(value: Any) -> str:
    """``value`` for an error message."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    shown = repr(value)
    return shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."


def _is_shallow(values: Any) -> bool:
    """Tell whether whoever walks through ``values`` by recursion gets to its end."""
    level = [values]
    for _ in range(_DEEPEST):
        level = [
            inner
            for each in level
            if isinstance(each, dict | list)
            for inner in (each.values() if isinstance(each, dict) else each)
        ]
    return not level


def _parsed_int(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise CheckpointError(f"a number of {len(digits)} digits is no count of anything")
    return int(digits)

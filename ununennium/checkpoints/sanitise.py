"""Turn a state into values that ``torch.load(weights_only=True)`` accepts, so that no checkpoint can run code."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict, deque
from collections.abc import Mapping
from datetime import date, time
from enum import Enum
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ununennium.errors import CheckpointError

_TORCH_VALUES = (torch.dtype, torch.device, torch.Size)


def sanitise(value: Any, path: str = "state") -> Any:
    """A copy of the containers in ``value`` whose leaves are tensors, numbers, strings, bytes, booleans and None.

    Tensors are shared, not copied. NumPy arrays become tensors, NumPy scalars and enums plain values, paths and dates
    text, dataclasses dictionaries, and every kind of mapping or sequence the plain one.

    Args:
        value: value to save.
        path: position of the value, for the error message.

    Raises:
        CheckpointError: something in it cannot be represented; the message names its place and type.
    """
    if isinstance(value, Enum):
        return sanitise(value.value, path)
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, np.generic):
        return sanitise(value.item(), path)
    if isinstance(value, Tensor):
        return value.detach()
    if isinstance(value, _TORCH_VALUES):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return str(value)
    if isinstance(value, bytes | bytearray):
        return bytes(value)
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, np.ndarray):
        return _array(value, path)
    if isinstance(value, Mapping):
        return _mapping(value, path)
    if isinstance(value, tuple):
        return tuple(sanitise(item, f"{path}[{position}]") for position, item in enumerate(value))
    if isinstance(value, list | deque):
        return [sanitise(item, f"{path}[{position}]") for position, item in enumerate(value)]
    if isinstance(value, set | frozenset):
        return {sanitise(item, f"{path}{{}}") for item in value}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        named = {item.name: getattr(value, item.name) for item in dataclasses.fields(value)}
        return _mapping(named, path)
    raise CheckpointError(
        f"{path} is a {type(value).__module__}.{type(value).__qualname__}, which a checkpoint cannot hold: keep "
        "tensors, numbers, strings, lists and dictionaries in it"
    )


def _array(value: np.ndarray[Any, Any], path: str) -> Any:
    if value.dtype.kind in "OUSMmV":  # text, dates and objects have no tensor
        return sanitise(value.tolist(), path)
    native = value.astype(value.dtype.newbyteorder("="), copy=True)
    return torch.from_numpy(np.ascontiguousarray(native).reshape(value.shape))


def _mapping(value: Mapping[Any, Any], path: str) -> dict[Any, Any]:
    items = {sanitise(key, f"{path} key"): sanitise(item, f"{path}.{key}") for key, item in value.items()}
    if not isinstance(value, OrderedDict):
        return items
    ordered = OrderedDict(items)
    metadata = getattr(value, "_metadata", None)  # nn.Module.state_dict() keeps its modules' versions here
    if metadata is not None:
        ordered._metadata = sanitise(metadata, f"{path} metadata")  # type: ignore[attr-defined]
    return ordered

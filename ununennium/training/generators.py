"""The random generators that a loader holds of its own, and their states."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_PARTS = (DataLoader, Sampler, Dataset)
_HOLDERS = ("sampler", "batch_sampler", "dataset", "datasets", "loader", "dataloader", "transform", "transforms")
"""Attributes in which generators are looked for whatever their class is."""


def generators_of(loader: Any) -> dict[str, Any]:
    """The random generators that ``loader``, its samplers and its dataset hold: dotted path to generator, each once."""
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(part: Any, path: str) -> None:
        if id(part) in seen:
            return
        if isinstance(part, _GENERATORS):
            seen.add(id(part))
            if not isinstance(part, random.SystemRandom):
                found[path] = part
            return
        if isinstance(part, list | tuple):
            for place, each in enumerate(part if part and isinstance(part[0], _PARTS) else ()):
                visit(each, f"{path}.{place}")
            return
        seen.add(id(part))
        for name, value in list(getattr(part, "__dict__", {}).items()):
            if isinstance(value, _GENERATORS + _PARTS) or name in _HOLDERS or isinstance(value, list | tuple):
                visit(value, f"{path}.{name}" if path else name)

    visit(loader, "")
    return found


def generator_state(generator: Any) -> Any:
    """The state of a torch, NumPy or Python generator, as values ``weights_only`` loading accepts."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, random.Random):
        version, internal, gauss = generator.getstate()
        return [version, list(internal), gauss]
    if isinstance(generator, np.random.RandomState):
        return _plain(generator.get_state(legacy=False))
    return _plain(generator.bit_generator.state)


def set_generator_state(generator: Any, state: Any) -> None:
    """Take over ``generator_state()``."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, random.Random):
        version, internal, gauss = state
        generator.setstate((version, tuple(internal), gauss))
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(_arrays(state))
    else:
        generator.bit_generator.state = _arrays(state)


def _plain(state: Any) -> Any:
    """A bit generator's state with its arrays as ``{"dtype": name, "values": list}``."""
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, np.ndarray):
        return {"dtype": state.dtype.name, "values": state.tolist()}
    return state.item() if isinstance(state, np.generic) else state


def _arrays(state: Any) -> Any:
    """The inverse of ``_plain``."""
    if not isinstance(state, dict):
        return state
    if state.keys() == {"dtype", "values"}:
        return np.array(state["values"], dtype=state["dtype"])
    return {key: _arrays(value) for key, value in state.items()}

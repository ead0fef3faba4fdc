"""The random generators that a loader, a transform or a model holds of its own, and their states."""

from __future__ import annotations

import contextlib
import functools
import inspect
import itertools
import random
import sys
import types
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import numpy as np
import torch
from torch import nn

_GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
_MAPPINGS = (dict, OrderedDict, defaultdict)
_ATOMS = (type(None), bool, int, float, complex, str, bytes, PurePath, torch.Tensor, np.ndarray, np.generic)
_OPAQUE = (type, types.ModuleType, types.BuiltinFunctionType, *_ATOMS)
_RUNNING = "_iterator"
"""Attribute of a DataLoader for its persistent workers, which have copies of its parts."""
_DEEPEST = 12
_LONGEST = 256
"""Of a longer list or mapping, such as that of a dataset's samples, the first values are looked at."""


def generators_of(part: Any) -> dict[str, Any]:
    """The random generators that ``part`` holds, however deep: dotted path to generator, each once.

    Looked into are attributes, lists, mappings, and what functions, partials and bound methods are made with: the
    sampler, dataset, transforms and ``collate_fn`` of a loader, a batch transform, a model's modules.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()

    def visit(each: Any, path: str, depth: int) -> None:
        if id(each) in seen or isinstance(each, _OPAQUE) or depth > _DEEPEST:
            return
        seen.add(id(each))
        if isinstance(each, _GENERATORS):
            if not isinstance(each, random.SystemRandom):
                found[path] = each
            return
        for name, value in _held_by(each):
            visit(value, f"{path}.{name}" if path else str(name), depth + 1)

    visit(part, "", 0)
    return found


def _held_by(part: Any) -> Iterable[tuple[Any, Any]]:
    """Names and values of what ``part`` is made of."""
    if isinstance(part, list | tuple):
        return enumerate(part[:_LONGEST]) if part and not isinstance(part[0], _ATOMS) else ()
    if isinstance(part, Mapping):
        return itertools.islice(part.items(), _LONGEST) if type(part) in _MAPPINGS else ()
    if isinstance(part, functools.partial):
        return [("func", part.func), *enumerate(part.args), *part.keywords.items()]
    if isinstance(part, types.MethodType):
        return [("self", part.__self__)]
    if isinstance(part, types.FunctionType):
        try:
            used = inspect.getclosurevars(part)
        except ValueError:  # a variable of its closure was deleted
            return ()
        own = {name: value for name, value in used.globals.items() if isinstance(value, _GENERATORS)}
        defaults = [("defaults", part.__defaults__), ("keywords", part.__kwdefaults__)]
        return [*own.items(), *used.nonlocals.items(), *defaults]
    if isinstance(part, nn.Module):  # its modules stand for themselves, so that a deep model is no deep path
        return [
            (f"{name}.{key}" if name else key, value)
            for name, module in part.named_modules()
            for key, value in vars(module).items()
            if key not in ("_modules", "_parameters", "_buffers")
        ]
    if type(part).__module__.partition(".")[0] in sys.stdlib_module_names:
        return ()  # threads, locks, processes
    return [(name, value) for name, value in getattr(part, "__dict__", {}).items() if name != _RUNNING]


class HeldGenerators:
    """The generators of some objects, and their states.

    Args:
        parts: name to object; looked through anew each time, since an object may change.
    """

    def __init__(self, **parts: Any) -> None:
        self._parts = parts

    def _found(self) -> dict[str, Any]:
        found = {name: generators_of(part) for name, part in self._parts.items()}
        return {f"{name}.{path}": each for name, paths in found.items() for path, each in paths.items()}

    def states(self) -> dict[str, Any]:
        """Dotted path to state, as values ``weights_only`` loading accepts."""
        return {path: generator_state(generator) for path, generator in self._found().items()}

    def set_states(self, states: Mapping[str, Any]) -> None:
        """Take over ``states()``; a generator that it does not know stays as it is."""
        for path, generator in self._found().items():
            if path in states:
                set_generator_state(generator, states[path])

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Leave the generators as they were before the block."""
        before = self.states()
        try:
            yield
        finally:
            self.set_states(before)


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

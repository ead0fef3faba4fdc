"""The target value that a loss ignores, where the loss does not say so itself but what it is made of does."""

from __future__ import annotations

import functools
import inspect
import types
from typing import Any

from torch import nn
from torch.nn.modules import activation

from ununennium.training.modules import modules_of


def found_ignore_index(loss_fn: Any) -> int | float | None:
    """``ignore_index`` of a wrapped loss; None if it cannot be told.

    A partial, a bound method or a function states it by a keyword's value. A wrapper ignores what all losses in it
    ignore: where one of them ignores nothing, or something else, its answer does count for an ignored batch.
    """
    stated = _stated(loss_fn)
    if stated is not None:
        return stated
    values = [_of_leaves(module) for module in modules_of(loss_fn, "loss", trained_only=False).values()]
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def _stated(loss_fn: Any) -> int | float | None:
    if isinstance(loss_fn, functools.partial):
        given = _number(loss_fn.keywords.get("ignore_index"))
        return _stated(loss_fn.func) if given is None else given
    if isinstance(loss_fn, types.MethodType):
        own = _number(getattr(loss_fn.__self__, "ignore_index", None))
        return _default(loss_fn) if own is None else own
    if isinstance(loss_fn, types.FunctionType):
        return _default(loss_fn)
    return _number(getattr(loss_fn, "ignore_index", None))


def _default(function: Any) -> int | float | None:
    try:
        parameter = inspect.signature(function).parameters.get("ignore_index")
    except (TypeError, ValueError):
        return None
    return None if parameter is None else _number(parameter.default)


def _of_leaves(module: nn.Module) -> int | float | None:
    """The one that ``module``, or all losses in it, ignore."""
    own = _number(getattr(module, "ignore_index", None))
    if own is not None:
        return own
    children = [child for child in module.children() if not _is_neutral(child)]
    values = {_of_leaves(child) for child in children}
    return values.pop() if len(values) == 1 else None


def _is_neutral(module: nn.Module) -> bool:
    """Tell whether ``module`` is no loss: an activation, or a holder of parameters."""
    holders = (nn.Identity, nn.ParameterList, nn.ParameterDict)
    return type(module).__module__ == activation.__name__ or isinstance(module, holders)


def _number(value: Any) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None

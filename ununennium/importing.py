"""User code by import path: ``package.module:Name`` (or ``package.module.Name``), with keyword arguments.

A configuration that names code runs it. On a machine of one's own that is the point; on a worker that serves others,
``UNUNENNIUM_ALLOWED_IMPORTS`` says what may be named: ``ununennium.models,ununennium.losses,torch.nn,torch.optim``.
"""

from __future__ import annotations

import importlib
import inspect
import os
import types
from collections.abc import Mapping
from typing import Any

from ununennium.errors import ConfigError

ALLOWED_IMPORTS = "UNUNENNIUM_ALLOWED_IMPORTS"
"""Environment variable with the packages and modules that a configuration may name, separated by commas; each stands
for itself and all below it. Without it there is no restriction; empty, nothing may be named."""


def check_allowed(path: str, *, field: str) -> None:
    """Refuse an import path that this process may not follow, without importing anything.

    Raises:
        ConfigError: ``UNUNENNIUM_ALLOWED_IMPORTS`` does not list its module.
    """
    allowed = _allowed()
    module_name, attribute = _parts(path)
    if allowed is None or not module_name or not attribute:
        return
    if not _is_listed(module_name, allowed):
        raise _forbidden(path, field, module_name, allowed)


def import_object(path: str, *, field: str) -> Any:
    """Return the object that ``path`` names.

    Args:
        path: ``package.module:Name``; nested attributes after the colon are allowed.
        field: dotted path of the setting it came from, for the error message.

    Raises:
        ConfigError: the module cannot be imported, has no such attribute, or may not be imported here.
    """
    module_name, attribute = _parts(path)
    if not module_name or not attribute:
        raise ConfigError(field, path, "give an import path such as 'package.module:Name'")
    check_allowed(path, field=field)
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(field, path, f"the module {module_name!r} cannot be imported: {error}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ConfigError(field, path, f"{module_name!r} has no attribute {attribute!r}")
        found = getattr(found, name)
        _check_origin(found, path, field)
    return found


def instantiate(path: str, kwargs: Mapping[str, Any], *args: Any, field: str, **runtime: Any) -> Any:
    """Call the object at ``path`` with ``args``, the configured ``kwargs`` and whatever ``runtime`` it accepts.

    ``runtime`` values (such as ``num_classes``) are offered only if the callable has a parameter of that name
    and the configuration does not set it: a user's own class needs no particular signature.

    Raises:
        ConfigError: the arguments do not fit the callable.
    """
    target = import_object(path, field=field)
    if not callable(target):
        raise ConfigError(field, path, f"it is a {type(target).__name__}, not something that can be called")
    parameters: Mapping[str, inspect.Parameter]
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # some builtins have no signature; then the configuration alone decides
        parameters = {}
    offered = {k: v for k, v in runtime.items() if k in parameters and k not in kwargs}
    if parameters:
        try:
            inspect.signature(target).bind(*args, **kwargs, **offered)
        except TypeError as error:
            known = ", ".join(name for name in parameters if name not in runtime)
            raise ConfigError(field, dict(kwargs), f"{path} does not take this: {error}; it knows {known}") from error
    return target(*args, **kwargs, **offered)


def _parts(path: str) -> tuple[str, str]:
    """Module and attribute; either may be empty."""
    module_name, colon, attribute = path.partition(":")
    if not colon:
        module_name, _, attribute = path.rpartition(".")
    return module_name, attribute


def _allowed() -> list[str] | None:
    text = os.environ.get(ALLOWED_IMPORTS)
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def _check_origin(found: Any, path: str, field: str) -> None:
    """What an allowed module has imported itself, such as ``torch`` or ``os``, is no way round the list."""
    allowed = _allowed()
    if allowed is None:
        return
    origin = found.__name__ if isinstance(found, types.ModuleType) else getattr(found, "__module__", None)
    if not isinstance(origin, str) or not _is_listed(origin, allowed):
        raise _forbidden(path, field, origin or type(found).__name__, allowed)


def _is_listed(module_name: str, allowed: list[str]) -> bool:
    return any(module_name == name or module_name.startswith(f"{name}.") for name in allowed)


def _forbidden(path: str, field: str, module_name: str, allowed: list[str]) -> ConfigError:
    return ConfigError(
        field,
        path,
        f"code of {module_name} does not run here, only that of {', '.join(allowed) or 'no package at all'}; if it is "
        f"to be trusted, add its package to {ALLOWED_IMPORTS} in the worker's environment",
    )

"""User code by import path: ``package.module:Name`` (or ``package.module.Name``), with keyword arguments."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from typing import Any

from ununennium.errors import ConfigError


def import_object(path: str, *, field: str) -> Any:
    """Return the object that ``path`` names.

    Args:
        path: ``package.module:Name``; nested attributes after the colon are allowed.
        field: dotted path of the setting it came from, for the error message.

    Raises:
        ConfigError: the module cannot be imported or has no such attribute.
    """
    module_name, colon, attribute = path.partition(":")
    if not colon:
        module_name, _, attribute = path.rpartition(".")
    if not module_name or not attribute:
        raise ConfigError(field, path, "give an import path such as 'package.module:Name'")
    try:
        found: Any = importlib.import_module(module_name)
    except ImportError as error:
        raise ConfigError(field, path, f"the module {module_name!r} cannot be imported: {error}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ConfigError(field, path, f"{module_name!r} has no attribute {attribute!r}")
        found = getattr(found, name)
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

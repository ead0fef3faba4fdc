"""User code by import path: ``package.module:Name`` (or ``package.module.Name``), with keyword arguments.

A configuration that names code runs it. On a machine of one's own that is the point; on a worker that serves others,
``UNUNENNIUM_ALLOWED_IMPORTS`` says what may be named: ``ununennium.models,ununennium.losses,torch.nn,torch.optim``.
What a stored model names is another matter, see ``ununennium.checkpoints.artifact_code``.
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ununennium.errors import ConfigError, UnunenniumError
from ununennium.hints import did_you_mean

ALLOWED_IMPORTS = "UNUNENNIUM_ALLOWED_IMPORTS"
"""Environment variable with the packages and modules that a configuration may name, separated by commas; each stands
for itself and all below it, and ``module:Name`` for that one object. Without it there is no restriction; empty, nothing
may be named."""

_TAKEN_BY_KEYWORD = {
    "timm": ("in_chans", "num_classes"),
    "torchgeo": ("in_chans", "num_classes"),
    "torchvision": ("num_classes",),
}
"""Counts of a model that functions of a library take as ``**kwargs``, and hand on to the model that they make."""


def check_allowed(path: str, *, field: str) -> None:
    """Refuse an import path that this process may not follow, without importing anything.

    Raises:
        ConfigError: ``UNUNENNIUM_ALLOWED_IMPORTS`` does not list its module.
    """
    allowed = allowed_imports()
    module_name, attribute = split_path(path)
    if allowed is None or not module_name or not attribute:
        return
    if not is_listed(path, allowed):
        raise _forbidden(path, field, module_name, allowed)


def import_object(path: str, *, field: str, allowed: Sequence[str] | None = None) -> Any:
    """Return the object that ``path`` names.

    Args:
        path: ``package.module:Name``; nested attributes after the colon are allowed.
        field: dotted path of the setting it came from, for the error message.
        allowed: packages, modules and objects that may be named, instead of ``UNUNENNIUM_ALLOWED_IMPORTS``.

    Raises:
        ConfigError: the module cannot be imported, has no such attribute, or may not be imported here.
    """
    module_name, attribute = split_path(path)
    if not module_name or not attribute:
        raise ConfigError(field, path, "give an import path such as 'package.module:Name'")
    allowed = allowed_imports() if allowed is None else allowed
    if allowed is not None and not is_listed(path, allowed):
        raise _forbidden(path, field, module_name, allowed)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:  # whatever the module's own code raises
        why = str(error) if isinstance(error, ImportError) else f"{type(error).__name__}: {error}"
        raise ConfigError(field, path, f"the module {module_name!r} cannot be imported: {why}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            hint = did_you_mean(name, (each for each in dir(found) if not each.startswith("_")))
            remedy = f"{module_name!r} has no attribute {attribute!r}"
            raise ConfigError(field, path, f"{remedy}; {hint}" if hint else remedy)
        found = getattr(found, name)
        _check_origin(found, path, field, allowed)
    return found


def instantiate(path: str, kwargs: Mapping[str, Any], *args: Any, field: str, **runtime: Any) -> Any:
    """Call the object at ``path`` with ``args``, the configured ``kwargs`` and whatever ``runtime`` it accepts.

    ``runtime`` values (such as ``num_classes``) are offered only if the callable has a parameter of that name, or is a
    function of timm, torchgeo or torchvision that hands it on, and the configuration does not set it: a user's own
    class needs no particular signature.

    Args:
        path: of the callable.
        kwargs: keyword arguments from the configuration.
        args: positional arguments that come first.
        field: dotted path of the component, such as ``optimizer``; errors name its ``target`` or one of its ``kwargs``.
        runtime: offered by name.

    Raises:
        ConfigError: the arguments do not fit the callable, or it fails; the argument at fault is named if it is known.
    """
    target = import_object(path, field=f"{field}.target")
    return call(target, path, kwargs, *args, field=field, **runtime)


def counts_of_model(in_channels: int, num_classes: int) -> dict[str, int]:
    """Band and class counts under the names of constructors, to be offered to one.

    Args:
        in_channels: ``in_channels`` (ours, smp), ``in_chans`` (timm), ``num_channels`` (transformers).
        num_classes: ``num_classes`` (ours, timm, torchvision), ``classes`` (smp), ``num_labels`` (transformers).
    """
    channels = dict.fromkeys(("in_channels", "in_chans", "num_channels"), in_channels)
    return channels | dict.fromkeys(("num_classes", "classes", "num_labels"), num_classes)


def call(target: Any, path: str, kwargs: Mapping[str, Any], *args: Any, field: str, **runtime: Any) -> Any:
    """The second half of ``instantiate``: call ``target``, which ``path`` names.

    Raises:
        ConfigError: it cannot be called, the arguments do not fit it, or it fails.
    """
    if not callable(target):
        remedy = f"it is a {type(target).__name__}, not something that can be called"
        raise ConfigError(f"{field}.target", path, remedy)
    parameters: Mapping[str, inspect.Parameter]
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):  # some builtins have no signature; then the configuration alone decides
        parameters = {}
    takes = [*parameters, *_handed_on(path, parameters)]
    offered = {k: v for k, v in runtime.items() if k in takes and k not in kwargs}
    if parameters:
        try:
            inspect.signature(target).bind(*args, **kwargs, **offered)
        except TypeError as error:
            raise _does_not_fit(path, kwargs, parameters, runtime, field, error) from error
    _refuse_booleans(path, kwargs, parameters, field)
    try:
        return target(*args, **kwargs, **offered)
    except ConfigError as error:
        name = error.field.removeprefix(f"{field}.")
        if name not in kwargs:
            raise
        raise ConfigError(f"{field}.kwargs.{name}", kwargs[name], error.remedy) from error
    except (UnunenniumError, MemoryError, ConnectionError, TimeoutError):
        raise
    except Exception as error:
        culprit = _at_fault(kwargs, parameters, error)
        if culprit is None:
            remedy = f"{path} cannot be made of this: {type(error).__name__}: {error}"
            raise ConfigError(f"{field}.kwargs", dict(kwargs), remedy) from error
        remedy = _wanted(path, parameters, culprit, error)
        raise ConfigError(f"{field}.kwargs.{culprit}", kwargs[culprit], remedy) from error


def _handed_on(path: str, parameters: Mapping[str, inspect.Parameter]) -> Sequence[str]:
    """Counts that the callable at ``path`` takes without naming them."""
    if not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        return ()
    return _TAKEN_BY_KEYWORD.get(path.partition(".")[0].partition(":")[0], ())


def _does_not_fit(
    path: str,
    kwargs: Mapping[str, Any],
    parameters: Mapping[str, inspect.Parameter],
    runtime: Mapping[str, Any],
    field: str,
    error: TypeError,
) -> ConfigError:
    """The error for arguments that a callable has not, or that it lacks."""
    known = [name for name, each in parameters.items() if name not in runtime and each.kind is not each.VAR_POSITIONAL]
    unknown = [name for name in kwargs if name not in parameters]
    if unknown and not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        hint = did_you_mean(unknown[0], known)
        remedy = f"{path} has no argument {unknown[0]!r}; {f'{hint} ' if hint else ''}it knows {', '.join(known)}"
        return ConfigError(f"{field}.kwargs.{unknown[0]}", kwargs[unknown[0]], remedy)
    remedy = f"{path} does not take this: {error}; it knows {', '.join(known)}"
    return ConfigError(f"{field}.kwargs", dict(kwargs), remedy)


def _wanted(path: str, parameters: Mapping[str, inspect.Parameter], name: str, error: Exception) -> str:
    """Remedy for an argument: its type and default as the callable declares them, and what it complained of."""
    kind = _annotation(parameters, name)
    default = parameters[name].default if name in parameters else inspect.Parameter.empty
    words = [f"a value of type {kind}"] if kind else []
    words += [] if default is inspect.Parameter.empty else [f"by default {default!r}"]
    declared = f"give {', '.join(words)}; " if words else ""
    return f"{declared}{path} refuses it: {type(error).__name__}: {error}"


def _refuse_booleans(
    path: str, kwargs: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], field: str
) -> None:
    """Refuse ``lr: yes``: Python would take it for 1."""
    for name, value in kwargs.items():
        default = parameters[name].default if name in parameters else None
        if isinstance(value, bool) and type(default) in (int, float) and "bool" not in _annotation(parameters, name):
            raise ConfigError(f"{field}.kwargs.{name}", value, f"{path} takes a number here, such as {default!r}")


def _annotation(parameters: Mapping[str, inspect.Parameter], name: str) -> str:
    """The type of a parameter as it is written; empty where it has none."""
    found = parameters[name].annotation if name in parameters else inspect.Parameter.empty
    if found is inspect.Parameter.empty:
        return ""
    return found if isinstance(found, str) else getattr(found, "__name__", None) or str(found)


def _at_fault(kwargs: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter], error: Exception) -> str | None:
    """The argument that made a callable fail, as far as its type, its default and the message tell."""
    words = {"float": (float, int), "int": (int,), "bool": (bool,), "str": (str,)}
    for name, value in kwargs.items():
        kinds = set(re.findall(r"\w+", _annotation(parameters, name).replace("list", "").replace("tuple", "")))
        default = parameters[name].default if name in parameters else None
        kinds = kinds or ({type(default).__name__} if type(default) in (int, float) else set())
        known = tuple(kind for word in kinds & words.keys() for kind in words[word])
        of_several = isinstance(value, list | tuple) and not kinds & {"float", "int", "bool", "str"}
        takes_none = value is None and ("None" in kinds or "Optional" in kinds)
        if known and not of_several and not takes_none and not isinstance(value, known):
            return name
    message = str(error)
    named = [name for name in kwargs if re.search(rf"\b{re.escape(name)}\b", message)]
    if len(named) == 1:
        return named[0]
    shown = [name for name, value in kwargs.items() if len(repr(value)) > 1 and repr(value) in message]
    if len(shown) == 1:
        return shown[0]
    return next(iter(kwargs)) if len(kwargs) == 1 else None


def split_path(path: str) -> tuple[str, str]:
    """Module and attribute; either may be empty."""
    module_name, colon, attribute = path.partition(":")
    if not colon:
        module_name, _, attribute = path.rpartition(".")
    return module_name, attribute


def allowed_imports() -> list[str] | None:
    """The entries of ``UNUNENNIUM_ALLOWED_IMPORTS``; None if it is not set."""
    text = os.environ.get(ALLOWED_IMPORTS)
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def is_listed(path: str, allowed: Sequence[str]) -> bool:
    """Tell whether the import path ``path``, or its module or a package that holds it, is in ``allowed``."""
    module_name, attribute = split_path(path)
    return f"{module_name}:{attribute}" in allowed or _is_below(module_name, allowed)


def _is_below(module_name: str, allowed: Sequence[str]) -> bool:
    return any(module_name == name or module_name.startswith(f"{name}.") for name in allowed)


def _check_origin(found: Any, path: str, field: str, allowed: Sequence[str] | None) -> None:
    """Refuse what an allowed module has imported itself, such as ``torch`` or ``os``: it is no way round the list."""
    if allowed is None or ":".join(split_path(path)) in allowed:
        return
    origin = found.__name__ if isinstance(found, types.ModuleType) else getattr(found, "__module__", None)
    if not isinstance(origin, str) or not _is_below(origin, allowed):
        raise _forbidden(path, field, origin or type(found).__name__, allowed)


def _forbidden(path: str, field: str, module_name: str, allowed: Sequence[str]) -> ConfigError:
    return ConfigError(
        field,
        path,
        f"code of {module_name} does not run here, only that of {', '.join(allowed) or 'no package at all'}; if it is "
        f"to be trusted, add its package to {ALLOWED_IMPORTS} in the worker's environment",
    )


def lazy_names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of a package whose public names are imported when they are first used (PEP 562).

    Args:
        package: its ``__name__``.
        homes: public name to the module that has it, relative to the package: ``.trainer``, ``..storage.base``.
    """

    def get(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(importlib.import_module(homes[name], package), name)

    def names() -> list[str]:
        return sorted({*vars(sys.modules[package]), *homes})

    return get, names

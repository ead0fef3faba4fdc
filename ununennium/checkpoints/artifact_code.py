"""Code that a stored model may run: who writes to the storage must not choose what a reader executes.

A contract names its model by import path and keyword arguments, as a configuration does, but it comes from storage.
Nothing that it names is imported unless it is

- a class of ``nn.Module``, or a model factory that its package itself lists, of one of the packages ``PACKAGES``;
- named by the configuration of whoever loads it: that very object, or an ``nn.Module`` class of its package;
- listed in ``UNUNENNIUM_ALLOWED_IMPORTS``, which, empty, allows nothing at all.

Its keyword arguments name no files, URLs or remote code, unless the configuration gives the very same, or the variable
lists the object itself (``module:Name``).
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, Protocol

from torch import nn

from ununennium.errors import ConfigError
from ununennium.importing import ALLOWED_IMPORTS, allowed_imports, call, import_object, is_listed, split_path

PACKAGES = (
    "ununennium.models",
    "torch.nn",
    "segmentation_models_pytorch",
    "timm",
    "torchvision",
    "torchgeo",
    "terratorch",
    "transformers",
    "peft",
)
"""Packages whose ``nn.Module`` classes and listed factories every stored model may name."""

_FACTORIES = (
    "ununennium.models:zoo",
    "segmentation_models_pytorch:create_model",
    "timm.models._factory:create_model",
    "timm.models.factory:create_model",
    "torchvision.models._api:get_model",
    "torchgeo.models.api:get_model",
)
"""Factories by the module that defines them, whichever module a path names them in."""

_FETCHED_WEIGHTS = {"pretrained": False, "encoder_weights": None}
_FETCHED_WEIGHTS_OF = {"torchvision": ("weights", "weights_backbone"), "torchgeo": ("weights",)}
"""Keyword arguments by which models fetch weights; those of the artefact replace them, so nothing is fetched."""

_WORDS_OF_PLACES = {"path", "paths", "file", "files", "filename", "url", "urls", "uri", "dir", "directory", "folder"}
_WORDS_OF_PLACES |= {"ckpt", "checkpoint", "repo", "hub", "script"}
_KEYS_OF_CODE = {"target", "_target_", "class_path", "auto_map", "__class__", "callable", "import_path"}
_PLACE = re.compile(r"://|^[/~\\]|^\.\.?[/\\]|^[A-Za-z]:[/\\]|[/\\]\.\.[/\\]|\0")
_FILE = re.compile(
    r"\.(?:pt|pth|bin|ckpt|safetensors|onnx|npz|npy|pkl|pickle|joblib|py|pyc|so|json|ya?ml|toml|zip|tar|gz|h5|hdf5)$",
    re.IGNORECASE,
)
_ROOTS_OF_CODE = frozenset(sys.stdlib_module_names) | {"torch", "numpy", "ununennium"}
_DEEPEST = 20


class NamesCode(Protocol):
    """A part of the user's own configuration, such as ``config.model``."""

    @property
    def target(self) -> str:
        """Import path."""

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments."""


def build_from_artifact(
    path: str, kwargs: Mapping[str, Any], *, field: str, trusted: Sequence[NamesCode] = (), **runtime: Any
) -> Any:
    """Call the object that an artefact names, if it may be called.

    Args:
        path: import path.
        kwargs: the artefact's keyword arguments; weights that they would fetch are not fetched.
        field: position in the artefact, for the error message, such as ``contract.model``.
        trusted: import paths that the caller's configuration names.
        runtime: offered where the object takes it, see ``importing.instantiate``.

    Raises:
        ConfigError: this code, or one of its arguments, is not allowed, or cannot be used; the message says by what
            it would be allowed.
    """
    found = _import_allowed(path, field, trusted)
    if not _lists_itself(path):
        _check_arguments(path, kwargs, field, trusted)
    given = dict(kwargs)
    package = split_path(path)[0].partition(".")[0]
    fetched = _FETCHED_WEIGHTS | dict.fromkeys(_FETCHED_WEIGHTS_OF.get(package, ()))
    makers = [found, _named_builder(found, given)] if is_listed(path, PACKAGES) else []  # their defaults may fetch too
    given.update({k: v for k, v in fetched.items() if k in given or any(_takes(maker, k) for maker in makers)})
    return call(found, path, given, field=field, **runtime)


# ---------------------------------------------------------------------- the object


def _import_allowed(path: str, field: str, trusted: Sequence[NamesCode]) -> Any:
    """Import the object at ``path``; nothing is imported that is not allowed by its name already."""
    module_name, attribute = split_path(path)
    names = [*module_name.split("."), *attribute.split(".")]
    if not all(name.isidentifier() for name in names) or any(name.startswith("__") for name in names):
        raise ConfigError(field, path, "give an import path such as 'package.module:Name'")
    if any(path == each.target for each in trusted):
        return import_object(path, field=field)  # within UNUNENNIUM_ALLOWED_IMPORTS, if it is set
    listed = allowed_imports()
    own = [split_path(each.target)[0].partition(".")[0] for each in trusted]
    allowed = [*PACKAGES, *own, *(listed or [])]
    if listed == [] or not is_listed(path, allowed):
        raise _refused(path, field)
    found = import_object(path, field=field, allowed=allowed)
    if listed is not None and is_listed(path, listed):
        return found
    if isinstance(found, type) and issubclass(found, nn.Module):
        return found
    if not is_listed(path, PACKAGES) or not _is_factory(found):
        raise _refused(path, field)
    return found


def _is_factory(found: Any) -> bool:
    """Tell whether ``found`` is a function that its package lists among those that make models."""
    home, name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if not isinstance(home, str) or not isinstance(name, str):
        return False
    if f"{home}:{name}" in _FACTORIES:
        return True
    package = home.partition(".")[0]
    models = sys.modules.get(f"{package}.models")
    return package in ("timm", "torchvision", "torchgeo") and models is not None and found is _builder(models, name)


def _builder(models: ModuleType, name: str) -> Any:
    """The model function of this name that a package's list of models has; None if it has none."""
    if hasattr(models, "model_entrypoint"):  # timm
        return models.model_entrypoint(name) if models.is_model(name) else None
    if name not in models.list_models():
        return None
    return models.get_model_builder(name) if hasattr(models, "get_model_builder") else getattr(models, name, None)


def _named_builder(found: Any, kwargs: Mapping[str, Any]) -> Any:
    """The function to which torchvision's ``get_model`` hands its keyword arguments; None for all else."""
    home, name = getattr(found, "__module__", None), getattr(found, "__name__", None)
    if f"{home}:{name}" != "torchvision.models._api:get_model":
        return None
    return _builder(sys.modules["torchvision.models"], str(kwargs.get("name", "")).lower())


def _lists_itself(path: str) -> bool:
    return ":".join(split_path(path)) in (allowed_imports() or [])


def _takes(found: Any, name: str) -> bool:
    try:
        return name in inspect.signature(found).parameters
    except (TypeError, ValueError):
        return False


def _refused(path: str, field: str) -> ConfigError:
    module_name = split_path(path)[0]
    return ConfigError(
        field,
        path,
        "is code that a stored model may not run here; it may name nn.Module classes and the listed model factories "
        f"of {', '.join(PACKAGES)}, and what the configuration of whoever loads it names; if {module_name} is to be "
        f"trusted, add it to {ALLOWED_IMPORTS} in the environment",
    )


# ---------------------------------------------------------------------- its arguments


def _check_arguments(path: str, kwargs: Mapping[str, Any], field: str, trusted: Sequence[NamesCode]) -> None:
    own = [each.kwargs for each in trusted if each.target == path]
    is_strict = is_listed(path, PACKAGES)
    for name, value in kwargs.items():
        if any(name in given and given[name] == value for given in own):
            continue
        for position, problem in _problems(name, value, is_strict=is_strict):
            raise ConfigError(
                f"{field}.kwargs.{position}",
                problem,
                f"names a file, a URL or code, which a stored model may not ask {path} to use; load it with a "
                f"configuration that names the same, or add {':'.join(split_path(path))!r} itself to {ALLOWED_IMPORTS} "
                "if its arguments are to be trusted",
            )


def _problems(name: str, value: Any, *, is_strict: bool, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """Parts of an argument that name files, URLs or code, with their places.

    Args:
        name: of the argument, with its place.
        value: as JSON has it.
        is_strict: take also what may be the name of a remote repository or of code for one.
        depth: of ``value`` within the argument.
    """
    key = name.rpartition(".")[2].lower()
    if depth > _DEEPEST:
        yield name, "a deeply nested value"
    elif isinstance(value, Mapping):
        if key in _KEYS_OF_CODE or any(str(each).lower() in _KEYS_OF_CODE for each in value):
            yield name, dict(value)
        for inner, each in value.items():
            yield from _problems(f"{name}.{inner}", each, is_strict=is_strict, depth=depth + 1)
    elif isinstance(value, list | tuple):
        for number, each in enumerate(value):
            yield from _problems(f"{name}.{number}", each, is_strict=is_strict, depth=depth + 1)
        if _names_place(key) and any(isinstance(each, str) for each in value):
            yield name, value
    elif "remote_code" in key:
        if value:
            yield name, value
    elif isinstance(value, str) and value and (_names_place(key) or _is_suspect(value, is_strict=is_strict)):
        yield name, value


def _names_place(key: str) -> bool:
    return key in _KEYS_OF_CODE or bool(_WORDS_OF_PLACES & set(re.split(r"[^a-z]+", key)))


def _is_suspect(text: str, *, is_strict: bool) -> bool:
    if _PLACE.search(text) or _FILE.search(text):
        return True
    if not is_strict:
        return False
    root, dot, _ = text.partition(".")
    return bool(set(text) & set("/\\:")) or bool(dot and root in _ROOTS_OF_CODE)

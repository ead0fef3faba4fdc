"""Overrides on the command line, and pydantic's complaints in our words."""

from __future__ import annotations

import contextlib
import copy
import difflib
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from ununennium.errors import ConfigError

_UNION_TAGS = {"bool", "str", "int", "float"}
_UNION_TAG_BEGINNINGS = ("literal[", "list[", "dict[", "tuple[")


def apply_overrides(settings: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return ``settings`` with dotted ``path=value`` overrides applied; values are read as YAML.

    ``data.scenes.0.image=a.tif`` reaches into lists. A path that does not exist yet is created, so that validation
    names it if it is unknown.

    Raises:
        ConfigError: an override without ``=``, or one that goes through something that is not a section.
    """
    result: dict[str, Any] = copy.deepcopy(dict(settings))
    for override in overrides:
        path, equals, text = override.partition("=")
        keys = path.strip().split(".")
        if not equals or not all(keys):
            raise ConfigError("overrides", override, "write path=value, such as trainer.epochs=5")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise ConfigError(
                "overrides", override, f"the value is not valid YAML: {' '.join(str(error).split())}"
            ) from error
        if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text; a person means the number
            with contextlib.suppress(ValueError):
                value = float(value)
        node: Any = result
        for depth, key in enumerate(keys):
            last = depth == len(keys) - 1
            if isinstance(node, list):
                if not key.isdigit() or int(key) >= len(node):
                    raise ConfigError("overrides", override, f"{'.'.join(keys[:depth])} has items 0..{len(node) - 1}")
                slot: Any = int(key)
            elif isinstance(node, dict):
                slot = key
            else:
                raise ConfigError("overrides", override, f"{'.'.join(keys[:depth])} is not a section")
            if last:
                node[slot] = value
            elif isinstance(node, dict) and node.get(slot) is None:
                node[slot] = {}
            node = node[slot]
    return result


def as_config_error(model: type[BaseModel], error: ValidationError, settings: Mapping[str, Any]) -> ConfigError:
    """The first of pydantic's complaints, in our words."""
    problem = error.errors()[0]
    field = _field(problem["loc"]) or "configuration"
    value = problem.get("input")
    if problem["type"] == "extra_forbidden":
        name = str(problem["loc"][-1])
        known = _fields_at(model, problem["loc"][:-1])
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
        return ConfigError(field, value, f"there is no such setting; {hint}")
    if problem["type"] == "missing":
        return ConfigError(field, None, "is required")
    # A union gives one complaint per member; any of them would be right.
    complaints = [other["msg"] for other in error.errors() if _field(other["loc"]) == _field(problem["loc"])]
    message = ", or: ".join(dict.fromkeys(complaint.removeprefix("Value error, ") for complaint in complaints))
    if field == "configuration":
        value = "..."
    return ConfigError(field, value, message)


def _field(location: Sequence[Any]) -> str:
    """A location as a dotted path."""
    return ".".join(str(part) for part in location if not _is_union_tag(part))


def _is_union_tag(part: Any) -> bool:
    """Pydantic adds the tried type to the location of a union's member; a user's path has no such part."""
    return isinstance(part, str) and (part in _UNION_TAGS or part.startswith(_UNION_TAG_BEGINNINGS))


def _fields_at(model: type[BaseModel], location: Sequence[Any]) -> list[str]:
    """Names of the fields of the section at ``location``."""
    current: Any = model
    for part in location:
        if isinstance(part, int):
            continue
        annotation = current.model_fields[part].annotation if part in current.model_fields else None
        candidates = [annotation, *getattr(annotation, "__args__", ())]
        current = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        if current is None:
            return []
    return sorted(current.model_fields)

"""Settings from a file and from the command line, and pydantic's complaints in plain words."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from ununennium.config.yaml_text import MAX_DEPTH, read_yaml
from ununennium.errors import ConfigError
from ununennium.hints import did_you_mean

_UNION_TAGS = {"bool", "str", "int", "float"}
_UNION_TAG_BEGINNINGS = ("literal[", "list[", "dict[", "tuple[")


SectionT = TypeVar("SectionT", bound=BaseModel)


def load_settings(path: str | Path, *, wanted: str) -> dict[str, Any]:
    """Read a YAML file whose content is a mapping.

    Args:
        path: the file.
        wanted: expected content, for the error message.

    Raises:
        ConfigError: the file cannot be read, is not valid YAML, or holds no mapping.
    """
    file = Path(path)
    try:
        if not file.is_file() and file.exists():
            raise ConfigError("config", str(path), "cannot be read: it is no file")
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        if isinstance(error, UnicodeDecodeError):
            reason = f"is not valid YAML: byte {error.start} is no UTF-8; save it as UTF-8"
            raise ConfigError("config", str(path), str(reason)) from error
        if isinstance(error, ConfigError):
            raise
        raise ConfigError("config", str(path), f"cannot be read: {reason}") from error
    settings = read_yaml(text, field="config", value=str(path), name=file.name)
    if not isinstance(settings, dict):
        raise ConfigError("config", str(path), wanted)
    return settings


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
        if len(keys) > MAX_DEPTH:
            raise ConfigError("overrides", f"{override[:60]}...", f"goes through more than {MAX_DEPTH} sections")
        if not equals or not all(keys):
            raise ConfigError("overrides", override, "write path=value, such as trainer.epochs=5")
        value = read_yaml(text, field="overrides", value=override)
        node: Any = result
        for depth, key in enumerate(keys):
            last = depth == len(keys) - 1
            if isinstance(node, list):
                if key not in map(str, range(len(node))):
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


def check_depth(settings: Mapping[str, Any], *, field: str) -> None:
    """Refuse settings that whoever walks through them by recursion would not get to the end of.

    Raises:
        ConfigError: they are nested deeper than a YAML file may be, or stand inside of themselves.
    """
    level: list[Any] = [settings]
    for _ in range(MAX_DEPTH + 1):
        inner = [part for each in level for part in (each.values() if isinstance(each, Mapping) else each)]
        level = list({id(each): each for each in inner if isinstance(each, Mapping | list | tuple)}.values())
    if level:
        raise ConfigError(field, "...", f"is nested more than {MAX_DEPTH} deep, or stands inside of itself")


def as_config_error(model: type[BaseModel], error: ValidationError, settings: Mapping[str, Any]) -> ConfigError:
    """The first of pydantic's complaints, in our words."""
    problems = error.errors()
    problem = problems[0]
    field = _field(problem["loc"]) or "configuration"
    value = problem.get("input")
    if problem["type"] == "extra_forbidden":
        known = _fields_at(model, problem["loc"][:-1])
        hint = did_you_mean(str(problem["loc"][-1]), known) or f"known here: {', '.join(known)}"
        return ConfigError(field, value, f"there is no such setting; {hint}")
    if problem["type"] == "missing":
        return ConfigError(field, None, "is required")
    # A union gives one complaint per member; any of them would be right.
    complaints = [_in_words(other) for other in problems if _field(other["loc"]) == _field(problem["loc"])]
    message = ", or: ".join(dict.fromkeys(complaints))
    if field == "configuration":
        value = "..."
    return ConfigError(field, value, message)


def make_section(section: type[SectionT], settings: Mapping[str, Any], *, field: str) -> SectionT:
    """Validate settings that come from something other than a configuration, such as a catalogue or an argument.

    Raises:
        ConfigError: the first that cannot work; ``field`` stands before its path.
    """
    try:
        return section.model_validate(settings)
    except ValidationError as error:
        found = as_config_error(section, error, settings)
        raise ConfigError(f"{field}.{found.field}", found.value, found.remedy) from None


_WORDS = {
    "int_type": "give a whole number",
    "int_parsing": "give a whole number",
    "int_parsing_size": "give a whole number of fewer digits",
    "int_from_float": "give a whole number",
    "float_type": "give a number",
    "float_parsing": "give a number",
    "finite_number": "give a finite number, not NaN or infinity",
    "bool_type": "give true or false",
    "bool_parsing": "give true or false",
    "string_type": "give text",
    "list_type": "give a list: [a, b]",
    "tuple_type": "give a list: [a, b]",
    "dict_type": "give a mapping: {{name: value}}",
    "mapping_type": "give a mapping: {{name: value}}",
    "model_type": "give a mapping of settings: {{name: value}}",
    "model_attributes_type": "give a mapping of settings: {{name: value}}",
    "invalid_key": "names are text; put it in quotes",
    "greater_than_equal": "give at least {ge}",
    "greater_than": "give more than {gt}",
    "less_than_equal": "give at most {le}",
    "less_than": "give less than {lt}",
    "literal_error": "choose {expected}",
    "string_pattern_mismatch": "give text that fits the pattern {pattern}",
    "string_too_long": "give at most {max_length} characters",
    "string_too_short": "give at least {min_length} characters",
    "too_short": "give at least {min_length}",
    "too_long": "give at most {max_length}",
}
"""Pydantic's types of complaints -> plain words; its own text stands for all others."""


def _in_words(problem: Any) -> str:
    """One of pydantic's complaints in plain words."""
    words = _WORDS.get(problem["type"])
    if words is None:
        return str(problem["msg"]).removeprefix("Value error, ")
    limits = {name: f"{each:g}" if isinstance(each, float) else each for name, each in problem.get("ctx", {}).items()}
    text = words.format(**limits)
    if problem["type"] == "string_type" and isinstance(problem.get("input"), bool | int | float):
        text += f", in quotes: {str(problem['input'])!r}"
    return text


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

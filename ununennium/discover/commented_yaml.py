"""A configuration as YAML that documents itself: every field with its description above it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from ununennium.config import Component, RunConfig, Section
from ununennium.config.yaml_text import write_yaml


def commented_yaml(config: RunConfig, *, header: str = "", remarks: Mapping[str, str] | None = None) -> str:
    """``config`` as YAML with every field's documentation above it; ``RunConfig.load`` reads it back.

    Args:
        config: the configuration.
        header: text of the first lines.
        remarks: dotted path of a field to a remark that stands between its description and its value.
    """
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    return "\n".join([*lines, *_section(config, remarks or {})]) + "\n"


def _section(section: BaseModel, remarks: Mapping[str, str], path: str = "") -> list[str]:
    lines: list[str] = []
    pad = "  " * path.count(".")
    for name, about in type(section).model_fields.items():
        value = getattr(section, name)
        if not path:
            lines.append("")
        lines += [f"{pad}# {line}" for line in (about.description or "").splitlines()]
        lines += [f"{pad}# {line}" for line in remarks.get(f"{path}{name}", "").splitlines()]
        if isinstance(value, Section) and not isinstance(value, Component):
            lines += [f"{pad}{name}:", *_section(value, remarks, f"{path}{name}.")]
        elif isinstance(value, list) and value and all(isinstance(item, Section) for item in value):
            lines.append(f"{pad}{name}:")
            lines += [f"{pad}  - {_inline(item.model_dump(mode='json', exclude_defaults=True))}" for item in value]
        elif isinstance(value, BaseModel):
            lines.append(f"{pad}{name}: {_inline(value.model_dump(mode='json', exclude_defaults=True))}")
        else:
            lines.append(f"{pad}{name}: {_inline(value)}")
    return lines


def _inline(value: Any) -> str:
    text = write_yaml(value, default_flow_style=True, width=10**6)
    return text.removesuffix("...\n").strip()

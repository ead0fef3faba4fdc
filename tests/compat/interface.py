"""Commands with their options, settings of configurations, and parameters of flows, as a user writes them.

Of a source tree: ``PYTHONPATH=TREE python tests/compat/interface.py > tests/compat/interface-2928e86.json``.
"""

from __future__ import annotations

import inspect
import json
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import typer
from prefect import Flow
from pydantic import BaseModel

import flows
from ununennium.cli import app
from ununennium.config import RunConfig
from ununennium.config.maps import MapsConfig


def interface() -> dict[str, list[str]]:
    """Name of each command, configuration and flow -> options, settings and parameters."""
    found = dict(options_of(typer.main.get_command(app), "ununennium"))
    for config in (RunConfig, MapsConfig):
        found[config.__name__] = sorted(set(settings_of(config)))
    for module in pkgutil.iter_modules(flows.__path__):
        for each in vars(import_module(f"flows.{module.name}")).values():
            if isinstance(each, Flow):
                found[f"flow {each.name}"] = sorted(inspect.signature(each.fn).parameters)
    return found


def options_of(command: Any, name: str) -> Iterator[tuple[str, list[str]]]:
    """A command and its options, and those of the commands below it."""
    yield name, sorted({option for each in command.params for option in (*each.opts, *each.secondary_opts)})
    for below, each in getattr(command, "commands", {}).items():
        yield from options_of(each, f"{name} {below}")


def settings_of(config: type[BaseModel]) -> Iterator[str]:
    """Dotted names of the settings in the schema of a configuration."""
    schema = config.model_json_schema()

    def walk(part: dict[str, Any], path: str) -> Iterator[str]:
        if "$ref" in part:
            yield from walk(schema["$defs"][part["$ref"].rpartition("/")[2]], path)
        for choice in [*part.get("anyOf", []), *part.get("allOf", []), *part.get("oneOf", [])]:
            yield from walk(choice, path)
        for name, value in part.get("properties", {}).items():
            yield f"{path}{name}"
            yield from walk(value, f"{path}{name}.")
        if isinstance(part.get("items"), dict):
            yield from walk(part["items"], path)

    yield from walk(schema, "")


if __name__ == "__main__":
    print(json.dumps(interface(), indent=0))

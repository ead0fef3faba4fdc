"""Commands that others add, by the entry point group ``ununennium.commands``: nothing here names who they are."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from ununennium.errors import ConfigError

GROUP = "ununennium.commands"
REMEDY = (
    "flows are no part of the wheel: use a checkout of the project and its environment (make setup, or there "
    "pip install -e '.[pipeline]')"
)


def load_command(name: str) -> Callable[..., Any]:
    """Load the function that is registered as ``name``.

    Raises:
        ConfigError: none is registered, or it cannot be imported here.
    """
    for entry in entry_points(group=GROUP, name=name):
        try:
            command: Callable[..., Any] = entry.load()
        except (ImportError, AttributeError) as error:
            raise ConfigError(name, entry.value, f"cannot be loaded ({error}); {REMEDY}") from error
        return command
    raise ConfigError(name, None, f"nothing is registered in the entry point group {GROUP!r}; {REMEDY}")

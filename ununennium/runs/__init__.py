"""Runs: their files, records, listing and heartbeat."""

from typing import Any

from ununennium.moved import former_name


def __getattr__(name: str) -> Any:
    return former_name(__name__, name)

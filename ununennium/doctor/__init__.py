"""Checks of a set-up, with remedies: ``ununennium doctor``.

Each module looks at one part (``packages``, ``machine``, ``storage``, ``server``), and gives findings. Nothing is
changed, but for a small object in the storage that is removed again. Prefect is not imported: its server is asked over
HTTP, so that a broken installation can be looked at, too.
"""

from __future__ import annotations

from typing import Any

from ununennium.doctor.checks import run_checks
from ununennium.doctor.finding import Finding, Level
from ununennium.moved import former_name

__all__ = ["Finding", "Level", "run_checks"]


def __getattr__(name: str) -> Any:
    return former_name(__name__, name)

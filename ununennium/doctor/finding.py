"""Finding of one check of a set-up."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Level = Literal["ok", "note", "warning", "problem"]
"""``note``: not looked at, or not there, and not needed; ``problem``: something does not work."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        what: subject, such as ``schedules``.
        level: how it is.
        says: finding, in words.
        remedy: advice for mending it; empty if nothing has to be mended.
    """

    what: str
    level: Level
    says: str
    remedy: str = ""

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)

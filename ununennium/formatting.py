"""Numbers and durations as people read them."""

from __future__ import annotations

from typing import Any


def number(value: Any) -> str:
    """A metric with four digits; a dash where there is none."""
    return "-" if value is None or value != value else f"{float(value):.4f}"


def duration_text(seconds: float) -> str:
    """Seconds as a person says them."""
    if seconds < 90:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def scenes_text(count: int) -> str:
    """``1 scene``, ``3 scenes``."""
    return f"{count} scene{'' if count == 1 else 's'}"

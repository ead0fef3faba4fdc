"""Console output of our processes: plain lines, with warnings and errors marked as such."""

from __future__ import annotations

import logging
import re
import warnings
from pathlib import Path

_LOUD = re.compile(r"(?:WARNING|ERROR|CRITICAL): ")


def prefix_levels() -> None:
    """From here on, each warning and each logged record is printed with its level first, in as few lines as it has.

    The flow gives them the same level in its own log (``flows.logs``).
    """
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)

    def in_one_line(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        return f"WARNING: {' '.join(str(message).split())} ({category.__name__}, {Path(filename).name}:{lineno})\n"

    warnings.formatwarning = in_one_line


def is_warning(line: str) -> bool:
    """Tell whether a line is a warning or worse."""
    return _LOUD.match(line) is not None

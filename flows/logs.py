"""Lines of the processes that the flows start, in the run's logs at the level that they have."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable

_MARKED = re.compile(r"^(?:rank \d+: )?(DEBUG|INFO|WARNING|ERROR|CRITICAL)\b")
_LIKE_LOGGING = re.compile(r"^(?:rank \d+: )?\d{4}-\d\d-\d\d[ T]\S+.{0,60}?\b(WARNING|ERROR|CRITICAL)\b")
_PYTHON_WARNING = re.compile(r"^(?:rank \d+: )?\S+:\d+: \w*Warning: ")
_TORCH = re.compile(r"^(?:rank \d+: )?\[?([WEF])\d{4} \d\d:\d\d:\d\d")  # glog's style, as torch and NCCL have it
_EXCEPTION = re.compile(r"^(?:rank \d+: )?(?:Traceback \(most recent call last\):|[\w.]+(?:Error|Exception): )")
_OF_TORCH = {"W": logging.WARNING, "E": logging.ERROR, "F": logging.CRITICAL}


def level_of(line: str) -> int:
    """The level that a line says that it has; INFO if it says nothing."""
    marked = _MARKED.match(line) or _LIKE_LOGGING.match(line)
    if marked:
        return logging.getLevelNamesMapping()[marked[1]]
    if _PYTHON_WARNING.match(line):
        return logging.WARNING
    if torch := _TORCH.match(line):
        return _OF_TORCH[torch[1]]
    return logging.ERROR if _EXCEPTION.match(line) else logging.INFO


def passed_on(log: logging.Logger | logging.LoggerAdapter[logging.Logger]) -> Callable[[str], None]:
    """Function that takes a line, and logs it at its level."""

    def take(line: str) -> None:
        log.log(level_of(line), "%s", line)

    return take

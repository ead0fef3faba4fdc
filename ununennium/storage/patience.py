"""Waiting out storage that says it cannot answer now, where nothing else tries again."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from ununennium.errors import StorageUnavailable

logger = logging.getLogger(__name__)

PATIENCE_S = 30.0
"""Longest time after the first failure in which another try begins: a burst of SlowDown is over by then."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 8.0

_Result = TypeVar("_Result")


def patiently(work: Callable[[], _Result], *, patience_s: float | None = None) -> _Result:
    """Do ``work``, and again as long as it raises ``StorageUnavailable``, with growing pauses.

    What is read or written in the background is tried again by whoever does that; a run's first requests have this.

    Args:
        work: may be done again after it failed.
        patience_s: seconds after the first failure in which another try begins; ``PATIENCE_S`` if not given.

    Raises:
        StorageUnavailable: it still failed in the end; whatever else ``work`` raises is raised at once.
    """
    deadline, pause = None, _FIRST_PAUSE_S
    while True:
        try:
            return work()
        except StorageUnavailable as error:
            now = time.monotonic()
            if deadline is None:
                deadline = now + (PATIENCE_S if patience_s is None else patience_s)
            if now + pause > deadline:
                raise
            logger.warning("tried again in %g s: %s", pause, error)
        time.sleep(pause)
        pause = min(2.0 * pause, _LONGEST_PAUSE_S)

"""Do this machine's clock and a server's agree? Their answers say what time it is there."""

from __future__ import annotations

import time
from collections.abc import Iterator
from email.utils import parsedate_to_datetime

from ununennium.doctor.finding import Finding

WARN_S = 10.0
"""The Date header counts whole seconds, and the answer took its time."""
PROBLEM_S = 120.0
"""Far less than the 15 minutes at which S3 refuses, and more than heartbeats and schedules forgive."""


def look_at_clock(whose: str, date: str | None, asked: float) -> Iterator[Finding]:
    """Compare the ``Date`` of an answer with this machine's clock.

    Args:
        whose: the server, in words.
        date: the header; None if it sent none.
        asked: when it was asked, in seconds since the epoch.
    """
    try:
        there = parsedate_to_datetime(date or "").timestamp()
    except (TypeError, ValueError):
        yield Finding("clock", "note", f"{whose} does not say what time it is")
        return
    now = time.time()
    skew_s = there - min(max(there, asked), now)  # the answer was made somewhere between
    says = f"this machine's and that of {whose} are {abs(skew_s):.0f} s apart"
    remedy = "set both by NTP (timedatectl set-ntp true): schedules, heartbeats and signed requests depend on it"
    if abs(skew_s) > PROBLEM_S:
        yield Finding("clock", "problem", says, remedy)
    elif abs(skew_s) > WARN_S:
        yield Finding("clock", "warning", says, remedy)
    else:
        yield Finding("clock", "ok", f"this machine's and that of {whose} agree")

"""Suggestions for misspelt names."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return ``did you mean 'x'?`` for the known name that is closest to ``name``; empty if none is close.

    Names that differ in upper and lower case alone come first.
    """
    names = list(dict.fromkeys(known))
    close = [each for each in names if each.lower() == name.lower()]
    close = close or difflib.get_close_matches(name, names, n=1)
    if not close:
        lowered = {each.lower(): each for each in names}
        close = [lowered[each] for each in difflib.get_close_matches(name.lower(), list(lowered), n=1)]
    return f"did you mean {close[0]!r}?" if close else ""

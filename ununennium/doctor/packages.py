"""Are the installed packages those that the project was tested with, and are they compiled only once?"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from ununennium.doctor.finding import Finding

DISTRIBUTION = "ununennium-eo"
EXTRAS = ("eo", "s3", "pipeline")
"""Packages of a machine that runs the pipeline; a machine that only trains may do without."""
_BECAUSE = {
    "fastapi": "with this one, Prefect's server dies at start",
    "sqlalchemy": "with this one, Prefect's scheduler makes no runs, and says so in the server's log alone",
    "s3fs": "with this one, two writers could overwrite each other",
}


def look_at_packages() -> Iterator[Finding]:
    """A finding for each requirement that is not met, or one that says that all are."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        yield Finding("packages", "note", "not compared: the package 'packaging' is missing", "pip install packaging")
        return
    python = ".".join(str(part) for part in sys.version_info[:3])
    try:
        requirements = importlib.metadata.requires(DISTRIBUTION) or []
        version = importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        yield Finding("packages", "note", f"{DISTRIBUTION} is not installed, only imported", "pip install -e '.[dev]'")
        return
    num_met, problems, absent = 0, [], []
    for text in requirements:
        wanted = Requirement(text)
        marker = wanted.marker
        extra = next((each for each in ("", *EXTRAS) if marker is None or marker.evaluate({"extra": each})), None)
        if extra is None or wanted.name == DISTRIBUTION:
            continue
        try:
            found = importlib.metadata.version(wanted.name)
        except importlib.metadata.PackageNotFoundError:
            absent.append((wanted.name, extra))
            continue
        if wanted.specifier.contains(found, prereleases=True):
            num_met += 1
            continue
        because = _BECAUSE.get(re.sub(r"[-_.]+", "-", wanted.name).lower(), "it was not tested with this one")
        says = f"{found} is installed, and {wanted.specifier} is needed: {because}"
        problems.append(Finding(wanted.name, "problem", says, f"pip install '{wanted.name}{wanted.specifier}'"))
    yield from problems
    yield from _absent(absent)
    if not problems:
        about = f"ununennium {version}, Python {python}: {num_met} packages are as they should be"
        yield Finding("packages", "ok", about)


def _absent(absent: list[tuple[str, str]]) -> Iterator[Finding]:
    for name, extra in absent:
        if not extra:
            yield Finding(name, "problem", "is not installed", f"pip install {name}")
    extras = {extra: [name for name, of in absent if of == extra] for _, extra in absent if extra}
    for extra, names in extras.items():
        says = f"not installed: {', '.join(names)}"
        yield Finding(
            f"extra {extra}", "note", says, f"pip install '{DISTRIBUTION}[{extra}]', if this machine needs it"
        )


def look_at_bytecode() -> Iterator[Finding]:
    """Does Python keep what it compiles? Each process of a run imports torch, which else takes seconds every time."""
    found = importlib.util.find_spec("torch")
    if found is None or found.origin is None:
        return
    cached = Path(importlib.util.cache_from_source(found.origin))
    there = next(folder for folder in cached.parents if folder.exists())
    if cached.exists() or (os.access(there, os.W_OK) and not sys.dont_write_bytecode):
        yield Finding("bytecode", "ok", "Python keeps what it compiles")
        return
    why = "PYTHONDONTWRITEBYTECODE is set" if sys.dont_write_bytecode else f"{there} cannot be written"
    says = f"{why}, and torch is not compiled: every process of a run compiles it anew, for seconds"
    yield Finding(
        "bytecode", "warning", says, f"{sys.executable} -m compileall -q {Path(found.origin or '').parents[1]}"
    )

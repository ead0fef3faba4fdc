"""Provenance of a run: the commit and the versions of packages that decide its result."""

from __future__ import annotations

import importlib.metadata
import platform
import subprocess


def git_commit() -> str | None:
    """The commit checked out in the working directory, with ``+`` if files were changed; None outside a repository."""
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        ).stdout.strip()
        changed = subprocess.run(
            ["git", "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
    return f"{commit}+" if changed else commit


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide a result."""
    found = {"python": platform.python_version()}
    for package in ("ununennium-eo", "torch", "numpy", "rasterio", "segmentation-models-pytorch", "prefect"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found

"""Fixtures of this part, shared with those that it stands on."""

from __future__ import annotations

from tests.cli.conftest import cli, scenes, write_raster  # noqa: F401

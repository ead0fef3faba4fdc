"""Fixtures of this part, shared with those that it stands on."""

from __future__ import annotations

from tests.launch.conftest import prepared  # noqa: F401

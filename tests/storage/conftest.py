"""Fixtures of this part, shared with those that it stands on."""

from __future__ import annotations

from tests.checkpoints.conftest import folder, no_copies  # noqa: F401

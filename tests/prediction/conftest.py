"""Fixtures of this part, shared with those that it stands on."""

from __future__ import annotations

from tests.inference.conftest import make_scene, scene  # noqa: F401

"""Fixtures of this part, shared with those that it stands on."""

from __future__ import annotations

from tests.evaluation.conftest import judged, predicted, run, two_scenes  # noqa: F401

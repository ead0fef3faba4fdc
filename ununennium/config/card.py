"""Text of the model card that no file of a run can give."""

from __future__ import annotations

from ununennium.config.section import Section


class CardConfig(Section):
    """For the model card beside a promoted model, and its STAC metadata."""

    description: str | None = None
    """Purpose of the model, in a sentence or two."""
    intended_use: str | None = None
    """Intended use: places and purposes, and those that are not."""
    limits: str | None = None
    """Known limitations and failures."""
    data_licence: str | None = None
    """Licence and attribution of the imagery and labels: ``CC-BY-SA-4.0, SpaceNet``."""
    licence: str | None = None
    """Licence of the model itself, best as SPDX has it (``MIT``); STAC says ``other`` if not given."""
    contact: str | None = None
    """Contact for questions."""

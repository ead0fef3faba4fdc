"""Text of the model card that no file of a run can give."""

from __future__ import annotations

from ununennium.config.section import Section


class CardConfig(Section):
    """For the model card beside a promoted model, and its STAC metadata."""

    description: str | None = None
    """What the model is for, in a sentence or two."""
    intended_use: str | None = None
    """Where and for what it should be used, and where not."""
    limits: str | None = None
    """What is known to go wrong."""
    data_licence: str | None = None
    """Licence and attribution of the imagery and labels: ``CC-BY-SA-4.0, SpaceNet``."""
    licence: str | None = None
    """Licence of the model itself, best as SPDX has it (``MIT``); STAC says ``other`` if not given."""
    contact: str | None = None
    """Whom to ask."""

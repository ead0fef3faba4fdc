"""What every section of a configuration is made of."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class Component(Section):
    """A model, loss, optimizer, scheduler or transform: an import path with keyword arguments."""

    target: str
    """Import path, such as ``ununennium.models:UNet`` or ``torch.optim:AdamW``."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments for it. Band and class counts are filled in where the callable takes them."""

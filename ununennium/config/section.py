"""What every section of a configuration is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from ununennium.redaction import holds_credentials

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1)]
Location = Annotated[str, Field(json_schema_extra={"not": {"pattern": r"://[^/\s]*:[^/\s]*@"}})]
"""A path or URL. One with a user and password in it is refused by a Prefect server, before it keeps the parameters."""


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # of pydantic's own text, which Prefect keeps; ours names the value, redacted
    )

    @field_validator("*", mode="after")
    @classmethod
    def _without_credentials(cls, value: Any) -> Any:
        """A configuration is kept beside every checkpoint, and shown to all who may look at a run."""
        if _any_text(value, holds_credentials):
            raise ValueError(
                "leave user and password out of the URL, and put them into the worker's environment: AWS_* for S3, "
                "GDAL_HTTP_USERPWD=user:password for web servers"
            )
        return value


class Component(Section):
    """A model, loss, optimizer, scheduler or transform: an import path with keyword arguments."""

    target: str
    """Import path, such as ``ununennium.models:UNet`` or ``torch.optim:AdamW``."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments for it. Band and class counts are filled in where the callable takes them."""


def _any_text(value: Any, is_so: Callable[[str], bool]) -> bool:
    """Whether it is so of any text in a value as JSON has it."""
    if isinstance(value, str):
        return is_so(value)
    if isinstance(value, Mapping):
        return any(_any_text(each, is_so) for each in value.values())
    return isinstance(value, list | tuple) and any(_any_text(each, is_so) for each in value)

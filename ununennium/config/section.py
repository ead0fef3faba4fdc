"""Base class and types of the sections of a configuration."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from ununennium.redaction import CREDENTIALS_PATTERN, holds_credentials

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(ge=1, lt=2**31)]
Location = Annotated[str, Field(json_schema_extra={"not": {"pattern": CREDENTIALS_PATTERN}})]
"""A path or URL. One with a password or signature is refused by a Prefect server, before it keeps the parameters."""

_LARGEST = 2**53
"""Whole numbers beyond it lose digits in JSON; no setting needs one."""
_LEADING_ZERO = re.compile(r"^[-+]?0[0-9_]+$")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_NO_PLACE = re.compile(r"^(s3a?|gc?s|az|abfss?|https?)://*$", re.IGNORECASE)


class Section(BaseModel):
    """Base of every section: unknown keys are refused, values are immutable."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,  # of pydantic's own text, which Prefect keeps; ours names the value, redacted
    )

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a boolean, or text that looks octal, where a number is asked: pydantic would convert it."""
        types = _types_of(cls, info.field_name or "")
        if types & {int, float} and not types & {bool, Any}:
            for each in _leaves(value):
                if isinstance(each, bool):
                    raise ValueError(f"give a number; {str(each).lower()} (yes, no, on, off) is none")
                if isinstance(each, str) and str not in types and _LEADING_ZERO.match(each):
                    raise ValueError("give a number without zeros in front")
        return value

    @field_validator("*", mode="after")
    @classmethod
    def _can_be_kept(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse what run.json, kept beside every checkpoint and shown to all who look at a run, must not hold."""
        if is_stored(info):
            return value
        for each in _leaves(value):
            if isinstance(each, str) and holds_credentials(each):
                raise ValueError(
                    "leave passwords, tokens and signatures out of the URL, and put them into the worker's "
                    "environment: AWS_* for S3, AZURE_STORAGE_* for Azure, GDAL_HTTP_USERPWD=user:password or "
                    "GDAL_HTTP_HEADERS for web servers"
                )
            if isinstance(each, str) and _NO_TEXT.search(each):
                raise ValueError("leave out NUL and lone surrogates: no file can hold them")
            if isinstance(each, str) and _NO_PLACE.match(each):
                raise ValueError("the URL names no bucket or host; write s3://bucket/prefix")
            if isinstance(each, float) and not math.isfinite(each):
                raise ValueError("give a finite number, not NaN or infinity: a run's files cannot hold it")
            if isinstance(each, int) and abs(each) > _LARGEST:
                raise ValueError(f"give a number of at most {_LARGEST:,}")
        return value


class Component(Section):
    """A model, loss, optimizer, scheduler or transform: an import path with keyword arguments."""

    target: str
    """Import path, such as ``ununennium.models:UNet`` or ``torch.optim:AdamW``."""
    kwargs: dict[str, Any] = {}
    """Keyword arguments for it. Band and class counts are filled in where the callable takes them."""


def is_stored(info: ValidationInfo) -> bool:
    """Tell whether a run of an earlier version is read, which could have settings that are refused today."""
    return bool(info.context and info.context.get("stored"))


def _leaves(value: Any) -> Iterator[Any]:
    """Names, and all else that is neither mapping nor list in a value as JSON has it; sections check their own."""
    if isinstance(value, Mapping):
        yield from value
        for each in value.values():
            yield from _leaves(each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _leaves(each)
    elif not isinstance(value, BaseModel):
        yield value


@cache
def _types_of(section: type[BaseModel], name: str) -> frozenset[Any]:
    """The types that a field's annotation is made of."""
    field = section.model_fields.get(name)
    return frozenset() if field is None else frozenset(_types(field.annotation))


def _types(annotation: Any) -> Iterator[Any]:
    """The types that an annotation is made of."""
    yield annotation
    for part in get_args(annotation):
        if isinstance(part, type) or get_args(part) or part is Any:
            yield from _types(part)

"""Base of the configurations that are files of their own: validation with the project's errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from pydantic import ValidationError

from ununennium.config.parsing import as_config_error, check_depth
from ununennium.config.section import Section
from ununennium.errors import ConfigError


class Document(Section):
    """A section that is a whole file."""

    described: ClassVar[str] = "a mapping of settings"
    """Words for what the file has to be."""

    @classmethod
    def parse(cls, settings: Mapping[str, Any], *, source: str = "configuration", stored: bool = False) -> Self:
        """Validate ``settings``.

        Args:
            settings: sections with their settings.
            source: name of the file in an error about the whole of it.
            stored: whether they were accepted before, maybe by an earlier version: secrets and dates are not checked
                again, so that the file can still be read.

        Raises:
            ConfigError: the first setting that cannot work, with its dotted path, its value and what is right.
        """
        if not isinstance(settings, Mapping):
            raise ConfigError(source, settings, f"is not {cls.described}")
        check_depth(settings, field=source)
        try:
            return cls.model_validate(settings, context={"stored": stored})
        except ValidationError as error:
            raise as_config_error(cls, error, settings) from None

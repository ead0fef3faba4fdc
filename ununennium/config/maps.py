"""Which scenes are to be mapped with which model: the parameter of the flow ``predict``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError, model_validator

from ununennium.config.parsing import apply_overrides, as_config_error
from ununennium.config.section import Location, Section
from ununennium.errors import ConfigError


class MapSceneConfig(Section):
    """One scene to map."""

    image: Location | list[Location]
    """Path or URL of the image; of a stack, one for each date."""
    name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)
    """Name of its map's folder; the image's without its ending if not given."""


class MapsConfig(Section):
    """Scenes, a model, and where the maps go."""

    model: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64)
    """Name of the model in the registry; its champion makes the maps."""
    scenes: list[MapSceneConfig] = []
    """The scenes to map."""
    images: list[Location] = []
    """Patterns of paths or URLs, each match a scene of its own: ``scenes/**/*.tif``, ``s3://bucket/new/*.tif``."""
    output: Location = "maps"
    """Folder or fsspec URL that gets a folder of each scene; what is there and made alike is not made again."""
    storage: Location = "storage"
    """Where the registry is: a folder or any fsspec URL."""
    tta: bool | None = None
    """Average over flips and turns, or not; null: as the model was judged."""
    device: str = "cuda"
    """Computation device; where CUDA is missing the CPU is used with a warning."""
    timeout_s: float | None = Field(default=None, gt=0.0)
    """End after so many seconds; what was made by then stays. null for no limit."""

    @model_validator(mode="after")
    def _has_scenes(self) -> MapsConfig:
        if not self.scenes and not self.images:
            raise ValueError("give scenes, or patterns of images")
        return self

    @classmethod
    def parse(cls, settings: Mapping[str, Any]) -> MapsConfig:
        """Validate ``settings``.

        Raises:
            ConfigError: the first setting that cannot work, with its dotted path, its value and what is right.
        """
        try:
            return cls.model_validate(settings)
        except ValidationError as error:
            raise as_config_error(cls, error, settings) from None

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> MapsConfig:
        """Read a YAML file, with ``overrides`` such as ``output=here`` applied on top. Relative paths stay relative.

        Raises:
            ConfigError: the file cannot be read, is not YAML, or a setting cannot work.
        """
        try:
            settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError("config", str(path), f"cannot be read: {error.strerror or error}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError("config", str(path), f"is not valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(settings, dict):
            raise ConfigError("config", str(path), "is not a mapping of settings: model, scenes or images, output")
        return cls.parse(apply_overrides(settings, overrides))

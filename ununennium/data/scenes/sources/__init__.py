"""From a catalogue (a folder, a table, STAC) to scenes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from ununennium.config import CatalogConfig, DataConfig, SceneConfig
from ununennium.data.scenes.sources.folder import scenes_in_folder
from ununennium.data.scenes.sources.stac import scenes_in_stac
from ununennium.data.scenes.sources.table import scenes_in_table
from ununennium.errors import DataError

__all__ = ["scenes_of", "scenes_without_labels"]


def scenes_of(config: DataConfig) -> list[SceneConfig]:
    """The scenes of ``data.catalog``, then those of ``data.scenes``.

    Raises:
        DataError: the catalogue cannot be read, or has no scene, or one without a label.
        ConfigError: a setting does not fit it, or a package is missing.
    """
    found = _from_catalog(config.catalog) if config.catalog is not None else []
    return [*found, *config.scenes]


def scenes_without_labels(catalog: CatalogConfig, *, recent_days: float | None = None) -> list[SceneConfig]:
    """The scenes of a catalogue that are to be mapped: labels are neither asked for nor looked at.

    Args:
        catalog: the section; it may be empty just now.
        recent_days: STAC: only what was taken in the last so many days.

    Raises:
        DataError: the catalogue cannot be read.
        ConfigError: a setting does not fit it, or a package is missing.
    """
    if recent_days is not None:
        since = datetime.now(UTC) - timedelta(days=recent_days)
        catalog = catalog.model_copy(update={"datetime": f"{since:%Y-%m-%dT%H:%M:%SZ}/.."})
    found = _from_catalog(catalog.model_copy(update={"labels": None, "label_asset": None}), labelled=False)
    return [scene.model_copy(update={"label": None}) for scene in found]


def _from_catalog(catalog: CatalogConfig, *, labelled: bool = True) -> list[SceneConfig]:
    if catalog.folder is not None:
        where, scenes = catalog.folder, scenes_in_folder(catalog)
    elif catalog.table is not None:
        where, scenes = catalog.table, scenes_in_table(catalog, labelled=labelled)
    else:
        assert catalog.stac is not None
        where, scenes = catalog.stac, scenes_in_stac(catalog, labelled=labelled)
    if not scenes and labelled:
        raise DataError(f"data.catalog: {where} has no scene; check the path, and what narrows it down")
    return scenes

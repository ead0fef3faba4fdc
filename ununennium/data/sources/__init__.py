"""From a catalogue (a folder, a table, STAC) to scenes."""

from __future__ import annotations

from ununennium.config import CatalogConfig, DataConfig, SceneConfig
from ununennium.errors import DataError

__all__ = ["scenes_of"]


def scenes_of(config: DataConfig) -> list[SceneConfig]:
    """The scenes of ``data.catalog``, then those of ``data.scenes``.

    Raises:
        DataError: the catalogue cannot be read, or has no scene, or one without a label.
        ConfigError: a setting does not fit it, or a package is missing.
    """
    found = _from_catalog(config.catalog) if config.catalog is not None else []
    return [*found, *config.scenes]


def _from_catalog(catalog: CatalogConfig) -> list[SceneConfig]:
    # Each kind brings packages of its own, so it is imported when it is used.
    if catalog.folder is not None:
        from ununennium.data.sources.folder import scenes_in_folder

        where, scenes = catalog.folder, scenes_in_folder(catalog)
    elif catalog.table is not None:
        from ununennium.data.sources.table import scenes_in_table

        where, scenes = catalog.table, scenes_in_table(catalog)
    else:
        from ununennium.data.sources.stac import scenes_in_stac

        assert catalog.stac is not None
        where, scenes = catalog.stac, scenes_in_stac(catalog)
    if not scenes:
        raise DataError(f"data.catalog: {where} has no scene; check the path, and what narrows it down")
    return scenes

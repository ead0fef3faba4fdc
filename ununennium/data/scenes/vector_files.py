"""Vector files, local or remote, through pyogrio.

It is imported when the first is read: where geopandas is installed it brings that and pandas along, for a third of a
second in each process of a run.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

from ununennium.data.scenes.remote import gdal_options, gdal_path, is_remote, with_retries
from ununennium.data.scenes.vector_checks import check_vector_file

T = TypeVar("T")


def layers_of(path: str | os.PathLike[str]) -> list[str]:
    """Names of a file's layers that have geometry; tables without are left out.

    Raises:
        OSError: it cannot be read.
        DataError: it is refused, see ``ununennium.data.scenes.vector_checks``.
    """
    layers = _read(path, lambda pyogrio, opened: pyogrio.list_layers(opened))
    return [str(name) for name, geometry_type in layers if geometry_type is not None]


def read_info(path: str | os.PathLike[str], **options: Any) -> dict[str, Any]:
    """Facts of a file's first layer from ``pyogrio.read_info``: ``crs``, ``fields``, ``geometry_type`` and more.

    Raises:
        OSError: it cannot be read.
        DataError: it is refused, see ``ununennium.data.scenes.vector_checks``.
    """
    info: dict[str, Any] = _read(path, lambda pyogrio, opened: pyogrio.read_info(opened, **options))
    return info


def read_table(path: str | os.PathLike[str], **options: Any) -> tuple[dict[str, Any], Any, list[Any]]:
    """A file's first layer: ``crs`` and ``fields``, its shapes as WKB (None without geometry), a column per field.

    Args:
        path: path or URL.
        options: of ``pyogrio.raw.read``, such as ``columns`` and ``read_geometry``.

    Raises:
        OSError: it cannot be read.
        DataError: it is refused, see ``ununennium.data.scenes.vector_checks``.
    """
    meta, _, geometry, fields = _read(path, lambda pyogrio, opened: pyogrio.raw.read(opened, **options))
    return meta, geometry, fields


def _read(path: str | os.PathLike[str], act: Callable[[Any, str], T]) -> T:
    """Result of ``act(pyogrio, path)``, with new tries on remote faults."""
    import pyogrio

    text = os.fspath(path)
    check_vector_file(text)
    if is_remote(text):
        pyogrio.set_gdal_config_options(gdal_options())  # pyogrio has a GDAL of its own, without contexts

    def attempt() -> T:
        try:
            return act(pyogrio, gdal_path(text))
        except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
            raise OSError(str(error)) from error

    return with_retries(text, attempt)

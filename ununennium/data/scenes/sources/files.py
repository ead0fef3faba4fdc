"""Files of a catalogue, local or remote, through fsspec; and what a catalogue's scenes have in common."""

from __future__ import annotations

import posixpath
import warnings
from collections.abc import Sequence
from typing import Any

from ununennium.config import CatalogConfig
from ununennium.errors import ConfigError, DataError

_MOST_NAMED = 5


def filesystem(location: str, field: str) -> tuple[Any, str]:
    """The filesystem of a path or URL, without a memory of listings, and the path in it.

    Raises:
        ConfigError: the URL is of a kind that fsspec does not know, or its package is not installed.
    """
    from fsspec.core import url_to_fs

    options = {} if "://" not in location else {"use_listings_cache": False, "skip_instance_cache": True}
    try:
        files, path = url_to_fs(location, **options)
    except ImportError as error:
        raise ConfigError(field, location, f"needs a package that is not installed: {error}") from error
    except ValueError as error:
        raise ConfigError(field, location, str(error)) from error
    return files, str(path)


def read_bytes(location: str, field: str) -> bytes:
    """The content of a file or URL.

    Raises:
        DataError: it cannot be read.
        ConfigError: as of ``filesystem``.
    """
    files, path = filesystem(location, field)
    try:
        content = files.cat_file(path)
    except Exception as error:  # each filesystem has exceptions of its own, and some derive from nothing better
        raise DataError(f"{field}: {location} cannot be read ({type(error).__name__}: {error}); check it") from error
    return content if isinstance(content, bytes) else bytes(content)


def joined(folder: str, path: str) -> str:
    """``path`` as seen from ``folder``, both local or URLs; an absolute path or URL stays."""
    if "://" in path or path.startswith(("/", "<")):
        return path
    scheme, separator, rest = folder.partition("://")
    if not separator:
        return posixpath.normpath(posixpath.join(folder, path))
    return f"{scheme}://{posixpath.normpath(posixpath.join(rest, path))}"


def label_settings(catalog: CatalogConfig) -> dict[str, Any]:
    """Label settings of the catalogue, for every scene."""
    names = (
        "label_field", "label_value", "label_layer", "label_buffer_m", "label_unknown", "labelled_area", "outside",
    )  # fmt: skip
    return {name: getattr(catalog, name) for name in names}


def without_labels(names: Sequence[str], catalog: CatalogConfig, expected: str) -> None:
    """Refuse images that have no label, or say how many are left out.

    Args:
        names: of the images without one.
        catalog: the section.
        expected: expected labels, as the end of the message.

    Raises:
        DataError: there are some, and they may not be left out.
    """
    if not names:
        return
    some = ", ".join(names[:_MOST_NAMED]) + (
        f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    )
    if catalog.unlabelled == "refuse":
        raise DataError(
            f"data.catalog: {len(names)} images have no label: {some}; {expected}, or leave them out with "
            "data.catalog.unlabelled: skip"
        )
    warnings.warn(f"data.catalog: {len(names)} images without a label are left out: {some}", stacklevel=4)

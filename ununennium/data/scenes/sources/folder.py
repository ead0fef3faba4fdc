"""Scenes from a folder: images and labels paired by their names."""

from __future__ import annotations

import glob
import posixpath
import re
from typing import Any

from ununennium.config import CatalogConfig, SceneConfig
from ununennium.data.scenes.sources.files import filesystem, joined, label_settings, without_labels
from ununennium.errors import ConfigError, DataError


def scenes_in_folder(catalog: CatalogConfig) -> list[SceneConfig]:
    """The images that match ``catalog.images``, in the order of their paths, with their labels.

    A file that is the label of another is no image, even if it matches.

    Raises:
        DataError: the folder cannot be listed, no file matches, or an image has no label.
        ConfigError: the label pattern names a part that the image pattern does not have.
    """
    assert catalog.folder is not None
    folder = catalog.folder.rstrip("/")
    files, root = filesystem(folder, "data.catalog.folder")
    root = root.rstrip("/")
    # "**" is no folder too, so that "**/*.tif" also finds what lies in the folder itself.
    patterns = {catalog.images, catalog.images.removeprefix("**/")}
    try:
        found = sorted({path for pattern in patterns for path in files.glob(f"{glob.escape(root)}/{pattern}")})
    except Exception as error:
        raise DataError(
            f"data.catalog.folder: {folder} cannot be listed ({type(error).__name__}: {error}); check the path and "
            "the credentials, or list the scenes in a table"
        ) from error
    paths = [posixpath.relpath(path, root) for path in found if not files.isdir(path)]
    if not paths:
        raise DataError(f"data.catalog: no file in {folder} matches images = {catalog.images!r}; check both")
    label_of = {path: _label_path(path, catalog) for path in paths}
    images = [path for path in paths if path not in set(label_of.values())]
    if catalog.labels is not None:
        labelled = [path for path in images if _exists(files, root, label_of[path])]
        missing = [path for path in images if path not in set(labelled)]
        without_labels(missing, catalog, f"expected {label_of[missing[0]] if missing else ''}")
        images = labelled
    names = _names(images)
    return [
        SceneConfig(
            image=joined(folder, path),
            label=None if label_of[path] is None else joined(folder, label_of[path] or ""),
            name=names[path],
            classes=[posixpath.basename(posixpath.dirname(path))] if catalog.class_from == "folder" else [],
            **label_settings(catalog),
        )
        for path in images
    ]


def _exists(files: Any, root: str, path: str | None) -> bool:
    return path is not None and bool(files.exists(posixpath.normpath(f"{root}/{path}")))


def _label_path(path: str, catalog: CatalogConfig) -> str | None:
    """Path of an image's label in the folder; None without a pattern."""
    if catalog.labels is None:
        return None
    folder, name = posixpath.split(path)
    pattern = posixpath.basename(catalog.images)
    expression = "".join("(.*)" if part == "*" else "." if part == "?" else re.escape(part) for part in _parts(pattern))
    matched = re.fullmatch(expression, name)
    parts = matched.groups() if matched else ()
    values = {"stem": posixpath.splitext(name)[0]} | {str(position): part for position, part in enumerate(parts, 1)}

    def fill(placeholder: re.Match[str]) -> str:
        if placeholder[1] not in values:
            raise ConfigError(
                "data.catalog.labels",
                catalog.labels,
                f"there is no {placeholder[0]}; with images = {catalog.images!r} there are "
                + ", ".join(f"{{{name}}}" for name in values),
            )
        return values[placeholder[1]]

    return posixpath.normpath(posixpath.join(folder, re.sub(r"\{([^{}]*)\}", fill, catalog.labels)))


def _parts(pattern: str) -> list[str]:
    return re.split(r"([*?])", pattern)


def _names(paths: list[str]) -> dict[str, str]:
    """A name for each image: its file's without the ending, or its path's where two files share one."""
    stems = {path: posixpath.splitext(posixpath.basename(path))[0] for path in paths}
    shared = {stem for stem in stems.values() if list(stems.values()).count(stem) > 1}
    return {path: posixpath.splitext(path)[0] if stem in shared else stem for path, stem in stems.items()}

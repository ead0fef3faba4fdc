"""Images as configurations name them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def files_of(images: Iterable[Any]) -> list[str]:
    """The files that images are read from: paths, URLs, or mappings of bands to them."""
    files: list[str] = []
    for image in images:
        of_bands = image.values() if isinstance(image, Mapping) else [image]
        files += [file if isinstance(file, str) else str(file[0]) for file in of_bands]
    return files

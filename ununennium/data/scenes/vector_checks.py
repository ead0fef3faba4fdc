"""Checks of vector files that others deliver, before GDAL opens them."""

from __future__ import annotations

from pathlib import Path

import fsspec

from ununennium.data.scenes.delivered import check_content, check_file
from ununennium.data.scenes.locations import local_file, remote_url
from ununennium.errors import DataError

_PART_BYTES = 4096
_XML = (".kml", ".gml")
_NO_XML = (".geojson", ".json", ".gpkg", ".shp", ".fgb", ".parquet")
VECTOR_ENDINGS = (*_NO_XML, *_XML)
"""Endings of the files that labels as shapes may be in, lower case."""
TABLE_OF_SHAPES = ".dbf"
"""Ending of the attributes beside a Shapefile."""


def check_vector_file(path: str) -> None:
    """Refuse a file that GDAL would not read as its name says.

    Raises:
        DataError: it is no file, empty, or leads to other files or servers.
    """
    file = local_file(path)
    if file is not None and file.exists() and str(file) == path.removeprefix("file://"):
        check_file(str(file), "vector file")
    if file is not None and not file.is_file():
        return
    start = _start_of(file) if file is not None else _start_of_remote(path)
    check_content(start, path, "vector file")
    name = path.lower().partition("?")[0]
    if name.endswith((*_NO_XML, TABLE_OF_SHAPES)) and start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):
        raise DataError(
            f"vector file: {path} is XML, not what its name says; give the file itself, or name it .gml or .kml"
        )


def _start_of(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(_PART_BYTES)
    except OSError:  # whoever reads it says so
        return b""


def _start_of_remote(path: str) -> bytes:
    """The first bytes of a remote file; nothing where GDAL alone has access."""
    url = remote_url(path)
    try:
        filesystem, inside = fsspec.core.url_to_fs(url)
        content = filesystem.cat_file(inside, start=0, end=_PART_BYTES)
    except Exception:
        return b""
    return content if isinstance(content, bytes) else b""

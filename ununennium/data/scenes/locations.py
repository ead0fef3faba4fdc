"""Local files and URLs behind the names that GDAL, rasterio and fsspec give to files.

GDAL reads members of archives (``/vsizip/a.zip/b.tif``, ``zip://a.zip!b.tif``), parts of files
(``GTIFF_DIR:2:a.tif``, ``NETCDF:"a.nc":ndvi``) and remote files (``/vsis3/bucket/a.tif``). The file that changes is the
one that holds them.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import parse_qs

from ununennium.data.scenes.remote import is_remote

_CONTAINER = re.compile(r"^/vsi(zip|tar|gzip|7z|rar|cached|sparse)/")
_SUBFILE = re.compile(r"^/vsisubfile/[^,]*,")
_SCHEME = re.compile(r"^((?P<archive>zip|tar|gzip)\+?)?(?P<rest>([a-z0-9]+)?://.*)$")
_ENDS_ARCHIVE = re.compile(r"^(.*?\.(zip|kmz|ods|xlsx|tar|tgz|tar\.gz|gz|7z|rar))(/|$)", re.IGNORECASE)
_URLS = {"s3": "s3", "gs": "gs", "az": "az", "adls": "abfs"}
_STREAMED = re.compile(r"^/vsi(s3|gs|az|adls)(_streaming)?/")


def local_file(name: str) -> Path | None:
    """The local file or folder that a name leads to; None where there is none.

    Args:
        name: a path, a ``file://`` URL, a member of an archive, or a part of a file as GDAL names it.
    """
    path = _without_prefixes(name)
    if name.startswith("<") or is_remote(path):
        return None
    try:
        if Path(path).exists():
            return Path(path)
    except (OSError, ValueError):  # far too long for a name, or with a zero byte
        return None
    if path != name or "!" in path:
        return _first_file(path.split("!")[0])
    return _named_in(path)


def remote_url(name: str) -> str | None:
    """The URL, as fsspec reads it, of the remote file that a name leads to; None where it is not remote."""
    path = _without_prefixes(name).split("!")[0]
    if name.startswith("<") or not is_remote(path):
        return None
    if path.startswith("/vsicurl"):
        options = path.partition("?")[2] if path.startswith("/vsicurl?") else ""
        path = parse_qs(options)["url"][0] if "url=" in options else path.partition("/vsicurl/")[2]
    elif streamed := _STREAMED.match(path):
        path = f"{_URLS[streamed[1]]}://{path[streamed.end() :]}"
    archive = _ENDS_ARCHIVE.match(path) if _CONTAINER.match(name) else None
    return archive[1] if archive else path


def _without_prefixes(name: str) -> str:
    """A name without the prefixes of archives, parts of files and local URLs, and without their options."""
    path = name
    while True:
        scheme = _SCHEME.match(path)
        if scheme and (scheme["archive"] or scheme["rest"].startswith("file://")):
            path = scheme["rest"].removeprefix("file://").removeprefix("://")
        elif path.startswith("vrt://"):
            path = path.removeprefix("vrt://").partition("?")[0]
        elif container := _CONTAINER.match(path) or _SUBFILE.match(path):
            path = path[container.end() :]
            if path.startswith("{"):
                path = path[1:].partition("}")[0]
        else:
            return path


def _first_file(path: str) -> Path | None:
    """The file among the folders of a path: the archive of a member."""
    parts = Path(path).parts
    for count in range(1, len(parts) + 1):
        part = Path(*parts[:count])
        if part.is_file():
            return part
    return None


def _named_in(name: str) -> Path | None:
    """The file in a name such as ``NETCDF:"a.nc":ndvi``."""
    if ":" not in name:
        return None
    quoted = re.search(r'"([^"]+)"', name)
    pieces = [quoted[1]] if quoted else name.split(":")[1:]
    for position in range(len(pieces)):
        for stop in range(len(pieces), position, -1):
            if (text := ":".join(pieces[position:stop])) and Path(text).is_file():
                return Path(text)
    return None

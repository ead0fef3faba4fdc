"""Addresses in catalogues that others serve: they may lead to remote files only."""

from __future__ import annotations

import os
import posixpath
from urllib.parse import urlsplit

from ununennium.errors import DataError

LOCAL_HREFS_VARIABLE = "UNUNENNIUM_LOCAL_HREFS"
_REMOTE_SCHEMES = ("http", "https", "s3", "gs", "az", "abfs", "abfss")


def is_served(catalog: str) -> bool:
    """Tell whether a catalogue comes from a server, so that whoever serves it chooses what it names."""
    return urlsplit(catalog).scheme in _REMOTE_SCHEMES


def check_href(href: str, catalog: str, field: str, *, written: str | None = None) -> None:
    """Refuse what a served catalogue names, unless it is a remote file in a plain format.

    Args:
        href: absolute address, or a path.
        catalog: address of the catalogue; a local one may name anything.
        field: the setting that names it.
        written: the address as the catalogue has it, which may be relative to it.

    Raises:
        DataError: it is a local path, a path of GDAL's virtual file systems, a virtual raster, or leads out of the
            catalogue's folder by ``..``.
    """
    if not is_served(catalog) or os.environ.get(LOCAL_HREFS_VARIABLE, "").lower() in ("1", "true", "yes"):
        return
    address = urlsplit(href)
    problem = None
    if address.scheme not in _REMOTE_SCHEMES or not address.netloc or "/vsi" in href[: len("/vsi")]:
        problem = "is no remote file"
    elif address.path.lower().endswith((".vrt", ".gti", ".mrf", ".wms")):
        problem = "is a virtual raster, which may lead anywhere"
    elif written is not None and not urlsplit(written).scheme and not _is_within(href, catalog):
        problem = "leads out of the catalogue's folder"
    if problem is not None:
        raise DataError(
            f"{field}: {catalog} names {written or href}, which {problem}; a catalogue on a server may name http(s), "
            f"s3, gs and az addresses only. Leave it out, or set {LOCAL_HREFS_VARIABLE}=1 if you trust the catalogue "
            "(docs/security.md)"
        )


def _is_within(href: str, catalog: str) -> bool:
    """Tell whether an address lies in the folder of the catalogue, on its server."""
    ours, theirs = urlsplit(catalog), urlsplit(href)
    path = (
        ours.path
        if ours.path.endswith("/") or "." not in posixpath.basename(ours.path)
        else posixpath.dirname(ours.path)
    )
    folder = posixpath.normpath(path or "/").rstrip("/") + "/"
    inside = posixpath.normpath(theirs.path)
    return (ours.scheme, ours.netloc) == (theirs.scheme, theirs.netloc) and inside.startswith(folder)

"""Bounds on files that others deliver: their kind, their size, their GDAL driver, and what they may lead to.

A file is opened by the drivers of common raster formats, whatever its content is. A format that leads to other files or
to servers (VRT, WMS, tile indexes, products of several files) is opened where its name announces it, such as
``mosaic.vrt``: whoever names it so knows. ``UNUNENNIUM_GDAL_DRIVERS`` allows further drivers for every file, ``any``
all of them.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

from ununennium.data.scenes.locations import local_file, remote_url
from ununennium.data.scenes.virtual_sources import sources_of, virtual_text
from ununennium.errors import DataError

MAX_PIXELS = 10**10
"""Rows times columns of a raster, unless ``data.max_pixels`` says otherwise."""

DRIVERS_VARIABLE = "UNUNENNIUM_GDAL_DRIVERS"

PLAIN_DRIVERS = (
    "GTiff", "COG", "JP2OpenJPEG", "JP2KAK", "JP2ECW", "JP2MrSID", "ECW", "MrSID", "JPEG", "PNG", "WEBP", "BMP", "GIF",
    "JPEGXL", "HFA", "ENVI", "EHdr", "netCDF", "HDF5", "HDF5Image", "BAG", "HDF4", "HDF4Image", "Zarr", "GRIB", "NITF",
    "PCIDSK", "AAIGrid", "GRASSASCIIGrid", "AIG", "SRTMHGT", "DTED", "USGSDEM", "GPKG", "MBTiles", "RST", "SAGA",
    "GSBG", "GS7BG", "GSAG", "NWT_GRD", "SIGDEM", "XYZ", "PNM", "BIGGIF", "KEA", "RMF", "ILWIS", "LCP", "SNAP_TIFF",
    "CEOS", "SAR_CEOS", "COSAR", "GFF", "ISCE",
)  # fmt: skip
"""GDAL drivers of files that hold their pixels themselves, or beside them under the same name."""
_PRODUCTS = ("DIMAP", "SAFE", "SENTINEL2", "RS2", "TSX", "TIL", "PDS4", "WMS", "WMTS", "WCS", "VRT")
_BY_ENDING = {
    ".vrt": ("VRT",), ".gti": ("GTI",), ".gti.gpkg": ("GTI",), ".gti.fgb": ("GTI",), ".gti.parquet": ("GTI",),
    ".xml": _PRODUCTS, ".dim": ("DIMAP",), ".safe": ("SAFE", "SENTINEL2"), ".zip": ("SENTINEL2", "DIMAP", "SAFE"),
    ".til": ("TIL",), ".wms": ("WMS",), ".ers": ("ERS",), ".mrf": ("MRF",), ".json": ("STACIT", "STACTA"),
    ".lbl": ("PDS", "ISIS3", "VICAR"), ".cub": ("ISIS3",), ".kap": ("BSB",), ".map": ("OZI", "PCRaster"),
}  # fmt: skip
_LEADS_ELSEWHERE = re.compile(
    rb"<(VRTDataset|GDAL_WMS|GDAL_WMTS|WCS_GDAL|GDALTileIndexDataset|MRF_META|OGRVRTDataSource|OGRWFSDataSource|OGRVRTLayer)"
    rb"|gdal_(streamed_alg|virtual_data)"
)
_CONTENT_BYTES = 4096
_MOST_BLOCKS = 2**20


def drivers_for(path: str) -> list[str] | None:
    """GDAL drivers that may open a raster; None for all.

    Args:
        path: a path or URL of a file; names with a prefix (``NETCDF:...``), and texts of virtual rasters, which only a
            configuration has, are opened by whichever driver they name.
    """
    allowed = os.environ.get(DRIVERS_VARIABLE, "")
    if allowed.strip().lower() == "any" or path.startswith("<") or _names_its_driver(path):
        return None
    name = path.rstrip("/").lower().partition("?")[0]
    announced = [driver for ending, drivers in _BY_ENDING.items() if name.endswith(ending) for driver in drivers]
    more = [driver.strip() for driver in allowed.split(",") if driver.strip()]
    return list(dict.fromkeys([*PLAIN_DRIVERS, *announced, *more]))


def check_file(path: str, what: str) -> None:
    """Refuse a local file that is none, is empty, or is not what its name says.

    Args:
        path: a path; anything remote passes.
        what: names it in the message, such as ``image of scene 'a'``.

    Raises:
        DataError: it is a pipe, a device or a socket, has no bytes, or leads to other files under the name of an image.
    """
    try:
        state = os.stat(path)
    except (OSError, ValueError):  # opening it says what is wrong
        return
    if stat.S_ISDIR(state.st_mode):
        if path.lower().rstrip("/").endswith((".tif", ".tiff", ".geojson", ".png", ".jpg", ".jp2")):
            raise DataError(f"{what}: {path} is a folder; give the path of a file in it")
        return
    if not stat.S_ISREG(state.st_mode):
        raise DataError(f"{what}: {path} is no file but a pipe, device or socket; give the path of a file")
    if state.st_size == 0:
        raise DataError(f"{what}: {path} is empty (0 bytes); was it delivered whole? Deliver it again, or leave it out")
    with open(path, "rb") as stream:
        check_content(stream.read(_CONTENT_BYTES), path, what)


def check_content(content: bytes, path: str, what: str) -> None:
    """Refuse a file whose first bytes lead to other files or servers, though its name does not say so.

    Raises:
        DataError: it is such a file.
    """
    is_text = content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"<", b"{")
    found = _LEADS_ELSEWHERE.search(content) if is_text else None
    allowed = os.environ.get(DRIVERS_VARIABLE, "").strip()
    if found is None or allowed or path.lower().partition("?")[0].endswith(tuple(_BY_ENDING)):
        return
    kind = (found[1] or found[0]).decode()
    raise DataError(
        f"{what}: {path} is no file with data of its own: its content ({kind}) leads to other files or servers; "
        f"deliver the data, name it .vrt if you trust it, or set {DRIVERS_VARIABLE} (docs/security.md)"
    )


def check_sources(path: str, what: str) -> None:
    """``check_file`` of everything that a virtual raster names, also by way of others.

    Raises:
        DataError: as of ``check_file``.
    """
    seen: set[str] = set()
    waiting = [path]
    while waiting:
        name = waiting.pop()
        if name.startswith("<"):
            waiting += sources_of(name)
            continue
        file = local_file(name)
        if file is None or str(file) in seen:
            continue
        seen.add(str(file))
        check_file(str(file), what)
        if file.suffix.lower() in (".vrt", ".xml"):
            waiting += sources_of(virtual_text(file), str(file.parent))


def check_raster(dataset: Any, what: str, path: str, max_pixels: int, field: str = "data.max_pixels") -> None:
    """Refuse a raster without bands or pixels, of too many pixels, or without one block in its file.

    Args:
        dataset: an open rasterio dataset.
        what: names it in the message.
        path: as messages show it.
        max_pixels: rows times columns at most.
        field: the setting that says so.

    Raises:
        DataError: it is such a raster.
    """
    if dataset.count < 1:
        inside = dataset.subdatasets
        remedy = f"name one of its {len(inside)} parts, such as {inside[0]}" if inside else "deliver it with its bands"
        raise DataError(f"{what}: {path} has no bands; {remedy}")
    if dataset.width < 1 or dataset.height < 1:
        raise DataError(f"{what}: {path} has no pixels; deliver it again, or leave it out")
    if dataset.width * dataset.height > max_pixels:
        raise DataError(
            f"{what}: {path} says that it has {dataset.height} x {dataset.width} pixels (rows x columns), more than "
            f"{field} = {max_pixels}; raise that if it is right, or leave the file out"
        )
    if dataset.driver == "GTiff" and not _has_a_block(dataset):
        raise DataError(
            f"{what}: {path} has {dataset.height} x {dataset.width} pixels and not one block of them in the file; was "
            "it written to its end? Deliver it again, or leave it out"
        )


def _has_a_block(dataset: Any) -> bool:
    """Tell whether any block of a TIFF is in the file; of very many, whether any of the first ones is."""
    height, width = dataset.block_shapes[0]
    rows, columns = -(-dataset.height // height), -(-dataset.width // width)
    if rows * columns * dataset.count > _MOST_BLOCKS:
        rows = max(1, _MOST_BLOCKS // (columns * dataset.count))
    return any(
        dataset.get_tag_item(f"BLOCK_OFFSET_{column}_{row}", "TIFF", bidx=band) is not None
        for row in range(rows)
        for column in range(columns)
        for band in dataset.indexes
    )


def _names_its_driver(path: str) -> bool:
    """Tell whether a name begins with what GDAL takes for the name of a driver, as no file or URL does."""
    known = re.match(r"([A-Za-z][A-Za-z0-9_]+):", path)
    return (
        known is not None
        and remote_url(path) is None
        and not path.startswith(("file:", "zip", "tar", "gzip"))
        and (not Path(path).exists())
    )

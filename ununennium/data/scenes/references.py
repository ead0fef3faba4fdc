"""Files that a raster or vector file is read from besides itself.

The sources of a virtual raster, masks, overviews, statistics, world files, metadata and the parts of a Shapefile decide
what is read as much as the file does. GDAL lists those that it uses; what a virtual raster names is found in its text,
so that a source that is missing is listed too.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ununennium.data.scenes.locations import local_file
from ununennium.data.scenes.raster import open_raster
from ununennium.data.scenes.vector_checks import TABLE_OF_SHAPES, VECTOR_ENDINGS
from ununennium.data.scenes.vector_files import read_table
from ununennium.data.scenes.virtual_sources import seen_from, sources_of, virtual_text
from ununennium.errors import DataError

BESIDE_RASTERS = (".aux.xml", ".msk", ".ovr")
"""Endings, appended to the name, of what GDAL reads along with a file."""
BESIDE_SHAPES = (TABLE_OF_SHAPES, ".shx", ".prj", ".cpg")
_ALSO_BESIDE_SHAPES = (".qix", ".sbn", ".sbx", ".qpj", ".cst", ".idm", ".ind")
_BESIDE_DATABASES = ("-wal", "-journal")
_BESIDE_GML = (".xsd", ".gfs")
_INDEXES = (".gti", ".gti.gpkg", ".gti.fgb", ".gti.parquet")


def companions(file: Path) -> Iterator[Path]:
    """A local file, and those of the best known names beside it that are there."""
    yield file
    yield from _present(file, [f"{file.name}{ending}" for ending in BESIDE_RASTERS])
    if file.suffix.lower() == ".shp":
        yield from _present(file, [file.with_suffix(ending).name for ending in BESIDE_SHAPES])


def others_beside(file: Path) -> Iterator[Path]:
    """Further files beside a vector file that change what is read of it."""
    ending = file.suffix.lower()
    if ending == ".shp":
        for lower in (*BESIDE_SHAPES, *_ALSO_BESIDE_SHAPES):
            names = [file.with_suffix(lower).name] if lower in _ALSO_BESIDE_SHAPES else []
            yield from _present(file, [*names, file.with_suffix(lower.upper()).name])
    elif ending in (".gpkg", ".sqlite", ".mbtiles"):
        for beside in _present(file, [f"{file.name}{end}" for end in _BESIDE_DATABASES]):
            if beside.stat().st_size:  # an empty one is made by whoever reads, and says nothing
                yield beside
    elif ending == ".gml":
        yield from _present(file, [file.with_suffix(end).name for end in _BESIDE_GML])


def listed(file: Path) -> tuple[list[str], list[str]]:
    """Names of what a local raster is read from: its sources, and the rest that GDAL lists.

    Args:
        file: path of a raster, or of anything else, which has none.

    Returns:
        Sources, which are rasters with references of their own; and other files.
    """
    if not is_raster(file):
        return [], []
    sources = sources_in(file)
    try:
        with open_raster(str(file), file.name) as dataset:
            if dataset.count:
                dataset.mask_flag_enums, dataset.overviews(1)
            found = [str(name) for name in dataset.files]
    except DataError:  # whoever reads it says so
        return sources, []
    return sources, [name for name in found if not _is_same(name, file) and name not in sources]


def is_raster(file: Path) -> bool:
    """Tell whether a file may be a raster, by its ending."""
    name = file.name.lower()
    return name.endswith(_INDEXES) or not name.endswith((*VECTOR_ENDINGS, TABLE_OF_SHAPES))


def sources_in(file: Path) -> list[str]:
    """Files that a virtual raster or a tile index in a local file names; none for other files."""
    names = sources_of(virtual_text(file), str(file.parent))
    if file.name.lower().endswith(_INDEXES[1:]):
        names += _indexed(file)
    elif file.name.lower().endswith(_INDEXES[0]):
        for index in map(local_file, list(names)):
            names += [] if index is None else _indexed(index)
    return list(dict.fromkeys(names))


def _indexed(index: Path) -> list[str]:
    """The rasters that a tile index (GTI) lists in its attribute ``location``."""
    try:
        meta, _, columns = read_table(index, read_geometry=False)
    except (OSError, DataError):
        return []
    attributes: dict[str, Any] = dict(zip(meta["fields"].tolist(), columns, strict=True))
    return [seen_from(str(name), str(index.parent)) for name in attributes.get("location", []) if name]


def _present(file: Path, names: list[str]) -> Iterator[Path]:
    for name in dict.fromkeys(names):
        if (beside := file.with_name(name)).is_file():
            yield beside


def _is_same(name: str, file: Path) -> bool:
    found = local_file(name)
    return found is not None and found.resolve() == file.resolve()

"""One image of several files: the text of a GDAL virtual raster (VRT) whose bands have names.

rasterio opens the text as if it were a path, in any process, and GDAL reads the blocks of the files themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

import rasterio

from ununennium.config.data import BandFile, Image
from ununennium.data.scenes.bands import ImageBands
from ununennium.data.scenes.georeference import Georeference, georeference
from ununennium.data.scenes.places import size_text
from ununennium.data.scenes.raster import open_raster
from ununennium.data.scenes.remote import gdal_path
from ununennium.errors import DataError

_SUBPIXEL = 0.01
_TYPES = {
    "uint8": "Byte", "int8": "Int8", "uint16": "UInt16", "int16": "Int16", "uint32": "UInt32", "int32": "Int32",
    "uint64": "UInt64", "int64": "Int64", "float32": "Float32", "float64": "Float64",
    "complex_int16": "CInt16", "complex64": "CFloat32", "complex128": "CFloat64",
}  # fmt: skip


def opened_image(image: Image, scene: str) -> tuple[str, tuple[str, ...]]:
    """Text that rasterio opens for an image, and the files that it is read from.

    Args:
        image: a path, a URL, the text of a VRT, or band names with files.
        scene: the scene's name, for messages.

    Raises:
        DataError: a band's file cannot be read, has several bands of which none is chosen, or is on another grid.
    """
    if isinstance(image, str):
        return image, sources_of(image) if image.startswith("<") else (image,)
    files = tuple(dict.fromkeys(_file_of(file) for file in image.values()))
    return _text(image, scene), files


def sources_of(text: str) -> tuple[str, ...]:
    """The files that the text of a VRT names.

    Raises:
        DataError: it is no XML.
    """
    try:
        names = [node.text or "" for node in ElementTree.fromstring(text).iter("SourceFilename")]
    except ElementTree.ParseError as error:
        raise DataError(f"an image begins with '<' and is no virtual raster ({error}); give its path") from error
    return tuple(dict.fromkeys(names))


def block_shape_of(text: str, otherwise: tuple[int, int]) -> tuple[int, int]:
    """(rows, columns) of the blocks in which a VRT's first file is compressed, which GDAL does not tell for strips."""
    properties = ElementTree.fromstring(text).find(".//SourceProperties")
    if properties is None or "BlockYSize" not in properties.attrib:
        return otherwise
    return int(properties.attrib["BlockYSize"]), int(properties.attrib["BlockXSize"])


def _file_of(file: BandFile) -> str:
    return file if isinstance(file, str) else file[0]


def _text(bands: Mapping[str, BandFile], scene: str) -> str:
    """The VRT's text; every band's file is looked at once."""
    root = ElementTree.Element("VRTDataset")
    first: dict[str, Any] = {}
    first_name = ""
    for position, (name, file) in enumerate(bands.items(), 1):
        path, number, *tags = (file, None) if isinstance(file, str) else file
        what = f"band {name!r} of scene {scene!r}"
        with open_raster(path, what) as source:
            number = _checked_number(source, number, what, path)
            its = _grid(source)
            if not first:
                first, first_name = its, name
                _write_grid(root, its)
            elif different := _difference(first, its):
                raise DataError(
                    f"scene {scene!r}: its bands {first_name!r} and {name!r} are on different grids: {different}; warp "
                    f"{path} to the other's grid (gdalwarp -te ... -tr ...), or choose bands of one resolution"
                )
            _add_band(root, source, position, name, path, number, tags)
    _share_mask(root)
    return ElementTree.tostring(root, encoding="unicode")


def _share_mask(root: ElementTree.Element) -> None:
    """Make one mask of the image of equal masks of all its bands, so that it is read once."""
    bands = root.findall("VRTRasterBand")
    masks = [mask for band in bands if (mask := band.find("MaskBand")) is not None]
    if len(masks) == len(bands) and len({ElementTree.tostring(mask) for mask in masks}) == 1:
        for band in bands:
            band.remove(band.find("MaskBand"))  # type: ignore[arg-type]
        root.append(masks[0])


def _checked_number(source: Any, number: int | None, what: str, path: str) -> int:
    if number is None and source.count == 1:
        return 1
    if number is not None and 1 <= number <= source.count:
        return number
    problem = "choose one" if number is None else f"there is no band {number}"
    raise DataError(f"{what}: {path} has {source.count} bands; {problem} (as [file, number], counted from 1)")


def _grid(source: Any) -> dict[str, Any]:
    placed = georeference(source)
    return {
        "height": source.height,
        "width": source.width,
        "transform": placed.transform,
        "crs": placed.crs,
        "placed": placed,
    }


def _difference(first: Mapping[str, Any], its: Mapping[str, Any]) -> str:
    """Differences of two grids, in words; empty where they are one."""
    if (first["height"], first["width"]) != (its["height"], its["width"]):
        return f"{size_text(first['height'], first['width'])} and {size_text(its['height'], its['width'])}, in pixels"
    if first["crs"] != its["crs"]:
        return f"{first['crs']} and {its['crs']}"
    pixel = max(abs(first["transform"].a), abs(first["transform"].b))
    for corner in ((0, 0), (first["width"], first["height"])):
        ours, theirs = first["transform"] * corner, its["transform"] * corner
        if max(abs(ours[0] - theirs[0]), abs(ours[1] - theirs[1])) > _SUBPIXEL * pixel:
            return f"corners at {ours} and {theirs}"
    return ""


def _write_grid(root: ElementTree.Element, grid: Mapping[str, Any]) -> None:
    root.set("rasterXSize", str(grid["width"]))
    root.set("rasterYSize", str(grid["height"]))
    if grid["crs"]:
        ElementTree.SubElement(root, "SRS", dataAxisToSRSAxisMapping="1,2").text = grid["crs"].to_wkt()
    if grid["placed"].needs_warp:
        _write_points(root, grid["placed"])
    if grid["transform"] != rasterio.Affine.identity():
        coefficients = ", ".join(repr(float(number)) for number in grid["transform"].to_gdal())
        ElementTree.SubElement(root, "GeoTransform").text = coefficients


def _write_points(root: ElementTree.Element, placed: Georeference) -> None:
    """Write control points or polynomials, as GDAL names them."""
    source = placed.source or {}
    if "gcps" in source:
        listed = ElementTree.SubElement(root, "GCPList", Projection=source["src_crs"].to_wkt())
        for number, point in enumerate(source["gcps"], 1):
            ElementTree.SubElement(
                listed, "GCP", Id=str(number), Pixel=repr(point.col), Line=repr(point.row), X=repr(point.x),
                Y=repr(point.y), Z=repr(point.z or 0.0),
            )  # fmt: skip
    elif "rpcs" in source:
        metadata = ElementTree.SubElement(root, "Metadata", domain="RPC")
        for key, value in source["rpcs"].to_gdal().items():
            ElementTree.SubElement(metadata, "MDI", key=key).text = str(value)


def _add_band(
    root: ElementTree.Element, source: Any, position: int, name: str, path: str, number: int, tags: Sequence[float]
) -> None:
    dtype, blocks = source.dtypes[number - 1], source.block_shapes[number - 1]
    band = ElementTree.SubElement(
        root, "VRTRasterBand", dataType=_TYPES[dtype], band=str(position),
        blockXSize=str(blocks[1]), blockYSize=str(blocks[0]),
    )  # fmt: skip
    ElementTree.SubElement(band, "Description").text = name
    if source.nodatavals[number - 1] is not None:
        ElementTree.SubElement(band, "NoDataValue").text = repr(float(source.nodatavals[number - 1]))
    scale, offset = tags or (source.scales[number - 1], source.offsets[number - 1])
    if (scale, offset) != (1.0, 0.0):
        ElementTree.SubElement(band, "Offset").text = repr(float(offset))
        ElementTree.SubElement(band, "Scale").text = repr(float(scale))
    grid = {"height": source.height, "width": source.width}
    _add_source(band, path, str(number), grid, blocks, _TYPES[dtype])
    _add_mask(band, source, path, number, grid)


def _add_mask(band: ElementTree.Element, source: Any, path: str, number: int, grid: Mapping[str, Any]) -> None:
    """A mask of the band's own, which is what its file masks by a mask band and by alpha bands; none without those."""
    its = ImageBands.of(source)
    masks = [f"mask,{mask}"] if (mask := its.masks[number - 1]) else []
    masks += [str(alpha) for alpha in its.alpha if alpha != number]
    if not masks:
        return
    element = ElementTree.SubElement(ElementTree.SubElement(band, "MaskBand"), "VRTRasterBand", dataType="Byte")
    if len(masks) > 1:
        element.set("subClass", "VRTDerivedRasterBand")
        ElementTree.SubElement(element, "PixelFunctionType").text = "mul"
    for mask_band in masks:
        position = int(mask_band.rpartition(",")[2])
        dtype = "Byte" if mask_band.startswith("mask") else _TYPES[source.dtypes[position - 1]]
        _add_source(element, path, mask_band, grid, source.block_shapes[position - 1], dtype)


def _add_source(
    band: ElementTree.Element, path: str, number: str, grid: Mapping[str, Any], blocks: tuple[int, int], dtype: str
) -> None:
    """A source that covers the band; with its properties, so that GDAL opens the file only to read it."""
    source = ElementTree.SubElement(band, "SimpleSource")
    ElementTree.SubElement(source, "SourceFilename", relativeToVRT="0").text = gdal_path(path)
    ElementTree.SubElement(source, "SourceBand").text = number
    size = {"xSize": str(grid["width"]), "ySize": str(grid["height"])}
    ElementTree.SubElement(
        source, "SourceProperties", RasterXSize=size["xSize"], RasterYSize=size["ySize"], DataType=dtype,
        BlockXSize=str(blocks[1]), BlockYSize=str(blocks[0]),
    )  # fmt: skip
    for name in ("SrcRect", "DstRect"):
        ElementTree.SubElement(source, name, {"xOff": "0", "yOff": "0", **size})

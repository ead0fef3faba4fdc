"""Georeference of an image: an affine transform, ground control points, or rational polynomials (RPC).

rasterio gives the identity as the transform of an image that has control points or polynomials alone; its pixel numbers
are no coordinates. Control points that an affine transform fits are that transform. Others, and polynomials, place an
image only when it is warped.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyproj
import rasterio
from rasterio.errors import RasterioError
from rasterio.transform import GCPTransformer, RPCTransformer
from rasterio.warp import calculate_default_transform

from ununennium.errors import DataError

_AFFINE_WITHIN = 0.1  # pixels between a control point and where the transform has it
_LEAST_POINTS = 3
_TOGETHER_WITHIN = 0.5  # pixels

Kind = Literal["none", "transform", "points", "polynomials", "arrays"]
_IN_WORDS = {
    "points": "ground control points",
    "polynomials": "rational polynomials (RPC)",
    "arrays": "geolocation arrays",
}
_METHODS = {"points": "", "polynomials": "-rpc ", "arrays": "-geoloc "}


@dataclass(frozen=True)
class Georeference:
    """Placement of an image on the ground.

    Attributes:
        kind: kind of georeference; ``none`` for an image in pixels alone.
        crs: of the transform; None without one.
        transform: from (column, row) to its coordinates; the identity where no transform places the image.
        source: options of ``rasterio.warp.reproject`` for an image that control points or polynomials place.
    """

    kind: Kind
    crs: rasterio.CRS | None
    transform: rasterio.Affine
    source: dict[str, Any] | None = None

    @property
    def needs_warp(self) -> bool:
        """Tell whether pixels have coordinates only when the image is warped."""
        return self.kind in _IN_WORDS and self.crs is None

    def refusal(self, path: str, why: str) -> str:
        """A message that says why an image that must be warped cannot be used as it is, and how to warp it."""
        return (
            f"{path} is placed by {_IN_WORDS[self.kind]} alone, {why}; warp it first: {self.command(path)}, or set "
            "align: warp"
        )

    def command(self, path: str) -> str:
        """The command that warps the image to the UTM zone, or the polar CRS, of its centre."""
        stem, dot, _ = path.rpartition(".")
        target = f"{stem if dot else path}-warped.tif"
        crs = f"-t_srs {self._utm()} " if self.source is not None else "-t_srs EPSG:... "
        return f"gdalwarp {_METHODS[self.kind]}{crs}-r bilinear {shlex.quote(path)} {shlex.quote(target)}"

    def _utm(self) -> str:
        assert self.source is not None
        if "rpcs" in self.source:
            east, north = self.source["rpcs"].long_off, self.source["rpcs"].lat_off
        else:
            points = self.source["gcps"]
            x, y = (float(np.mean([getattr(point, axis) for point in points])) for axis in "xy")
            move = pyproj.Transformer.from_crs(self.source["src_crs"].to_wkt(), "EPSG:4326", always_xy=True)
            east, north = move.transform(x, y)
        if abs(north) > 84:
            return "EPSG:3413" if north > 0 else "EPSG:3031"
        return f"EPSG:{(32600 if north >= 0 else 32700) + int((east + 180) // 6) % 60 + 1}"

    def grid(self, crs: str, resolution: tuple[float, float] | None, height: int, width: int) -> tuple[Any, int, int]:
        """Transform, height and width of a grid in ``crs`` that holds the image.

        Raises:
            DataError: the image cannot be placed in that CRS.
        """
        assert self.source is not None
        options = {name: value for name, value in self.source.items() if name != "src_crs"}
        try:
            transform, columns, rows = calculate_default_transform(
                self.source["src_crs"], crs, width, height, resolution=resolution, **options
            )
        except (RasterioError, ValueError) as error:
            raise DataError(f"an image with {_IN_WORDS[self.kind]} cannot be placed in its grid ({error})") from error
        return transform, int(rows), int(columns)


def georeference(dataset: Any) -> Georeference:
    """The georeference of an open rasterio dataset."""
    if dataset.transform != rasterio.Affine.identity():
        return Georeference("transform", dataset.crs, dataset.transform)
    points, crs = dataset.gcps
    if points and crs and len(points) >= _LEAST_POINTS:
        fitted = _affine(points)
        if fitted is not None:
            return Georeference("points", crs, fitted, {"gcps": points, "src_crs": crs})
        return Georeference("points", None, dataset.transform, {"gcps": points, "src_crs": crs})
    if dataset.rpcs is not None:
        source = {"rpcs": dataset.rpcs, "src_crs": rasterio.CRS.from_epsg(4326)}
        return Georeference("polynomials", None, dataset.transform, source)
    if dataset.tags(ns="GEOLOCATION"):
        return Georeference("arrays", None, dataset.transform)
    return Georeference("none" if dataset.crs is None else "transform", dataset.crs, dataset.transform)


def lie_together(one: Georeference, other: Georeference, height: int, width: int) -> bool:
    """Tell whether two images of one size, which control points or polynomials place, share their pixels' places.

    They do to half a pixel, and also where one of them has no placement that is known here.
    """
    if one.source is None or other.source is None:
        return True
    if one.kind != other.kind or one.source["src_crs"] != other.source["src_crs"]:
        return False
    rows, cols = (each.ravel() for each in np.meshgrid(np.linspace(0, height, 3), np.linspace(0, width, 3)))
    ours, theirs = _ground(one, rows, cols), _ground(other, rows, cols)
    pixel = np.linalg.norm(_ground(one, rows, cols + 1) - ours, axis=0)
    return bool((np.linalg.norm(ours - theirs, axis=0) <= _TOGETHER_WITHIN * pixel).all())


def _ground(image: Georeference, rows: Any, cols: Any) -> npt.NDArray[np.float64]:
    assert image.source is not None
    points, polynomials = image.source.get("gcps"), image.source.get("rpcs")
    transformer = GCPTransformer(points) if points else RPCTransformer(polynomials)
    with transformer:
        return np.array(transformer.xy(rows, cols, offset="ul"), np.float64)


def _affine(points: Any) -> rasterio.Affine | None:
    """The transform that all control points agree with; None if there is none."""
    pixels = np.array([(point.col, point.row, 1.0) for point in points])
    ground = np.array([(point.x, point.y) for point in points])
    if np.linalg.matrix_rank(pixels) < pixels.shape[1]:
        return None
    origin = ground.mean(0)
    found, *_ = np.linalg.lstsq(pixels, ground - origin, rcond=None)
    (a, d), (b, e), (c, f) = found
    transform = rasterio.Affine(a, b, c + origin[0], d, e, f + origin[1])
    if transform.is_degenerate:
        return None
    columns, rows = ~transform * (ground[:, 0], ground[:, 1])
    away = np.hypot(columns - pixels[:, 0], rows - pixels[:, 1]).max()
    return transform if away <= _AFFINE_WITHIN else None

"""Scenes of other coordinate systems or pixel sizes: refused, or warped once to one grid and kept; never silently.

The grid is *target aligned*: its pixels begin at multiples of their size, so that whatever is warped to it coincides.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import rasterio
from rasterio.enums import ColorInterp, Resampling
from rasterio.vrt import WarpedVRT

from ununennium.config import DataConfig, SceneConfig
from ununennium.data.scenes.bands import ImageBands
from ununennium.data.scenes.delivered import MAX_PIXELS, check_raster, check_sources
from ununennium.data.scenes.fingerprints import Fingerprints
from ununennium.data.scenes.georeference import Georeference, georeference
from ununennium.data.scenes.ground import metres
from ununennium.data.scenes.label_bands import label_bands, unlabelled_value, write_labels_alone
from ununennium.data.scenes.nan_copy import has_one_validity, write_nan_copy
from ununennium.data.scenes.open import is_vector, label_files, name_of, open_scene
from ununennium.data.scenes.places import crs_text, pixel_text
from ununennium.data.scenes.raster import bounded_cache, open_raster, redacted_path
from ununennium.data.scenes.scene import Scene
from ununennium.data.scenes.sources.virtual import opened_image
from ununennium.data.scenes.warp_points import warp_image, warp_label
from ununennium.errors import ConfigError, DataError
from ununennium.files import replaced

_BLOCK = 512
_POINTS_PER_SIDE = 21
_SAME_SIZE = 0.01  # relative
_VERSION = 3


@dataclass(frozen=True)
class Grid:
    """Grid of pixels: CRS, transform and size.

    Attributes:
        crs: coordinate system, as WKT.
        transform: from (column, row) to its coordinates.
        height, width: in pixels.
    """

    crs: str
    transform: rasterio.Affine
    height: int
    width: int

    @property
    def resolution(self) -> tuple[float, float]:
        """Sizes of a pixel along rows and columns, in units of the CRS."""
        a, b, _, d, e, _ = tuple(self.transform)[:6]
        return math.hypot(a, d), math.hypot(b, e)


def open_aligned(
    settings: Sequence[SceneConfig], config: DataConfig, folder: Path, progress: Callable[[str], None] | None = None
) -> list[Scene]:
    """Open scenes, those on another grid as files of ``folder`` that are warped to it.

    Images are interpolated bilinearly, labels and masks take the nearest pixel; nodata stays what it is, and where a
    file has none, a mask says what lies outside. Where bands have nodata values or masks of their own, the warped file
    is one of floats with NaN. Names, scales and offsets of the bands stay.

    Args:
        settings: the scenes.
        config: with the grid; without one, the first scene's CRS and pixel size.
        folder: folder of warped files, keyed by the contents of their sources.
        progress: told what is warped.

    Raises:
        DataError: a scene has no CRS, or cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    fingerprints = Fingerprints(folder / "contents.json")
    crs, resolution = _target(settings, config)
    scenes = []
    for scene_index, scene in enumerate(settings):
        name = scene.name or name_of(scene)
        given = scene.image if isinstance(scene.image, list) else [scene.image]
        images = [opened_image(image, name) for image in given]
        files = [file for _, its_files in images for file in its_files] + label_files(scene)
        own = _grid_of(images[0][0], f"image of scene {name!r}", config.max_pixels, crs, resolution)
        placed = _placed(images[0][0], f"image of scene {name!r}")
        fits = _fits(own, crs, resolution) and not placed.needs_warp
        grid = own if fits else _tap_grid(own, crs, resolution)
        if grid.height * grid.width > config.max_pixels:
            raise DataError(
                f"scene {name!r} has {grid.height} x {grid.width} pixels (rows x columns) on the grid that it would be "
                f"warped to, more than data.max_pixels = {config.max_pixels}; choose a coarser data.grid.resolution, "
                "or raise that"
            )

        def warped(
            source: str, what: str, nodata: float | None, resampling: Resampling, grid: Grid = grid, name: str = name,
            image_placed: Georeference = placed, fits: bool = fits,
        ) -> str:  # fmt: skip
            is_label, placed = resampling is Resampling.nearest, _placed(source, what)
            on_pixels = is_label and placed.kind == "none" and image_placed.source is not None
            if on_pixels:  # of the image
                placed = image_placed
                if fits:
                    return source
            elif not placed.needs_warp and _grid_of(source, what, config.max_pixels) == grid:
                return source
            key = _fingerprint(source, fingerprints, grid, nodata, resampling)
            path = folder / f"{key}.tif"
            if not path.is_file():
                if progress is not None:
                    progress(f"warping {what} to pixels of {grid.resolution[0]:g} x {grid.resolution[1]:g}")
                if placed.source is not None:
                    _warp_placed(source, placed, path, grid, nodata, is_label, what)
                elif is_label:
                    _warp_label(source, path, grid, math.nan if nodata is None else nodata, what)
                else:
                    _warp_image(source, path, grid, nodata, what)
            return str(path)

        moved = [warped(image, f"image of scene {name!r}", config.nodata, Resampling.bilinear) for image, _ in images]
        label = scene.label
        if label is not None and not is_vector(label):
            label = warped(label, f"labels of scene {name!r}", unlabelled_value(config), Resampling.nearest)
        changes = {"image": moved if len(moved) > 1 else moved[0], "label": label, "name": name}
        scenes.append(
            replace(
                open_scene(scene.model_copy(update=changes), scene_index, max_pixels=config.max_pixels),
                files=tuple(files),
            )
        )
    fingerprints.save()
    return scenes


def check_grids(scenes: Sequence[Scene], config: DataConfig) -> None:
    """Say which scenes were warped, and warn of pixel sizes that differ, or refuse grids that do.

    Raises:
        ConfigError: ``data.align`` is ``refuse``, and a scene's CRS or pixel size is not the first one's.
    """
    moved = [scene.name for scene in scenes if _is_warped(scene)]
    if moved:
        warnings.warn(f"warped to one grid (data.align: warp): {', '.join(moved)}", stacklevel=2)
    first = scenes[0]
    for scene in scenes[1:]:
        if not _same_size(scene, first) or (config.align == "refuse" and not same_crs(scene.crs, first.crs)):
            words = f"scene {scene.name!r} has pixels of {in_words(scene)}, scene {first.name!r} of {in_words(first)}"
            if config.align == "refuse":
                raise ConfigError("data.align", "refuse", f"{words}; leave one out, or set data.align: warp")
            warnings.warn(f"{words}; data.align: warp brings them to one grid", stacklevel=2)


def _target(settings: Sequence[SceneConfig], config: DataConfig) -> tuple[str, tuple[float, float]]:
    """CRS (WKT) and pixel size of the grid."""
    if config.grid is not None:
        try:
            crs = rasterio.CRS.from_user_input(config.grid.crs).to_wkt()
        except rasterio.errors.CRSError as error:
            raise ConfigError(
                "data.grid.crs", config.grid.crs, f"is no CRS ({error}); write one such as EPSG:32722"
            ) from error
        return crs, (config.grid.resolution, config.grid.resolution)
    first = settings[0]
    name = first.name or name_of(first)
    image, _ = opened_image(first.image[0] if isinstance(first.image, list) else first.image, name)
    grid = _grid_of(image, f"image of scene {name!r}")
    return grid.crs, grid.resolution


def _grid_of(
    source: str,
    what: str,
    max_pixels: int = MAX_PIXELS,
    crs: str | None = None,
    resolution: tuple[float, float] | None = None,
) -> Grid:
    """The grid of an image; of one that is placed by control points or polynomials, that which it is warped to."""
    check_sources(source, what)
    with open_raster(source, what) as dataset:
        check_raster(dataset, what, redacted_path(source), max_pixels)
        placed = georeference(dataset)
        if placed.needs_warp and placed.source is not None and crs is not None:
            return Grid(crs, *placed.grid(crs, resolution, dataset.height, dataset.width))
        if placed.needs_warp and placed.source is not None:
            crs = placed.source["src_crs"].to_wkt()
            return Grid(crs, *placed.grid(crs, None, dataset.height, dataset.width))
        if placed.crs is None and placed.kind == "arrays":
            raise DataError(f"{what}: {placed.refusal(redacted_path(source), 'which are not read here')}")
        if placed.crs is None:
            raise DataError(
                f"{what} has no CRS, so that data.align: warp cannot place it; write its CRS into the file "
                "(gdal_edit.py -a_srs EPSG:...), or leave data.align out"
            )
        return Grid(placed.crs.to_wkt(), placed.transform, dataset.height, dataset.width)


def _fits(grid: Grid, crs: str, resolution: tuple[float, float]) -> bool:
    north_up = grid.transform.a > 0 and grid.transform.e < 0 and not grid.transform.b and not grid.transform.d
    return north_up and same_crs(grid.crs, crs) and bool(np.allclose(grid.resolution, resolution, rtol=1e-6))


def _tap_grid(source: Grid, crs: str, resolution: tuple[float, float]) -> Grid:
    """The smallest target-aligned grid that holds the source, whose straight sides are curves in another CRS."""
    along = np.linspace(0.0, 1.0, _POINTS_PER_SIDE)
    zero, one = np.zeros_like(along), np.ones_like(along)
    cols = np.concatenate((along, one, along, zero)) * source.width
    rows = np.concatenate((zero, along, one, along)) * source.height
    move = pyproj.Transformer.from_crs(source.crs, crs, always_xy=True)
    x, y = move.transform(*(source.transform * (cols, rows)))
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise DataError("a scene lies where the grid's CRS does not reach; choose another data.grid.crs")
    width, height = resolution
    left, right = math.floor(np.min(x) / width + 1e-6), math.ceil(np.max(x) / width - 1e-6)
    bottom, top = math.floor(np.min(y) / height + 1e-6), math.ceil(np.max(y) / height - 1e-6)
    transform = rasterio.Affine(width, 0, left * width, 0, -height, top * height)
    return Grid(crs, transform, top - bottom, right - left)


def _fingerprint(
    source: str, fingerprints: Fingerprints, grid: Grid, nodata: float | None, resampling: Resampling
) -> str:
    files = fingerprints.of_files([source])
    where = [grid.crs, *grid.transform[:6], grid.height, grid.width]
    parts = [_VERSION, source if source.startswith("<") else "", files, where, str(nodata), resampling.name]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def _warp_image(source: str, path: Path, grid: Grid, nodata: float | None, what: str) -> None:
    """Write an image on the grid, with what is valid in each band as its own file says, or ``nodata``."""
    with open_raster(source, what) as dataset:
        bands = ImageBands.of(dataset)
        if has_one_validity(dataset, nodata):
            declared = dataset.nodata if nodata is None else nodata
            holds = declared is None or _holds(np.dtype(dataset.dtypes[0]), declared)
            _warp(dataset, path, grid, declared if holds else None, Resampling.bilinear)
            return
        copy = path.with_name(f"{path.stem}.{os.getpid()}.copy.tif")
        try:
            write_nan_copy(dataset, copy, nodata)
            with open_raster(str(copy), what) as marked:
                _warp(marked, path, grid, math.nan, Resampling.bilinear, bands.alpha)
        finally:
            copy.unlink(missing_ok=True)


def _placed(source: str, what: str) -> Georeference:
    with open_raster(source, what) as dataset:
        return georeference(dataset)


def _warp_placed(
    source: str, placed: Georeference, path: Path, grid: Grid, nodata: float | None, is_label: bool, what: str
) -> None:
    """Write an image, or labels, that control points or polynomials place."""
    profile = {
        "driver": "GTiff", "crs": grid.crs, "transform": grid.transform, "height": grid.height, "width": grid.width,
        "tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "compress": "zstd", "BIGTIFF": "IF_SAFER",
    }  # fmt: skip
    with open_raster(source, what) as dataset:
        if is_label:
            declared = dataset.nodata if dataset.nodata is not None else math.nan if nodata is None else nodata
            warp_label(dataset, placed, path, profile, declared)
        else:
            warp_image(dataset, placed, path, profile, nodata)


def _warp_label(source: str, path: Path, grid: Grid, unlabelled: float, what: str) -> None:
    """Write a label raster on the grid; what a tag, a mask or an alpha band says is unlabelled has the nodata value."""
    with open_raster(source, what) as dataset:
        declared = unlabelled if dataset.nodata is None else dataset.nodata
        band, alphas = label_bands(dataset, f"{what}: {source}")
        dtype = _label_dtype(np.dtype(dataset.dtypes[band - 1]), declared)
        if not alphas:
            _warp(dataset, path, grid, declared, Resampling.nearest)
            return
        # GDAL asks either an alpha band or the nodata value, not both.
        copy = path.with_name(f"{path.stem}.{os.getpid()}.copy.tif")
        try:
            write_labels_alone(dataset, copy, (band, alphas), declared, dtype)
            with open_raster(str(copy), what) as marked:
                _warp(marked, path, grid, declared, Resampling.nearest)
        finally:
            copy.unlink(missing_ok=True)


def _warp(
    dataset: Any,
    path: Path,
    grid: Grid,
    declared: float | None,
    resampling: Resampling,
    alpha: Sequence[int] = (),
) -> None:
    """Write a dataset on the grid, block by block; nobody ever sees a part of it.

    Args:
        dataset: the source.
        path: the GeoTIFF to write.
        grid: its pixels.
        declared: value without data; None to write a mask.
        resampling: of the pixels.
        alpha: bands of the source that become alpha bands.
    """
    bands = [n for n, color in enumerate(dataset.colorinterp, 1) if color != ColorInterp.alpha or n == 1]
    dtype: Any = np.dtype(dataset.dtypes[0])
    is_label = resampling is Resampling.nearest
    if is_label and declared is not None:
        dtype = _label_dtype(dtype, declared)
    has_alpha = dataset.colorinterp[-1] == ColorInterp.alpha
    # Each band is judged by its own pixels; GDAL's default asks for nodata in all bands at once.
    options: dict[str, Any] = {"nodata": declared, "src_nodata": declared, "UNIFIED_SRC_NODATA": "NO"}
    if declared is None or (is_label and dataset.nodata is None):
        options = {"src_nodata": None} if has_alpha else {"src_nodata": None, "add_alpha": True}
    profile = {
        "driver": "GTiff", "count": len(bands), "dtype": dtype, "crs": grid.crs, "transform": grid.transform,
        "height": grid.height, "width": grid.width, "nodata": declared, "tiled": True, "blockxsize": _BLOCK,
        "blockysize": _BLOCK, "compress": "zstd", "interleave": "pixel", "BIGTIFF": "IF_SAFER",
        "photometric": "minisblack",  # else the fourth of four bands of bytes becomes an alpha band
    }  # fmt: skip
    with (
        replaced(path) as part,
        bounded_cache(),
        WarpedVRT(
            dataset, crs=grid.crs, transform=grid.transform, height=grid.height, width=grid.width,
            resampling=resampling, **options,
        ) as moved,
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(part, "w", **profile) as out,
    ):  # fmt: skip
        out.descriptions = tuple(dataset.descriptions[band - 1] for band in bands)
        out.scales = tuple(dataset.scales[band - 1] for band in bands)
        out.offsets = tuple(dataset.offsets[band - 1] for band in bands)
        if alpha:
            colours = enumerate(out.colorinterp, 1)
            out.colorinterp = tuple(ColorInterp.alpha if n in alpha else colour for n, colour in colours)
        for _, window in out.block_windows(1):
            pixels = moved.read(bands, window=window).astype(dtype)
            last = moved.count > dataset.count or has_alpha  # dataset_mask knows alpha as band 2 or 4 alone
            mask = moved.read(moved.count, window=window) if last else moved.dataset_mask(window=window)
            if declared is None:
                out.write_mask(mask > 0, window=window)
            else:
                pixels[:, mask == 0] = declared
            out.write(pixels, window=window)


def _label_dtype(dtype: np.dtype[Any], declared: float) -> np.dtype[Any]:
    """Type of warped labels: another one where that of the file has no room for what is unlabelled."""
    if _holds(dtype, declared):
        return dtype
    return np.dtype(np.float32 if math.isnan(declared) else np.int32)


def _holds(dtype: np.dtype[Any], value: float) -> bool:
    if np.issubdtype(dtype, np.floating):
        return True
    limits = np.iinfo(dtype)
    return bool(limits.min <= value <= limits.max and value == int(value))


def _is_warped(scene: Scene) -> bool:
    return not scene.images[0].startswith("<") and not set(scene.images) <= set(scene.files)


def same_crs(one: str | None, other: str | None) -> bool:
    """Tell whether two coordinate systems are one."""
    if one is None or other is None:
        return one == other
    return bool(rasterio.CRS.from_user_input(one) == rasterio.CRS.from_user_input(other))


def _same_size(one: Scene, other: Scene) -> bool:
    return bool(np.allclose(metres(one.crs, one.resolution), metres(other.crs, other.resolution), rtol=_SAME_SIZE))


def in_words(scene: Scene) -> str:
    """A scene's pixel size and CRS."""
    return f"{pixel_text(scene)} in {'no CRS' if scene.crs is None else crs_text(scene.crs)}"

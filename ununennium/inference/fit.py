"""A scene as a model's contract wants it: its bands by name, its unit, pixel size and CRS; refused, or aligned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import Resampling

from ununennium.config import DataConfig, SceneConfig
from ununennium.config.data import Image
from ununennium.config.parsing import make_section
from ununennium.config.predictor import FitConfig
from ununennium.data.align import in_words, metres, open_aligned, same_crs
from ununennium.data.catalog import Scene, open_scene
from ununennium.data.raster import open_raster
from ununennium.data.reader import SceneReader
from ununennium.errors import ConfigError, DataError

_ANOTHER_UNIT = 10.0
_SAMPLE_PIXELS = 256


@dataclass(frozen=True)
class FittingScene:
    """A scene that a model can be applied to.

    Attributes:
        scene: what is read; of a warped one, the warped files.
        reader: of the model's bands, in its order.
        sources: the files that were given.
    """

    scene: Scene
    reader: SceneReader
    sources: list[str]


def open_fitting(
    image: Image | Sequence[Image],
    contract: Mapping[str, Any],
    fit: FitConfig | None = None,
    *,
    name: str | None = None,
    date: str | list[str] | None = None,
    folder: Path | None = None,
) -> FittingScene:
    """Open a scene for a model.

    Args:
        image: a path, URL or mapping of bands to files; or one for each date of a stack.
        contract: the model's.
        fit: what is checked, and whether what differs is aligned.
        name: of the scene, for messages.
        date: day of the image, or of each.
        folder: where warped files go, if there are any.

    Raises:
        DataError: the scene cannot be read, or does not fit: the message says what differs.
    """
    fit = fit or FitConfig()
    given = list(image) if isinstance(image, Sequence) and not isinstance(image, str) else image
    settings = make_section(SceneConfig, {"image": given, "name": name, "date": date}, field="scene")
    scene = open_scene(settings)
    sources = list(scene.files)
    _check_dates(scene, contract)
    bands = bands_for(scene, contract)
    if problem := _grid_problem(scene, contract, fit):
        if fit.align == "refuse":
            raise DataError(problem)
        if folder is None:
            raise ConfigError("align", "warp", "needs a folder for the warped files")
        scene = _warped(settings, scene, contract, fit, folder)
        bands = bands_for(scene, contract)
    if fit.values == "check":
        _check_values(scene, bands, contract, fit)
    nodata = None if scene.nodata is not None else contract["nodata"]
    return FittingScene(scene, SceneReader(scene, bands, nodata, max_unreadable=fit.max_unreadable), sources)


def bands_for(scene: Scene, contract: Mapping[str, Any]) -> list[int | str]:
    """The bands that a model reads of a scene, in its order: by name, wherever both know names.

    Raises:
        DataError: the scene lacks one.
    """
    bands, names = list(contract["bands"]), list(contract.get("band_names") or [])
    wanted: list[int | str] = bands
    here = set(scene.band_names)
    if _are_names(names) and _are_names(scene.band_names):
        missing = [name for name in names if name not in here]
        if missing:
            raise DataError(
                f"scene {scene.name!r} has bands {', '.join(scene.band_names)}, and the model reads "
                f"{', '.join(names)}: there is no {', '.join(missing)}; give the file's bands these names "
                "(gdal_edit.py, band descriptions), or map the scene that the model is for"
            )
        wanted = list(names)
    try:
        scene.band_numbers(wanted)
    except ConfigError as error:
        raise DataError(f"the model reads bands {wanted}, and {error.remedy}") from error
    return wanted


def _are_names(names: Sequence[str]) -> bool:
    """Whether bands have been given names, each its own; ``band 3`` is what one without a name is called."""
    return bool(names) and len(set(names)) == len(names) and not any(name.startswith("band ") for name in names)


def _check_dates(scene: Scene, contract: Mapping[str, Any]) -> None:
    num_dates = contract.get("num_dates", 1)
    if scene.num_dates != num_dates:
        raise DataError(
            f"scene {scene.name!r} has {scene.num_dates} date(s), and the model reads {num_dates}; give one image for "
            "each, in the order of the training scenes"
        )


def _grid_problem(scene: Scene, contract: Mapping[str, Any], fit: FitConfig) -> str | None:
    """What differs in pixel size or CRS; None if the scene fits, or nobody knows."""
    theirs, size = contract["crs"], contract["resolution"]
    if theirs is None or scene.crs is None or size is None:
        return None
    if fit.crs == "same" and not same_crs(scene.crs, theirs):
        here, there = (rasterio.CRS.from_user_input(crs).to_string()[:60] for crs in (scene.crs, theirs))
        return (
            f"scene {scene.name!r} is in {here}, and the model was trained in {there} (crs: same); warp it first, or "
            "set align: warp"
        )
    trained_on = metres(theirs, (size[0], size[1]))
    for ours, wanted in zip(metres(scene.crs, scene.resolution), trained_on, strict=True):
        if max(ours, wanted) > (1 + fit.resolution_tolerance) * min(ours, wanted):
            return (
                f"scene {scene.name!r} has pixels of {in_words(scene)}, and the model was trained on {size[0]:g} "
                f"({wanted:g} m on the ground, not {ours:g}); resample it first (gdalwarp -tr {size[0]:g} {size[1]:g}),"
                " or set align: warp"
            )
    return None


def _warped(settings: SceneConfig, scene: Scene, contract: Mapping[str, Any], fit: FitConfig, folder: Path) -> Scene:
    """The scene on a grid of the model's pixel size: in the model's CRS if it must be, or if the scene's is in degrees
    and the model's is not; else in its own."""
    theirs = rasterio.CRS.from_user_input(contract["crs"])
    own = rasterio.CRS.from_user_input(scene.crs)
    x, y = contract["resolution"]
    keep = fit.crs == "any" and own.is_projected and theirs.is_projected
    crs = own if keep else theirs
    unit = float(theirs.linear_units_factor[1] / own.linear_units_factor[1]) if keep else 1.0
    grid = {"crs": crs.to_wkt(), "resolution": unit * (x + y) / 2}
    config = DataConfig.model_validate(
        {"scenes": [settings], "classes": ["a", "b"], "align": "warp", "grid": grid, "nodata": contract["nodata"]}
    )
    (warped,) = open_aligned([settings], config, folder)
    return warped


def _check_values(scene: Scene, bands: Sequence[int | str], contract: Mapping[str, Any], fit: FitConfig) -> None:
    """Refuse a scene in another unit: every band's values lie far below, or far above, those of training."""
    percentiles = contract["statistics"].get("percentiles") or {}
    if not {"p2", "p98"} <= percentiles.keys():  # of an older contract: nobody knows
        return
    low, high = np.asarray(percentiles["p2"]), np.asarray(percentiles["p98"])
    sample = _sample(scene, scene.band_numbers(bands), contract["nodata"])
    if sample.shape[1] == 0:
        return
    least, most = np.percentile(np.abs(sample * fit.scale + fit.offset), (2, 98), axis=1)
    below = (low > 0) & (most * _ANOTHER_UNIT < low)  # a range that reaches to zero cannot be fallen short of
    above = least > _ANOTHER_UNIT * np.maximum(abs(low), abs(high))
    if below.all() or above.all():
        first = scene.band_names[scene.band_numbers(bands)[0] - 1]
        raise DataError(
            f"scene {scene.name!r} is in another unit than the training scenes: its {first} lies in {least[0]:.4g} to "
            f"{most[0]:.4g}, theirs in {low[0]:.4g} to {high[0]:.4g}; set scale (and offset) so that its values are "
            "theirs, or values: any"
        )


def _sample(scene: Scene, bands: Sequence[int], nodata: float | None) -> Any:
    """Valid pixels (bands, number) of the first date, from an overview or every so many rows and columns."""
    nodata = scene.nodata if scene.nodata is not None else nodata
    with open_raster(scene.images[0], f"image of scene {scene.name!r}") as dataset:
        shape = tuple(max(1, min(side, _SAMPLE_PIXELS)) for side in dataset.shape)
        try:
            pixels = dataset.read(list(bands), out_shape=(len(bands), *shape), resampling=Resampling.nearest)
        except (rasterio.errors.RasterioIOError, OSError):  # mapping it says where it is damaged
            return np.empty((len(bands), 0))
    valid = np.isfinite(pixels).all(0)
    if nodata is not None and not np.isnan(nodata):
        valid &= (pixels != nodata).all(0)
    return pixels[:, valid].astype(np.float64)

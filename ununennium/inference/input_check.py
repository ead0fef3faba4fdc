"""A scene as a model's contract wants it: its bands by name, its unit, pixel size and CRS; refused, or aligned."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio.enums import Resampling

from ununennium.checkpoints.contract import ModelContract
from ununennium.config import DataConfig, SceneConfig
from ununennium.config.data import Image
from ununennium.config.parsing import make_section
from ununennium.config.predictor import InputCheckConfig
from ununennium.data.scenes.align import in_words, open_aligned, same_crs
from ununennium.data.scenes.bands import BandSet, ImagePlan, are_names
from ununennium.data.scenes.georeference import georeference
from ununennium.data.scenes.ground import metres
from ununennium.data.scenes.open import open_scene
from ununennium.data.scenes.places import crs_text
from ununennium.data.scenes.raster import open_raster, redacted_path
from ununennium.data.scenes.reader import SceneReader
from ununennium.data.scenes.scene import Scene
from ununennium.errors import ConfigError, DataError

_ANOTHER_UNIT = 10.0
_SAMPLE_PIXELS = 256


@dataclass(frozen=True)
class CheckedScene:
    """A scene that a model can be applied to.

    Attributes:
        scene: scene to read; of a warped one, the warped files.
        reader: of the model's bands, in its order.
        sources: the files that were given.
    """

    scene: Scene
    reader: SceneReader
    sources: list[str]


def open_checked(
    image: Image | Sequence[Image],
    contract: Mapping[str, Any],
    fit: InputCheckConfig | None = None,
    *,
    name: str | None = None,
    date: str | list[str] | None = None,
    folder: Path | None = None,
) -> CheckedScene:
    """Open a scene for a model.

    Args:
        image: a path, URL or mapping of bands to files; or one for each date of a stack.
        contract: the model's.
        fit: checks to make, and whether differences are aligned.
        name: of the scene, for messages.
        date: day of the image, or of each.
        folder: folder for warped files, if there are any.

    Raises:
        DataError: the scene cannot be read, or does not fit: the message says what differs.
    """
    fit, described = fit or InputCheckConfig(), ModelContract.of(contract)
    given = list(image) if isinstance(image, Sequence) and not isinstance(image, str) else image
    settings = make_section(SceneConfig, {"image": given, "name": name, "date": date}, field="scene")
    scene = open_scene(settings, max_pixels=fit.max_pixels, limit="fit.max_pixels")
    sources = list(scene.files)
    _check_dates(scene, described)
    bands = bands_for(scene, described, fit)
    problem = _placing_problem(scene, described) or _grid_problem(scene, described, fit)
    if problem and fit.align == "refuse" and scene.placed_by == "points" and scene.crs is not None:
        # Control points say where an image lies, not how large its pixels are meant to be.
        warnings.warn(f"{problem}; it is placed by ground control points, and mapped on its own pixels", stacklevel=2)
    elif problem:
        if fit.align == "refuse":
            raise DataError(problem)
        if folder is None:
            raise ConfigError("align", "warp", "needs a folder for the warped files")
        scene = _warped(settings, scene, described, fit, folder)
    if fit.values == "check":
        bands = _in_a_fitting_unit(scene, bands, described, fit)
    return CheckedScene(scene, SceneReader(scene, bands, max_unreadable=fit.max_unreadable), sources)


def bands_for(scene: Scene, contract: ModelContract, fit: InputCheckConfig | None = None) -> BandSet:
    """The bands that a model reads of a scene, in its order and unit: by name, wherever both know names.

    Args:
        scene: scene to map.
        contract: the model's.
        fit: a scale or offset in it replaces those of the scene's files.

    Raises:
        DataError: the scene lacks one.
    """
    bands = BandSet.from_contract(contract.band_entries())
    if fit is not None and (fit.scale, fit.offset) != (1.0, 0.0):
        bands = replace(bands, tags=())
    for image in scene.bands_of_images:
        names = [image.names[number - 1] for number in image.inputs]
        if are_names(bands.names) and are_names(names):
            known = {name.casefold() for name in image.names}
            missing = [name for name in bands.names if name.casefold() not in known]
            if missing:
                raise DataError(
                    f"scene {scene.name!r} has bands {', '.join(names)}, and the model reads "
                    f"{', '.join(bands.names)}: there is no {', '.join(missing)}; give the file's bands these names "
                    "(gdal_edit.py, band descriptions), or map the scene that the model is for"
                )
        try:
            ImagePlan.of(image, bands, scene.name)
        except ConfigError as error:
            raise DataError(f"the model reads bands {list(bands.bands)}, and {error.remedy}") from error
    return bands


def _check_dates(scene: Scene, contract: ModelContract) -> None:
    num_dates = contract.num_dates
    if scene.num_dates != num_dates:
        raise DataError(
            f"scene {scene.name!r} has {scene.num_dates} date(s), and the model reads {num_dates}; give one image for "
            "each, in the order of the training scenes"
        )


def _placing_problem(scene: Scene, contract: ModelContract) -> str | None:
    """The reason why a map of the scene could not be placed; None if it can, or if the model knows no ground either."""
    if scene.crs is not None or scene.placed_by in ("transform", "none"):
        return None
    with open_raster(scene.images[0], f"image of scene {scene.name!r}") as dataset:
        problem = georeference(dataset).refusal(redacted_path(scene.images[0]), "so that its map could not be placed")
    if contract.crs is not None:
        return f"scene {scene.name!r}: {problem}"
    warnings.warn(f"scene {scene.name!r}: {problem}; its map has no georeference", stacklevel=3)
    return None


def _grid_problem(scene: Scene, contract: ModelContract, fit: InputCheckConfig) -> str | None:
    """Difference in pixel size or CRS, in words; None if the scene fits, or nobody knows."""
    theirs, size = contract.crs, contract.resolution
    if theirs is None or scene.crs is None or size is None:
        return None
    if fit.crs == "same" and not same_crs(scene.crs, theirs):
        here, there = (crs_text(rasterio.CRS.from_user_input(crs).to_wkt()) for crs in (scene.crs, theirs))
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


def _warped(settings: SceneConfig, scene: Scene, contract: ModelContract, fit: InputCheckConfig, folder: Path) -> Scene:
    """The scene on a grid of the model's pixel size: in the model's CRS if it must be, or if the scene's is in degrees
    and the model's is not; else in its own."""
    theirs = rasterio.CRS.from_user_input(contract.crs)
    own = rasterio.CRS.from_user_input(scene.crs or contract.crs)
    assert contract.resolution is not None  # or there would be nothing that differs
    x, y = contract.resolution
    keep = scene.crs is not None and fit.crs == "any" and own.is_projected and theirs.is_projected
    crs = own if keep else theirs
    unit = float(theirs.linear_units_factor[1] / own.linear_units_factor[1]) if keep else 1.0
    grid = {"crs": crs.to_wkt(), "resolution": unit * (x + y) / 2}
    tagged = any(value is not None for image in scene.bands_of_images for value in image.nodata)
    nodata = None if tagged else contract.nodata
    config = DataConfig.model_validate(
        {
            "scenes": [settings],
            "classes": ["a", "b"],
            "align": "warp",
            "grid": grid,
            "nodata": nodata,
            "max_pixels": fit.max_pixels,
        }
    )
    (warped,) = open_aligned([settings], config, folder)
    return warped


def _in_a_fitting_unit(scene: Scene, bands: BandSet, contract: ModelContract, fit: InputCheckConfig) -> BandSet:
    """The bands in the unit in which the scene's values are like those of training.

    That is the unit that the files' scale and offset say. Where the training scenes had neither, they may have been
    numbers of the same product: then the numbers as they are, with a warning.

    Raises:
        DataError: the values lie far below, or far above, those of training, at some date.
    """
    problem = _value_problem(scene, bands, contract, fit)
    if problem is None:
        return bands
    untagged = all(tags == (1.0, 0.0) for tags in bands.tags)
    if bands.tags and untagged and _value_problem(scene, as_they_are := replace(bands, tags=()), contract, fit) is None:
        warnings.warn(
            f"scene {scene.name!r}: scale and offset of its files are left out, as the training scenes had none and "
            "numbers like the scene's",
            stacklevel=3,
        )
        return as_they_are
    raise DataError(problem)


def _value_problem(scene: Scene, bands: BandSet, contract: ModelContract, fit: InputCheckConfig) -> str | None:
    """Another unit, in words: at a date, every band's values lie far below, or far above, those of training."""
    percentiles = contract.statistics.get("percentiles") or {}
    if not {"p2", "p98"} <= percentiles.keys():  # of an older contract: nobody knows
        return None
    low, high = np.asarray(percentiles["p2"]), np.asarray(percentiles["p98"])
    for path, image in zip(scene.images, scene.bands_of_images, strict=True):
        sample = _sample(path, ImagePlan.of(image, bands, scene.name), f"image of scene {scene.name!r}")
        if sample.shape[1] == 0:
            continue
        least, most = np.percentile(np.abs(sample * fit.scale + fit.offset), (2, 98), axis=1)
        below = (low > 0) & (most * _ANOTHER_UNIT < low)  # a range that reaches to zero cannot be fallen short of
        above = least > _ANOTHER_UNIT * np.maximum(abs(low), abs(high))
        if below.all() or above.all():
            first = image.names[bands.numbers(image, scene.name)[0] - 1]
            return (
                f"scene {scene.name!r} is in another unit than the training scenes: its {first} lies in {least[0]:.4g} "
                f"to {most[0]:.4g}, theirs in {low[0]:.4g} to {high[0]:.4g}; set scale (and offset) so that its values "
                "are theirs, or values: any"
            )
    return None


def _sample(path: str, plan: ImagePlan, what: str) -> Any:
    """Valid pixels (bands, number) of an image, from an overview or every so many rows and columns."""
    with open_raster(path, what) as dataset:
        shape = tuple(max(1, min(side, _SAMPLE_PIXELS)) for side in dataset.shape)
        try:
            pixels, mask = _decimated(dataset, plan, shape)
        except (rasterio.errors.RasterioIOError, OSError):  # mapping it says where it is damaged
            return np.empty((len(plan.numbers), 0))
    return plan.converted(pixels)[:, plan.valid(pixels, mask)].astype(np.float64)


def _decimated(dataset: Any, plan: ImagePlan, shape: tuple[int, ...]) -> tuple[Any, Any]:
    pixels = np.stack([dataset.read(number, out_shape=shape, resampling=Resampling.nearest) for number in plan.numbers])
    masks = [dataset.read_masks(number, out_shape=shape, resampling=Resampling.nearest) for number in plan.masks]
    masks += [dataset.read(number, out_shape=shape, resampling=Resampling.nearest) for number in plan.alpha]
    return pixels, np.min(masks, axis=0) if masks else None

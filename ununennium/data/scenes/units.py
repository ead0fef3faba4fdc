"""Scenes that are read as one: notes on names and units that differ, and a refusal of units that no tag explains."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ununennium.data.scenes.bands import BandSet, ImagePlan, is_name, name_at_two_places
from ununennium.data.scenes.reader import SceneReader
from ununennium.data.scenes.scene import Scene
from ununennium.errors import ConfigError, DataError

_MOST_APART = 50.0
_FRACTION = 2.0  # what reflectances and other shares of one lie below
_MOST_CLASSES = 10.0  # whole numbers up to here are classes or counts
_WINDOWS = 3  # along rows, and along columns
_WINDOW_PIXELS = 64
_FEWEST_PIXELS = 100
_SHARES = (5.0, 50.0, 95.0)
_MOST_NAMED = 5


class Magnitude(NamedTuple):
    """Size of an image's numbers.

    Attributes:
        what: names the image.
        low, median, high: percentiles 5, 50 and 95 of each band.
        whole: whether all pixels of each band that were looked at are whole numbers.
    """

    what: str
    low: npt.NDArray[np.float64]
    median: npt.NDArray[np.float64]
    high: npt.NDArray[np.float64]
    whole: npt.NDArray[np.bool_]


def check_bands(scenes: Sequence[Scene], wanted: BandSet) -> None:
    """Warn of images whose bands are read by number beside named ones, of those whose numbers are converted, and of
    alpha bands whose names say that they are something else.

    Args:
        scenes: all scenes.
        wanted: the bands that are read of them.

    Raises:
        DataError: bands are read by number, and images name them in different orders.
    """
    images = [(scene, image) for scene in scenes for image in scene.bands_of_images]
    moved = name_at_two_places((image for _, image in images), wanted)
    if moved is not None:
        name, (one, other) = moved
        known, its = (next(scene.name for scene, each in images if each is image) for image in (one, other))
        first = scenes[0].name
        raise DataError(
            f"bands are read by number, as scene {first!r} does not name them all, but {name!r} is another band in "
            f"scene {its!r} ({', '.join(other.names)}) than in scene {known!r} ({', '.join(one.names)}); name the "
            f"bands of scene {first!r} (gdal_edit.py, band descriptions)"
        )
    unmatched = [scene for scene, image in images if not wanted.matches_names(image)]
    if unmatched:
        warnings.warn(
            f"scenes whose bands are read by number, as their files do not name them {', '.join(wanted.names)}: "
            f"{_listed([scene.name for scene in unmatched])} (with {_listed(unmatched[0].names_of())}); name them "
            "alike if their order may differ (gdal_edit.py, band descriptions)",
            stacklevel=2,
        )
    for scene, image in images:
        odd = [number for number in image.alpha if _is_no_alpha(image.names[number - 1])]
        if odd:
            warnings.warn(
                f"scene {scene.name!r}: band {odd[0]} is tagged as alpha, though it is named "
                f"{image.names[odd[0] - 1]!r}: it is no input, and where it is 0 nothing is valid; write "
                f"gdal_edit.py -colorinterp_{odd[0]} undefined if it is an image band",
                stacklevel=2,
            )
    converted = [scene for scene, image in images if ImagePlan.of(image, wanted, scene.name).conversion is not None]
    if converted:
        warnings.warn(
            f"converted to the unit of scene {scenes[0].name!r} by the scale and offset of their files: "
            f"{_listed([scene.name for scene in converted])}",
            stacklevel=2,
        )


def check_magnitudes(scenes: Sequence[Scene], wanted: BandSet, nodata: float | None) -> None:
    """Refuse images in another unit, by a look at a few parts of each.

    Two images are in different units if their ranges lie apart and their medians differ more than 50-fold, in every
    band alike: water is dark in the infrared, but not in the blue. One band is enough where fractions of one (as
    reflectances are) stand beside larger numbers. Bands with a median of 0 or below say nothing, nor do bands of a
    few whole numbers, which are classes or counts.

    Args:
        scenes: all scenes.
        wanted: the bands that are read of them.
        nodata: value without data, instead of the files' tags.

    Raises:
        ConfigError: two images are in different units.
    """
    if sum(scene.num_dates for scene in scenes) < 2:
        return
    found = [size for scene in scenes for size in _magnitudes(scene, wanted, nodata)]
    if len(found) < 2:
        return
    levels = [_level(size) for size in found]
    lowest, highest = found[int(np.argmin(levels))], found[int(np.argmax(levels))]
    pairs = [(lowest, highest)] + [(found[0], other) for other in found[1:]]
    for one, other in pairs:
        for low, high in ((one, other), (other, one)):
            band = _apart(low, high)
            if band is not None:
                name = (wanted.names or wanted.bands)[band]
                raise ConfigError(
                    "data.values",
                    "check",
                    f"{low.what} and {high.what} are in different units: {name} has medians of {low.median[band]:.4g} "
                    f"and {high.median[band]:.4g}; write scale and offset into the files (gdal_edit.py -scale 0.0001 "
                    "-offset 0), by which numbers are converted, or leave one out; data.values: any if they are right",
                )


def _apart(low: Magnitude, high: Magnitude) -> int | None:
    """A band by which one image is in a smaller unit than another; None if nothing says so."""
    comparable = (low.median > 0) & (high.median > 0) & ~(low.whole & (low.high <= _MOST_CLASSES))
    apart = comparable & (low.median * _MOST_APART < high.median) & (low.high < high.low)
    if comparable.any() and apart[comparable].all():
        return int(np.flatnonzero(apart)[0])
    fractions = apart & ~low.whole & (low.high <= _FRACTION) & (high.low > _FRACTION)
    return int(np.flatnonzero(fractions)[0]) if fractions.any() else None


def _level(size: Magnitude) -> float:
    positive = size.median[size.median > 0]
    return float(np.log(positive).mean()) if len(positive) else 0.0


def _magnitudes(scene: Scene, wanted: BandSet, nodata: float | None) -> Iterator[Magnitude]:
    """Sizes of the numbers of each date that has enough valid pixels where it is looked at."""
    reader = SceneReader(scene, wanted, nodata)
    parts = []
    for window in _windows(scene):
        try:
            pixels, valid = reader.decode(*window)
        except DataError:  # the index says where a file is damaged
            continue
        parts.append(pixels[:, valid])
    values: npt.NDArray[Any] = np.concatenate(parts, axis=1) if parts else np.empty((reader.num_channels, 0))
    if values.shape[1] < _FEWEST_PIXELS:
        return
    for date, of_date in enumerate(values.reshape(scene.num_dates, -1, values.shape[1])):
        low, median, high = np.percentile(of_date, _SHARES, axis=1)
        when = f", date {date + 1}," if scene.num_dates > 1 else ""
        yield Magnitude(f"scene {scene.name!r}{when}", low, median, high, (of_date % 1 == 0).all(1))


def _windows(scene: Scene) -> Iterator[tuple[int, int, int, int]]:
    """A few windows, spread over the scene."""
    height, width = min(_WINDOW_PIXELS, scene.height // _WINDOWS), min(_WINDOW_PIXELS, scene.width // _WINDOWS)
    for row in range(_WINDOWS):
        for col in range(_WINDOWS):
            top = (2 * row + 1) * scene.height // (2 * _WINDOWS) - height // 2
            left = (2 * col + 1) * scene.width // (2 * _WINDOWS) - width // 2
            yield max(top, 0), max(left, 0), max(height, 1), max(width, 1)


def _is_no_alpha(name: str) -> bool:
    return (
        is_name(name)
        and name.casefold() != "a"
        and not any(word in name.casefold() for word in ("alpha", "mask", "opacity", "transparen"))
    )


def _listed(names: Sequence[str]) -> str:
    found = list(dict.fromkeys(names))
    more = f" and {len(found) - _MOST_NAMED} more" if len(found) > _MOST_NAMED else ""
    return ", ".join(found[:_MOST_NAMED]) + more

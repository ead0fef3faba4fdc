"""Augmentation of training chips on the CPU; every random number comes from the generator that is passed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.config import AugmentConfig
from ununennium.data.scenes.reader import BoolArray, FloatArray
from ununennium.errors import ConfigError

Array = npt.NDArray[Any]


def turn(arrays: Sequence[Array], config: AugmentConfig, rng: np.random.Generator) -> list[Array]:
    """Turn and mirror arrays alike.

    Args:
        arrays: of any dtype, (..., size, size).
        config: augmentations to apply.
        rng: decides them; a function of (seed, epoch, chip).

    Returns:
        Views.
    """
    turned = list(arrays)
    if config.quarter_turns:
        turns = int(rng.integers(4))
        turned = [np.rot90(array, turns, (-2, -1)) for array in turned]
    if config.flips:
        for axis in (-2, -1):
            if rng.random() < 0.5:
                turned = [np.flip(array, axis) for array in turned]
    return turned


def zoom(
    image: FloatArray,
    valid: BoolArray | None,
    target: Array,
    outside: int | float,
    config: AugmentConfig,
    rng: np.random.Generator,
) -> BoolArray | None:
    """Show a chip larger or smaller about its centre, in place: bilinear pixels, nearest labels and mask.

    Invalid pixels do not bleed: the weights of the valid ones are scaled up to 1.

    Args:
        image: float32 (bands, size, size), normalised, 0 where invalid.
        valid: bool (size, size); None where that is everything.
        target: of any dtype, (..., size, size).
        outside: target value beyond the chip's edge.
        config: how strong.
        rng: decides the factor; a function of (seed, epoch, chip).

    Returns:
        What is valid now, as ``valid``.
    """
    if not config.scale:
        return valid
    factor = (1.0 + config.scale) ** rng.uniform(-1.0, 1.0)
    size = image.shape[-1]
    position = (np.arange(size) - (size - 1) / 2) / factor + (size - 1) / 2
    nearest = np.floor(position + 0.5).astype(np.int64)
    inside = (nearest >= 0) & (nearest < size)
    nearest = np.clip(nearest, 0, size - 1)
    pixels = image if valid is None else np.concatenate([image, valid[None].astype(np.float32)])
    for axis in (-2, -1):
        pixels = _interpolate(pixels, position, axis)
    if valid is not None:
        pixels = pixels[:-1] / np.maximum(pixels[-1:], np.float32(1e-6))
    image[...] = pixels
    there: BoolArray = inside[:, None] & inside
    target[...] = np.where(there, target[..., nearest[:, None], nearest], outside)
    if valid is not None:
        there &= valid[nearest[:, None], nearest]
    if there.all():
        return None
    np.copyto(image, 0.0, where=~there)
    return there


def _interpolate(pixels: FloatArray, position: npt.NDArray[np.float64], axis: int) -> FloatArray:
    """Linear between neighbours along an axis; beyond the ends it goes on as it ends."""
    last = pixels.shape[axis] - 1
    lower = np.floor(position)
    weight = (position - lower).astype(np.float32)
    if axis == -2:
        weight = weight[:, None]
    low, high = (np.clip(lower + step, 0, last).astype(np.int64) for step in (0, 1))
    below = pixels.take(low, axis)
    above: FloatArray = pixels.take(high, axis)
    above -= below
    above *= weight
    above += below
    return above


def drop_bands(image: FloatArray, config: AugmentConfig, rng: np.random.Generator) -> None:
    """Set bands of a normalised chip to their mean, which is 0, in place, at every date; one always stays.

    Args:
        image: float32 (dates, bands, size, size), normalised.
        config: with which probability.
        rng: decides which; a function of (seed, epoch, chip).
    """
    if config.band_dropout:
        draws: npt.NDArray[np.float64] = rng.random(image.shape[1:2])
        dropped = draws < config.band_dropout
        dropped[draws.argmax()] = False
        image[:, dropped] = 0.0


def shade(image: FloatArray, valid: BoolArray | None, config: AugmentConfig, rng: np.random.Generator) -> None:
    """Change the brightness and contrast of a chip, and add noise, in place; invalid pixels stay 0.

    Args:
        image: float32 (bands, size, size), normalised.
        valid: bool (size, size); None where that is everything.
        config: how strong.
        rng: decides the changes; a function of (seed, epoch, chip).
    """
    if config.contrast or config.brightness or config.noise:
        factor = 1.0 + config.contrast * rng.standard_normal()
        shift = config.brightness * rng.standard_normal()
        image *= np.float32(factor)
        image += np.float32(shift)
        if config.noise:
            image += np.float32(config.noise) * rng.standard_normal(image.shape, np.float32)
        if valid is not None:
            np.copyto(image, 0.0, where=~valid)


def apply_own(
    transform: Callable[..., Any], image: FloatArray, mask: BoolArray | None, target: Array, rng: np.random.Generator
) -> None:
    """A user's change of a chip, in place.

    Args:
        transform: called with copies of image and target and with ``rng``; returns both.
        image: float32 (channels, size, size).
        mask: bool (size, size), valid pixels, which keep being 0 elsewhere; None where all are.
        target: (size, size).
        rng: of the chip.

    Raises:
        ConfigError: it returns something else than two arrays of the same shapes.
    """
    returned = transform(image.copy(), target.copy(), rng)
    try:
        changed, labels = (np.asarray(part) for part in returned)
    except (TypeError, ValueError) as error:
        remedy = f"returns {type(returned).__name__}; return the image and the target"
        raise ConfigError("data.augment.transform", transform, remedy) from error
    if changed.shape != image.shape or labels.shape != target.shape:
        remedy = f"returns shapes {changed.shape} and {labels.shape}; keep {image.shape} and {target.shape}"
        raise ConfigError("data.augment.transform", transform, remedy)
    image[...], target[...] = changed, labels
    if mask is not None:
        np.copyto(image, 0.0, where=~mask)

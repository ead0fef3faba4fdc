"""Augmentation of training chips on the CPU; every random number comes from the generator that is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.config import AugmentConfig
from ununennium.data.reader import BoolArray, FloatArray

Array = npt.NDArray[Any]


def turn(arrays: Sequence[Array], config: AugmentConfig, rng: np.random.Generator) -> list[Array]:
    """Turn and mirror arrays alike.

    Args:
        arrays: of any dtype, (..., size, size).
        config: which changes.
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

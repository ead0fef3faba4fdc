"""Augmentation of training chips on the CPU; every random number comes from the generator that is passed in."""

from __future__ import annotations

import numpy as np

from ununennium.config import AugmentConfig
from ununennium.data.labels import LabelArray
from ununennium.data.reader import BoolArray, FloatArray


def augment(
    image: FloatArray, valid: BoolArray, target: LabelArray, config: AugmentConfig, rng: np.random.Generator
) -> tuple[FloatArray, LabelArray]:
    """Turn, mirror and shade a normalised chip; labels move with their pixels, invalid pixels stay 0.

    Args:
        image: float32 (bands, size, size), normalised.
        valid: bool (size, size).
        target: int64 (size, size).
        config: which changes, and how strong.
        rng: decides them; a function of (seed, epoch, chip).

    Returns:
        Image and target, contiguous, of the same shapes.
    """
    if config.quarter_turns:
        turns = int(rng.integers(4))
        image, valid, target = np.rot90(image, turns, (1, 2)), np.rot90(valid, turns), np.rot90(target, turns)
    if config.flips:
        for axis in (0, 1):
            if rng.random() < 0.5:
                image, valid, target = np.flip(image, axis + 1), np.flip(valid, axis), np.flip(target, axis)
    if config.contrast or config.brightness or config.noise:
        factor = 1.0 + config.contrast * rng.standard_normal()
        shift = config.brightness * rng.standard_normal()
        image = image * np.float32(factor) + np.float32(shift)
        if config.noise:
            image = image + np.float32(config.noise) * rng.standard_normal(image.shape, np.float32)
        image[:, ~valid] = 0.0
    return np.ascontiguousarray(image), np.ascontiguousarray(target)

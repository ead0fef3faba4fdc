"""Layers that are kept of each predicted strip; the probabilities of a whole scene are never held at once."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.moved import former_arguments
from ununennium.prediction.map_kinds import MapKind
from ununennium.prediction.strips import Strip
from ununennium.prediction.writers import NODATA, PROBABILITY_STEP

MAP, VALID, PROBABILITIES, CONFIDENCE = "map", "valid", "probabilities", "confidence"


@former_arguments(band="strip")
def layers_of(strip: Strip, kind: MapKind, outputs: Collection[str]) -> dict[str, npt.NDArray[Any]]:
    """The layers of a strip that ``outputs`` are made of.

    Args:
        strip: as it was predicted.
        kind: of the map, by the model's task.
        outputs: outputs to write.

    Returns:
        ``map`` as ``kind.predict`` gives it, classes as uint8; ``valid``; and, each uint8 in steps of 0.004 with 255
        without data, ``probabilities`` (K, rows, width) and ``confidence`` (rows, width), the predicted class's own.
    """
    predicted = kind.predict(strip)
    values = predicted.dtype.kind == "f"
    layers = {MAP: predicted if values else predicted.astype(np.uint8), VALID: strip.valid}
    if "probabilities" in outputs:
        layers[PROBABILITIES] = np.stack([quantised(plane, strip.valid) for plane in strip.probabilities])
    if "confidence" in outputs:
        layers[CONFIDENCE] = quantised(strip.probabilities.max(0), strip.valid)
    return layers


def quantised(probabilities: npt.NDArray[np.float32], valid: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Probabilities (rows, width) in steps of 0.004, 255 without data."""
    steps: npt.NDArray[np.uint8] = np.rint(probabilities / PROBABILITY_STEP).astype(np.uint8)
    steps[~valid] = NODATA
    return steps

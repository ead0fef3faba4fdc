"""Areas of a holdout that are mapped as each class: the strata of the estimate of areas."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ununennium.data.ground import GroundTally
from ununennium.evaluation.areas import estimate_areas, shares
from ununennium.evaluation.bootstrap import drawn_values, expanded_interval, num_resamples
from ununennium.evaluation.evaluation import Areas
from ununennium.evaluation.units import Units

_CONFIDENCE = 0.95


class MappedArea:
    """Sums of what is mapped, in pixels and in square metres on the ellipsoid.

    Args:
        num_classes: classes K.
    """

    def __init__(self, num_classes: int) -> None:
        self._pixels = np.zeros(num_classes, np.int64)
        self._m2: npt.NDArray[np.float64] | None = np.zeros(num_classes)

    def add(self, counted: GroundTally) -> None:
        """Add what is counted of a scene; square metres are unknown where one scene's are."""
        self._pixels = self._pixels + counted.pixels
        self._m2 = None if counted.m2 is None or self._m2 is None else self._m2 + counted.m2

    def areas(self, units: Units, classes: list[str]) -> Areas:
        """The estimate, with the labels that ``units`` (of pixels or patches) count."""
        number = len(classes)
        confusions = units.sums[:, : number**2].reshape(-1, number, number)
        measured = self._pixels if self._m2 is None else self._m2
        weight = measured / measured.sum()
        places = np.array(list(units.places().values()))[:, : number**2]
        intervals: list[tuple[float, float] | None] = [None] * number
        resamples = num_resamples(len(places), _CONFIDENCE)
        if resamples is not None:
            sampled = drawn_values(
                places, lambda sums: shares(sums.reshape(-1, number, number), weight), resamples=resamples
            )
            intervals = [expanded_interval(values, len(places), _CONFIDENCE) for values in sampled.T]
        return estimate_areas(
            confusions.sum(0),
            self._pixels.tolist(),
            classes,
            mapped_m2=None if self._m2 is None else self._m2.tolist(),
            intervals=intervals,
        )

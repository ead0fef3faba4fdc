"""Areas of a holdout that are mapped as each class: the strata of the estimate of areas."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ununennium.data.scenes.ground import GroundTally
from ununennium.evaluation.areas import Interval, Intervals, estimate_areas, estimates
from ununennium.evaluation.block_sums import BlockSums
from ununennium.evaluation.bootstrap import drawn_values, expanded_interval, num_resamples
from ununennium.evaluation.evaluation import Areas
from ununennium.evaluation.measures import ClassMeasures

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

    def areas(self, units: BlockSums, measures: ClassMeasures, pixels_per_label: float = 1.0) -> Areas:
        """The estimate, with the labels that ``units`` (of pixels or patches) count."""
        confusions = measures.confusion(units.sums)
        measured = self._pixels if self._m2 is None else self._m2
        return estimate_areas(
            confusions.sum(0),
            self._pixels.tolist(),
            measures.classes,
            mapped_m2=None if self._m2 is None else self._m2.tolist(),
            pixels_per_label=pixels_per_label,
            intervals=_intervals(np.array(list(units.places().values())), measures, measured / measured.sum()),
        )


def _intervals(blocks: npt.NDArray[np.float64], measures: ClassMeasures, weight: npt.NDArray[np.float64]) -> Intervals:
    """By drawing places (P, S); each rests on the places that have its class in the labels or on the map."""
    number = len(measures.classes)
    informs = (measures.labelled(blocks, "IoU") + measures.predicted(blocks, "IoU") > 0).sum(0).tolist()
    counts = [*informs, *informs, *informs, len(blocks)]
    needed = [num_resamples(count, _CONFIDENCE) for count in counts]
    most = max((each for each in needed if each is not None), default=0)
    if not most:
        nothing: list[Interval | None] = [None] * number
        return Intervals(nothing, nothing, nothing, None)
    matrices = blocks[:, : number**2]
    whole = matrices.sum(0).reshape(number, number)
    drawn = drawn_values(
        matrices, lambda sums: estimates(sums.reshape(-1, number, number), weight, whole), resamples=most
    )
    found = [
        None if draws is None else expanded_interval(values, count, _CONFIDENCE)
        for values, count, draws in zip(drawn.T, counts, needed, strict=True)
    ]
    return Intervals(found[:number], found[number : 2 * number], found[2 * number : 3 * number], found[-1])

"""Parts of a holdout, each with its own metrics, and the worst of them in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.data.scenes.places import window_text
from ununennium.evaluation.block_sums import BlockSums
from ununennium.evaluation.evaluation import Slice
from ununennium.evaluation.measures import FloatArray, Measures, measures_of, metrics_of, value_in
from ununennium.tasks import goodness

SCENE, DATE, BLOCK = "scene", "date", "block"
WORST_BLOCKS = 10
_NAMED = 3


def slices_of(units: BlockSums, classes: Sequence[str]) -> list[Slice]:
    """A slice for each scene, date and value of an attribute, and for the ``WORST_BLOCKS`` blocks.

    Dates and attributes that do not tell scenes apart make no slice.
    """
    measures = measures_of(units.kind, classes)
    found = [
        _slice(by, value, units.of(chosen), measures)
        for by in ways(units)
        for value, chosen in parts(units, by)
        if chosen.any()
    ]
    return [*found, *_worst_blocks(units, measures)]


def ways(units: BlockSums) -> list[str]:
    """Keys by which a holdout can be sliced: ``scene``, ``date``, attributes."""
    names = dict.fromkeys(name for scene in units.scenes for name in scene.attributes)
    told_apart = [DATE, *names] if len(units.scenes) > 1 else []
    return [SCENE, *(by for by in told_apart if len({_value(units, number, by) for number in _used(units)}) > 1)]


def parts(units: BlockSums, by: str) -> Iterator[tuple[str, npt.NDArray[np.bool_]]]:
    """The values that ``by`` takes, and which units (U,) have each."""
    values = np.array([_value(units, number, by) for number in range(len(units.scenes))])
    for value in dict.fromkeys(values.tolist()):
        yield value, (values == value)[units.scene]


def worst_in_words(slices: Sequence[Slice], metric: str) -> list[str]:
    """The worst part of each kind, where there are several, by ``metric``; at most three blocks."""
    said = []
    for by in dict.fromkeys(part.by for part in slices):
        group = [part for part in slices if part.by == by]
        values = [(part, value_in(part.metrics, metric)) for part in group]
        measured = [(part, value) for part, value in values if value is not None and math.isfinite(value)]
        if len(group) < 2 or not measured:
            continue
        measured.sort(key=lambda pair: goodness(metric, pair[1]))
        for part, value in measured[: _NAMED if by == BLOCK else 1]:
            where = part.value if by == BLOCK else f"{by} {part.value}"
            said.append(f"worst {by}: {where}, {metric} {value:.4f} over {part.num_pixels:,} labelled")
    return said


def _worst_blocks(units: BlockSums, measures: Measures) -> list[Slice]:
    """The blocks in which most is wrong: wrong pixels, patches or classes of patches, or summed squared errors."""
    wrong = units.sums[:, 2] if units.kind == "values" else _num_wrong(units, measures)
    found = []
    for unit in np.argsort(-wrong, kind="stable")[:WORST_BLOCKS].tolist():
        top, left, height, width = units.window(unit)
        name = units.scenes[int(units.scene[unit])].name
        value = f"{name} {window_text(top, left, height, width)}"
        chosen = np.zeros(len(units), np.bool_)
        chosen[unit] = True
        found.append(_slice(BLOCK, value, units.of(chosen), measures))
    return found


def _num_wrong(units: BlockSums, measures: Measures) -> FloatArray:
    accuracy = measures.overall(units.sums)["accuracy"]
    wrong: FloatArray = np.nan_to_num(measures.counted(units.sums) * (1 - accuracy))
    return wrong


def _slice(by: str, value: str, units: BlockSums, measures: Measures) -> Slice:
    return Slice(
        by=by,
        value=value,
        num_pixels=int(measures.counted(units.total)),
        num_places=len(units.places()),
        metrics=metrics_of(measures, units.total),
    )


def _value(units: BlockSums, number: int, by: str) -> str:
    scene = units.scenes[number]
    given: Any = {SCENE: scene.name, DATE: scene.date}.get(by, scene.attributes.get(by))
    return "unknown" if given is None else str(given)


def _used(units: BlockSums) -> list[int]:
    """The scenes that have a unit."""
    return sorted(set(units.scene.tolist()))

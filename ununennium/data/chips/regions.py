"""Regions: the parts of scenes that are decoded at once, so that shuffled chips cost little more than ordered ones.

A chip drawn anywhere in a large scene would decode every block that it touches, for itself alone. Instead an epoch goes
through regions, each decoded once and kept while its chips are drawn; as many regions are in use at the same time as
there are *lanes*, so that every batch still mixes far-away places. What all lanes hold fits into the memory budget.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ununennium.data.chips.randomness import generator
from ununennium.data.scenes.scene import Scene
from ununennium.errors import ConfigError
from ununennium.moved import former_attribute

LANES = 8
"""Places that a batch mixes."""
UNIT = 64
"""Regions begin and end at multiples of so many pixels, or at a scene's edge."""

_BITS = 20  # of a region's row and column in its number

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """A part of a scene.

    Attributes:
        scene_index: of the scene, in the index.
        row, col: its first row and column.
        height, width: in pixels.
    """

    scene_index: int
    row: int
    col: int
    height: int
    width: int

    place = former_attribute("Window", "place", "scene_index")


class Regions:
    """The regions of all scenes, anew in each epoch: their borders move, so that chips lie across all of them in turn.

    Args:
        scenes: to be cut.
        bytes_per_pixel: of each scene when decoded, with all that is kept beside its channels.
        chip_size: a chip lies inside one region.
        budget_bytes: memory limit of all regions in use.
        seed: of the borders.

    Attributes:
        lanes: regions that are in use at the same time; 0 if all scenes fit into the budget together.
        shapes: int64 (scenes, 2): height and width of each scene's regions.

    Raises:
        ConfigError: the budget is too small for a single chip.
    """

    def __init__(
        self, scenes: Sequence[Scene], bytes_per_pixel: Sequence[int], chip_size: int, budget_bytes: int, seed: int
    ) -> None:
        self.bytes_per_pixel = list(bytes_per_pixel)
        self._seed = seed
        self._shifted: tuple[int, IntArray] | None = None
        self._sizes = np.array([(scene.height, scene.width) for scene in scenes], np.int64)
        smallest = self._smallest = math.ceil(chip_size / UNIT) * UNIT
        needed = max(
            min(smallest, scene.height) * min(smallest, scene.width) * each
            for scene, each in zip(scenes, bytes_per_pixel, strict=True)
        )
        if needed > budget_bytes:
            raise ConfigError(
                "data.cache_mb",
                budget_bytes >> 20,
                f"a chip of {chip_size} pixels takes {math.ceil(needed / 2**20)} MB when decoded; give at least that, "
                "or lower data.chip_size",
            )
        whole = sum(size[0] * size[1] * each for size, each in zip(self._sizes, bytes_per_pixel, strict=True))
        self.lanes = 0 if whole <= budget_bytes else min(LANES, budget_bytes // needed)
        share = budget_bytes // max(1, self.lanes)
        shapes, steps = [], []
        for scene, each in zip(scenes, bytes_per_pixel, strict=True):
            shape, step = _shape(scene, share // each, smallest)
            shapes.append(shape)
            steps.append(step)
        self.shapes = np.array(shapes, np.int64)
        self._steps = np.array(steps, np.int64)

    def of(self, places: IntArray, epoch: int) -> IntArray:
        """The regions in which pixels lie in an epoch.

        Args:
            places: int64 (N, 3): scene, row and column.
            epoch: counted from 0.

        Returns:
            int64 (N,): numbers of regions, for ``window``.
        """
        scene, position = places[:, 0], places[:, 1:]
        row, col = ((position + self._shifts(epoch)[scene]) // self.shapes[scene]).T
        numbers: IntArray = (scene << 2 * _BITS) | (row << _BITS) | col
        return numbers

    def window(self, region: int, epoch: int) -> Window:
        """The window of a region; at a scene's edges it is smaller, but a chip always fits."""
        scene_index, mask = region >> 2 * _BITS, (1 << _BITS) - 1
        ends = []
        for axis, number in enumerate((region >> _BITS & mask, region & mask)):
            side, size = int(self.shapes[scene_index, axis]), int(self._sizes[scene_index, axis])
            first = number * side - int(self._shifts(epoch)[scene_index, axis])
            low, high = max(first, 0), min(first + side, size)
            least = min(self._smallest, size)
            ends.append((max(0, high - least), high) if first > 0 and high - low < least else (low, max(high, least)))
        (top, bottom), (left, right) = ends
        return Window(scene_index, top, left, bottom - top, right - left)

    def num_bytes(self, window: Window) -> int:
        """Size of a decoded window in bytes."""
        return window.height * window.width * self.bytes_per_pixel[window.scene_index]

    def _shifts(self, epoch: int) -> IntArray:
        """Pixels by which the grid of each scene is moved up and left, int64 (scenes, 2)."""
        if self._shifted is None or self._shifted[0] != epoch:
            self._shifted = epoch, self._draw_shifts(epoch)
        return self._shifted[1]

    def _draw_shifts(self, epoch: int) -> IntArray:
        draws = generator("borders", self._seed, epoch).random(self.shapes.shape)
        shifts: IntArray = (draws * (self.shapes // self._steps)).astype(np.int64) * self._steps
        shifts[self.shapes == self._sizes] = 0
        return shifts


def bucketed_order(regions: IntArray, lanes: int, rng: np.random.Generator) -> IntArray:
    """A random order of chips that uses ``lanes`` regions at a time.

    Regions are shuffled, and chips within each. The sequence is cut into ``lanes`` parts of equal length, and the order
    takes one chip of each part in turn.

    Args:
        regions: int64 (N,): the region of each chip.
        lanes: parts; 0 for an order that is random altogether.
        rng: of the shuffles.

    Returns:
        A permutation of 0 .. N - 1, int64.
    """
    chips = rng.permutation(len(regions))
    if not lanes or not len(regions):
        return chips
    _, numbers = np.unique(regions, return_inverse=True)
    turn = rng.permutation(int(numbers.max()) + 1)
    chips = chips[np.argsort(turn[numbers[chips]], kind="stable")]
    length = math.ceil(len(chips) / lanes)
    table = np.full((lanes, length), -1, np.int64)
    for lane, part in enumerate(np.array_split(chips, lanes)):
        table[lane, : len(part)] = part
    order = table.T.ravel()
    return order[order >= 0]


def _shape(scene: Scene, most_pixels: int, smallest: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Height and width of a scene's regions, and the steps in which their borders move.

    As square as the file's blocks allow, so that each block is decoded in one region only; where blocks are too large
    for that, as square as the budget allows.
    """
    if scene.height * scene.width <= most_pixels:
        return (scene.height, scene.width), (1, 1)
    units = [_unit(block, length) for block, length in zip(scene.block_shape, (scene.height, scene.width), strict=True)]
    for unit_rows, unit_cols in (units, [UNIT, UNIT]):
        best = (0, 0)
        for cols in range(unit_cols, scene.width + unit_cols, unit_cols):
            width = min(cols, scene.width)
            height = min(most_pixels // width // unit_rows * unit_rows, scene.height)
            if height >= min(smallest, scene.height) and width >= min(smallest, scene.width):
                best = max(best, (height, width), key=lambda shape: (min(shape), shape[0] * shape[1]))
        if min(best):
            return best, (_step(best[0], unit_rows), _step(best[1], unit_cols))
    side = min(smallest, scene.height), min(smallest, scene.width)
    return side, (_step(side[0], UNIT), _step(side[1], UNIT))


def _step(side: int, unit: int) -> int:
    """A step that leaves a side of a region at least two places to begin at, where that can be."""
    return min(side, unit if 2 * unit <= side else UNIT)


def _unit(block: int, length: int) -> int:
    """Multiple of ``UNIT`` that keeps to a file's blocks, where there is one that is not absurdly large."""
    unit = math.lcm(block, UNIT)
    if unit <= max(UNIT, 2 * block):
        return unit
    return length if block >= length else UNIT

"""Polygons of a class map that lie across any number of its row bands, in memory for those that are still open.

Each band of rows is traced by itself, in whole pixels. What touches the border to the next band stays open, and is
joined with what continues it there: pieces of one class whose edges on the border overlap. A polygon is handed out as
soon as no later band can continue it, so that memory depends on the outlines that cross a border, not on the scene.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import rasterio
import shapely
from rasterio.features import shapes
from rasterio.windows import Window

from ununennium.data.scenes.raster import bounded_cache

_BAND_PIXELS = 2**22


class _Edge(NamedTuple):
    """Columns of a border that a piece lies at, from ``first`` to before ``stop``."""

    first: int
    stop: int
    piece: int


class _Open:
    """Pieces of polygons that may go on below."""

    def __init__(self) -> None:
        self.number: dict[int, int] = {}
        self.pieces: dict[int, list[Any]] = {}
        self._parent: dict[int, int] = {}
        self._next = 0

    def add(self, number: int, piece: Any) -> int:
        """A piece of a class by itself; returns its key."""
        key, self._next = self._next, self._next + 1
        self._parent[key], self.number[key], self.pieces[key] = key, number, [piece]
        return key

    def root(self, key: int) -> int:
        """The key by which the polygon of a piece is known now."""
        while self._parent[key] != key:
            self._parent[key] = self._parent[self._parent[key]]
            key = self._parent[key]
        return key

    def join(self, one: int, other: int) -> None:
        """Two pieces are of one polygon."""
        one, other = self.root(one), self.root(other)
        if one == other or self.number[one] != self.number[other]:
            return
        if len(self.pieces[one]) < len(self.pieces[other]):
            one, other = other, one
        self.pieces[one] += self.pieces.pop(other)
        self._parent[other] = one

    def take_closed(self, border: Iterable[_Edge]) -> Iterator[tuple[int, Any]]:
        """Hand out what does not reach the border, and forget it."""
        going_on = {self.root(edge.piece) for edge in border}
        for key in [key for key in self.pieces if key not in going_on]:
            yield self.number[key], _union(self.pieces.pop(key))
        roots = {key: self.root(key) for key in self._parent}
        self._parent = {key: root for key, root in roots.items() if root in going_on}
        self.number = {key: self.number[key] for key in self._parent}


def trace(bands: Iterable[tuple[int, npt.NDArray[np.uint8]]], classes: Collection[int]) -> Iterator[tuple[int, Any]]:
    """Trace the connected areas of classes (pixels that share an edge).

    Args:
        bands: (first row, class numbers uint8 (rows, columns)) from the top down, without a gap.
        classes: numbers of those to trace; all else, such as 255 without data, is left out.

    Yields:
        (class number, shapely Polygon in columns and rows of the map), in no order but always the same.
    """
    unfinished = _Open()
    border: list[_Edge] = []
    for row, values in bands:
        stop = row + len(values)
        begun: list[_Edge] = []
        ends: list[_Edge] = []
        shift = rasterio.Affine.translation(0, row)
        wanted = np.isin(values, list(classes))
        for geometry, number in shapes(values, mask=wanted, connectivity=4, transform=shift):
            rings = [np.asarray(ring) for ring in geometry["coordinates"]]
            top, bottom = rings[0][:, 1].min(), rings[0][:, 1].max()
            piece = shapely.Polygon(rings[0], rings[1:])
            if top > row and bottom < stop:
                yield int(number), piece
                continue
            key = unfinished.add(int(number), piece)
            begun += [_Edge(*columns, key) for columns in _columns_at(rings, row)]
            ends += [_Edge(*columns, key) for columns in _columns_at(rings, stop)]
        for above, below in _touching(border, sorted(begun)):
            unfinished.join(above.piece, below.piece)
        border = sorted(ends)
        yield from unfinished.take_closed(border)
    yield from unfinished.take_closed([])


def trace_map(path: str | Path, classes: Collection[int]) -> Iterator[tuple[int, Any]]:
    """``trace`` a class map, a file as ``ClassMapWriter`` writes it."""
    with rasterio.open(path) as dataset:
        block = dataset.block_shapes[0][0]
        rows = max(block, _BAND_PIXELS // dataset.width // block * block)

        def read() -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
            for row in range(0, dataset.height, rows):
                window = Window(0, row, dataset.width, min(rows, dataset.height - row))
                with bounded_cache():
                    values = dataset.read(1, window=window)
                yield row, values

        yield from trace(read(), classes)


def _columns_at(rings: list[npt.NDArray[Any]], row: int) -> Iterator[tuple[int, int]]:
    """The columns along which a piece lies at the border ``row``."""
    for ring in rings:
        at = ring[:, 1] == row
        for position in np.flatnonzero(at[:-1] & at[1:]):
            first, stop = sorted((int(ring[position, 0]), int(ring[position + 1, 0])))
            yield first, stop


def _touching(above: list[_Edge], below: list[_Edge]) -> Iterator[tuple[_Edge, _Edge]]:
    """Pairs of edges, one of each sorted list, that share a pixel's side."""
    start = 0
    for edge in below:
        while start < len(above) and above[start].stop <= edge.first:
            start += 1
        position = start
        while position < len(above) and above[position].first < edge.stop:
            yield above[position], edge
            position += 1


def _union(pieces: list[Any]) -> Any:
    """One polygon, without the corners that the borders between its pieces left on straight edges."""
    return pieces[0] if len(pieces) == 1 else shapely.simplify(shapely.union_all(pieces), 0.0)

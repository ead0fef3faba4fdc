"""Sums per spatial block of each scene: what intervals, slices and maps of errors are made of.

Blocks are those of the split, on the grid that scenes of one CRS and resolution share; what lies on one ground block in
several scenes (dates of a place) is one *place*. Neighbouring pixels err together, so places, not pixels, are what a
holdout has many of, and what the bootstrap draws.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ununennium.evaluation.measures import FloatArray, Kind

IntArray = npt.NDArray[np.int64]
Place = tuple[str, int, int]
"""Grid, row and column of blocks."""


@dataclass(frozen=True)
class BlockScene:
    """A scene of a holdout.

    Attributes:
        name: of the scene.
        grid: name of the grid on which its blocks lie.
        origin: row and column of its first pixel on that grid.
        date: day of its (last) image, if it is known.
        attributes: further attributes from its catalogue, such as ``{"sensor": "sentinel-2a"}``.
        shape: rows and columns; None where an earlier version did not keep them.
    """

    name: str
    grid: str
    origin: tuple[int, int]
    date: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    shape: tuple[int, int] | None = None


@dataclass(frozen=True)
class BlockSums:
    """Sums of counts in each block of each scene.

    Attributes:
        kind: kind of sums, see ``ununennium.evaluation.measures``.
        block_size: side of a block in pixels.
        scenes: the scenes.
        scene: int64 (U,), the place in ``scenes`` of each unit's scene.
        row: int64 (U,), its row of blocks on the scene's grid.
        col: int64 (U,), its column of blocks.
        sums: float64 (U, S).
    """

    kind: Kind
    block_size: int
    scenes: tuple[BlockScene, ...]
    scene: IntArray
    row: IntArray
    col: IntArray
    sums: FloatArray

    def __len__(self) -> int:
        return len(self.scene)

    @property
    def total(self) -> FloatArray:
        """The sum of all units (S,)."""
        total: FloatArray = self.sums.sum(0)
        return total

    def window(self, unit: int) -> tuple[int, int, int, int]:
        """Row, column, height and width of the part of a unit's block that lies in its scene, in the scene's pixels."""
        scene, size = self.scenes[int(self.scene[unit])], self.block_size
        spans = []
        for number, origin, side in zip(
            (self.row[unit], self.col[unit]), scene.origin, scene.shape or (None, None), strict=True
        ):
            first = int(number) * size - origin
            stop = first + size if side is None else min(first + size, side)
            spans.append((max(first, 0), max(stop - max(first, 0), 1)))
        (top, height), (left, width) = spans
        return top, left, height, width

    def places(self) -> dict[Place, FloatArray]:
        """The sums (S,) of each place."""
        found: dict[Place, FloatArray] = {}
        for scene, row, col, sums in zip(
            self.scene.tolist(), self.row.tolist(), self.col.tolist(), self.sums, strict=True
        ):
            key = self.scenes[scene].grid, row, col
            found[key] = found[key] + sums if key in found else sums
        return found

    def merged(self, factor: int) -> BlockSums:
        """The same with blocks that are ``factor`` times as long; those of a scene that lie in one are not added up."""
        return replace(self, block_size=self.block_size * factor, row=self.row // factor, col=self.col // factor)

    def of(self, chosen: npt.NDArray[np.bool_]) -> BlockSums:
        """The units for which ``chosen`` (U,) is set."""
        return BlockSums(
            self.kind,
            self.block_size,
            self.scenes,
            self.scene[chosen],
            self.row[chosen],
            self.col[chosen],
            self.sums[chosen],
        )

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; where things are and what is not zero are packed (NumPy's npz, compressed, in base64)."""
        unit, cell = np.nonzero(self.sums)
        value = self.sums[unit, cell]
        whole = np.array_equal(value, np.rint(value))
        packed = io.BytesIO()
        np.savez_compressed(
            packed,
            scene=self.scene.astype(np.int32),
            row=self.row,
            col=self.col,
            unit=unit.astype(np.int32),
            cell=cell.astype(np.int32),
            value=value.astype(np.int64) if whole else value,
        )
        return {
            "kind": self.kind,
            "block_size": self.block_size,
            "cells": self.sums.shape[1],
            "scenes": [
                {
                    "name": scene.name,
                    "grid": scene.grid,
                    "origin": list(scene.origin),
                    "date": scene.date,
                    "attributes": dict(scene.attributes),
                    "shape": None if scene.shape is None else list(scene.shape),
                }
                for scene in self.scenes
            ],
            "packed": base64.b64encode(packed.getvalue()).decode(),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> BlockSums:
        """The inverse of ``to_json``."""
        with np.load(io.BytesIO(base64.b64decode(values["packed"])), allow_pickle=False) as arrays:
            sums = np.zeros((len(arrays["scene"]), values["cells"]))
            sums[arrays["unit"], arrays["cell"]] = arrays["value"]
            blocks = (arrays["scene"].astype(np.int64), arrays["row"], arrays["col"])
        scenes = tuple(
            BlockScene(**{**scene, "origin": tuple(scene["origin"]), "shape": tuple(scene.get("shape") or ()) or None})
            for scene in values["scenes"]
        )
        return cls(values["kind"], values["block_size"], scenes, *blocks, sums)


class UnitSums:
    """Adds up what a holdout's pixels count, block by block.

    Args:
        kind: kind of sums.
        num_cells: their length S.
        block_size: side of a block in pixels.
    """

    def __init__(self, kind: Kind, num_cells: int, block_size: int) -> None:
        self.kind: Kind = kind
        self.num_cells = num_cells
        self.block_size = block_size
        self.scenes: list[BlockScene] = []
        self._corner = (0, 0)
        self._keys: list[IntArray] = []
        self._parts: list[FloatArray] = []

    def begin(self, scene: BlockScene, row: int, col: int) -> None:
        """Go on with the window of ``scene`` whose first pixel is ``row``, ``col`` of it."""
        self.scenes.append(scene)
        self._corner = scene.origin[0] + row, scene.origin[1] + col

    def add(
        self, row: int, where: npt.NDArray[np.bool_], cells: npt.NDArray[Any], weights: npt.NDArray[Any] | None = None
    ) -> None:
        """Count pixels of some rows of the window.

        Args:
            row: the first of these rows, counted from the window's top.
            where: bool (rows, width), which pixels count.
            cells: int (n,), the cell that each of them counts in, in row-major order.
            weights: (n,), what each adds; 1 if not given.
        """
        if not len(cells):
            return
        rows = (self._corner[0] + row + np.arange(where.shape[0])) // self.block_size
        cols = (self._corner[1] + np.arange(where.shape[1])) // self.block_size
        across = int(cols[-1] - cols[0]) + 1
        block = ((rows - rows[0])[:, None] * across + (cols - cols[0])[None, :])[where]
        number = (int(rows[-1] - rows[0]) + 1) * across
        sums = np.bincount(block * self.num_cells + cells, weights, minlength=number * self.num_cells)
        sums = sums.reshape(number, self.num_cells)
        found = np.unique(block)
        scene = np.full(len(found), len(self.scenes) - 1, np.int64)
        self._keys.append(np.stack([scene, rows[0] + found // across, cols[0] + found % across]))
        self._parts.append(sums[found].astype(np.float64))

    def units(self) -> BlockSums:
        """Sums so far."""
        if not self._keys:
            empty = np.zeros(0, np.int64)
            sums = np.zeros((0, self.num_cells))
            return BlockSums(self.kind, self.block_size, tuple(self.scenes), empty, empty, empty, sums)
        keys, where = np.unique(np.concatenate(self._keys, 1), axis=1, return_inverse=True)
        sums = np.zeros((keys.shape[1], self.num_cells))
        np.add.at(sums, where.reshape(-1), np.concatenate(self._parts))
        return BlockSums(self.kind, self.block_size, tuple(self.scenes), keys[0], keys[1], keys[2], sums)


def paired(one: BlockSums, other: BlockSums) -> tuple[FloatArray, FloatArray]:
    """The sums of two models at the same places, each (P, S); zeros where one has counted nothing."""
    _, ours, theirs = paired_places(one, other)
    return ours, theirs


def paired_places(one: BlockSums, other: BlockSums) -> tuple[list[Place], FloatArray, FloatArray]:
    """``paired``, and which places they are."""
    ours, theirs = one.places(), other.places()
    keys = sorted(ours.keys() | theirs.keys())

    def aligned(blocks: Mapping[Place, FloatArray], size: int) -> FloatArray:
        nothing = np.zeros(size)
        return np.array([blocks.get(key, nothing) for key in keys]).reshape(len(keys), size)

    return keys, aligned(ours, one.sums.shape[1]), aligned(theirs, other.sums.shape[1])

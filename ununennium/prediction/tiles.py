"""Tiles over a region: their positions, the rows that each completes, and the weights where they overlap."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ununennium.errors import ConfigError


class Axis(NamedTuple):
    """Tiles along one axis: their first pixels, and each one's share (tiles, tile) of its pixels' prediction."""

    starts: list[int]
    shares: Tensor


def place_tiles(length: int, tile: int, overlap: int) -> Axis:
    """Place tiles over ``length`` pixels, and share every pixel among the tiles that see it."""
    stride, before = tile - overlap, overlap // 2
    starts = [number * stride - before for number in range(num_strips(length, tile, overlap))]
    ramp = torch.sin(torch.linspace(0, torch.pi / 2, 2 * overlap + 1, dtype=torch.float64)[1::2]) ** 2
    weight = torch.ones(tile, dtype=torch.float64)
    weight[:overlap] = ramp
    weight[tile - overlap :] = ramp.flip(0)
    total = torch.zeros(starts[-1] + before + tile, dtype=torch.float64)
    for start in starts:
        total[start + before : start + before + tile] += weight
    shares = [weight / total[start + before : start + before + tile] for start in starts]
    return Axis(starts, torch.stack(shares).float())


def num_strips(length: int, tile: int, overlap: int) -> int:
    """Tiles along one axis, and so the strips of rows of a region of that height."""
    return -(-length // (tile - overlap))  # the last tile reaches about half an overlap beyond the end


def rows_of_strip(number: int, height: int, tile: int, overlap: int) -> tuple[int, int]:
    """First row of a strip, and the row after its last: those that no later tile touches."""
    stride, before = tile - overlap, overlap // 2
    top = number * stride - before
    last = number == num_strips(height, tile, overlap) - 1
    return max(top, 0), height if last else top + stride


def overlap_of(tile: int, overlap: int | None) -> int:
    """The overlap in pixels; a quarter of a tile if not given."""
    return tile // 4 if overlap is None else overlap


def overlap_with(length: int, start: int, tile: int) -> tuple[slice, slice]:
    """The pixels of a tile within 0..length: as counted there, and as counted in the tile."""
    inside = slice(max(start, 0), min(start + tile, length))
    return inside, slice(inside.start - start, inside.stop - start)


def check_sizes(**sizes: int) -> None:
    """Raise a ConfigError for sizes that cannot work."""
    for name, value in sizes.items():
        if value < (0 if name == "overlap" else 1):
            raise ConfigError(name, value, "give a whole number >= " + ("0" if name == "overlap" else "1"))
    if sizes["overlap"] > sizes["tile"] // 2:
        raise ConfigError("overlap", sizes["overlap"], f"give at most half a tile, {sizes['tile'] // 2}")

"""Dealing blocks to folds by what they hold, and a block size at which that can be done."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Block = tuple[str, int, int]  # group, block row, block column
Histograms = Mapping[Block, npt.NDArray[np.int64]]

BLOCK_SIZES = (128, 64, 32, 16, 8)
"""Sides in pixels that are tried where none is given, each twice the next."""

_BLOCKS_PER_FOLD = 2  # effective blocks of a class that a fold should get
_LABELLED_BLOCKS_PER_FOLD = 10
_WORTH = 1.25  # times as many blocks of classes that a finer grid must give, as it keeps folds less apart


def assign_blocks(histograms: Histograms, shares: Mapping[int, float], seed: int) -> dict[Block, int]:
    """Deal blocks to folds so that each fold gets its share of the pixels of each class (iterative stratification).

    The blocks of the rarest class that is left are dealt first, the fullest of them before the others (Sechidis et al.
    2011), each to the fold where it makes the squared errors of all classes, relative to the fold's share, fall most.
    The result depends on the blocks, the shares and the seed alone, not on the order of scenes.

    Args:
        histograms: labelled valid pixels per class of each block, int64 (K,).
        shares: fold -> share of the pixels; they sum to 1.
        seed: decides ties.
    """
    blocks = sorted(block for block, counts in histograms.items() if counts.any())
    if not blocks:
        return {}
    order = [blocks[scene_index] for scene_index in np.random.default_rng(seed).permutation(len(blocks))]
    counts = np.array([histograms[block] for block in order], np.float64)
    # Of each class the share that a block holds; the last column is its share of the blocks.
    held = np.column_stack((counts / np.maximum(counts.sum(0), 1), np.full(len(order), 1 / len(order))))
    folds = [fold for fold, share in sorted(shares.items()) if share > 0]
    share = np.array([shares[fold] for fold in folds])
    wanted = np.outer(share, held.sum(0))
    left = np.ones(len(order), np.bool_)
    dealt: dict[Block, int] = {}
    while left.any():
        holders = (counts[left] > 0).sum(0)
        rarest = int(np.where(holders > 0, holders, holders.max() + 1).argmin())
        mine = np.flatnonzero(left & (counts[:, rarest] > 0))
        for scene_index in mine[np.argsort(-counts[mine, rarest], kind="stable")]:
            # How far sum(wanted**2) / share falls if the fold gets the block.
            fall = (2 * wanted @ held[scene_index] - held[scene_index] @ held[scene_index]) / share
            best = int(np.round(fall, 12).argmax())
            dealt[order[scene_index]] = folds[best]
            wanted[best] -= held[scene_index]
        left[mine] = False
    return {block: dealt[block] for block in blocks}


def coarsen(histograms: Histograms, factor: int) -> dict[Block, npt.NDArray[np.int64]]:
    """The histograms of blocks ``factor`` times as large."""
    found: dict[Block, npt.NDArray[np.int64]] = {}
    for (group, row, col), counts in histograms.items():
        key = group, row // factor, col // factor
        found[key] = found[key] + counts if key in found else counts
    return found


def spread(histograms: Histograms) -> npt.NDArray[np.float64]:
    """Effective number of blocks that each class lies in, float64 (K,): 1 / sum of squared shares (inverse Simpson)."""
    table = np.array(list(histograms.values()), np.float64)
    totals = np.maximum(table.sum(0), 1)
    return np.asarray(1 / np.maximum(((table / totals) ** 2).sum(0), 1e-12) * (table.sum(0) > 0))


def choose_block_size(finest: Histograms, size: int, num_folds: int) -> tuple[int, bool]:
    """The largest block size at which every class lies in enough blocks to be in every fold.

    Args:
        finest: histograms of blocks of ``size`` pixels.
        size: one of ``BLOCK_SIZES``.
        num_folds: folds that want their share.

    Returns:
        The size, and whether it is enough; if none is, the largest at which most classes can be in most folds.
    """
    best, best_score = size, -1.0
    for candidate in BLOCK_SIZES:
        if candidate < size or not finest:
            continue
        blocks = coarsen(finest, candidate // size)
        classes = spread(blocks)
        present = classes[classes > 0]
        enough = len(blocks) >= _LABELLED_BLOCKS_PER_FOLD * num_folds
        if enough and (present > _BLOCKS_PER_FOLD * num_folds - 0.01).all():
            return candidate, True
        score = float(np.minimum(present, _BLOCKS_PER_FOLD * num_folds).sum())
        if score > best_score * _WORTH:
            best, best_score = candidate, score
    return best, False
